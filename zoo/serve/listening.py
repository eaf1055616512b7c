"""A socket, and uvicorn on it."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from zoo.errors import OptionError
from zoo.serve.settings import Settings
from zoo.text import printable


def listen(app: FastAPI, settings: Settings, announce: Callable[[str], None]) -> None:
    """Serve until interrupted. Raises ``OptionError`` for an address that can't be listened on."""
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((settings.host, settings.port))
            announce_address(settings, sock.getsockname()[1], announce)
            config = uvicorn.Config(
                app, log_level="warning", access_log=False, server_header=False, timeout_keep_alive=10,
                timeout_graceful_shutdown=5, h11_max_incomplete_event_size=64 << 10, lifespan="on", ws="none",
            )  # fmt: skip
            uvicorn.Server(config).run([sock])
    except OSError as error:
        reason = printable(error.strerror or str(error), 80).lower()
        raise OptionError(
            f"can't listen on {settings.host} port {settings.port}: {reason}; choose others with --host and --port"
        ) from None


def announce_address(settings: Settings, port: int, announce: Callable[[str], None]) -> None:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"http://{host}:{port}"
    announce(f"serving on {address} (documentation of the API: {address}/docs); Ctrl-C ends it")
    if settings.token is not None:
        announce(f"it asks for the token {settings.token}")
        if not settings.local:
            announce("note: without TLS, the token and the images travel in the clear; put a proxy with TLS before it")
