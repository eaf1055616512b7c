"""A server with a small model of its own: what it says is known, and it takes as long as it's told."""

from __future__ import annotations

import importlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("fastapi_offline")

from fastapi.testclient import TestClient

from tests.serve.toy import CARD, NETWORK
from zoo.serve import Settings, create_app


@pytest.fixture
def toy(install_plugin: Callable[..., Any]) -> None:
    """The model is installed, as anybody's would be."""
    (install_plugin("toy-zoo", CARD, module="toy_served") / "toy_network.py").write_text(NETWORK)
    importlib.invalidate_caches()


@pytest.fixture
def serving(toy: None) -> Callable[..., AbstractContextManager[TestClient]]:
    """``with serving(queue=2) as client``: an application with these settings, without a socket."""

    @contextmanager
    def serve(**settings: Any) -> Iterator[TestClient]:
        app = create_app(Settings(**{"models": ("toy-model",), "page": False, "device": "cpu", **settings}))
        with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
            yield client

    return serve


@pytest.fixture
def listening(toy: None) -> Callable[..., AbstractContextManager[str]]:
    """``with listening() as url``: the same behind a socket, for clients that need one."""
    import uvicorn

    @contextmanager
    def listen(**settings: Any) -> Iterator[str]:
        told = Settings(**{"models": ("toy-model",), "page": False, "device": "cpu", **settings})
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
            server = uvicorn.Server(
                uvicorn.Config(
                    create_app(told), log_level="warning", lifespan="on", ws="none", timeout_graceful_shutdown=1
                )
            )
            thread = threading.Thread(target=server.run, args=([sock],), daemon=True)
            thread.start()
            for _ in range(600):
                if server.started:
                    break
                time.sleep(0.05)
            assert server.started
            try:
                yield f"http://127.0.0.1:{port}"
            finally:
                server.should_exit = True
                thread.join(20)

    return listen
