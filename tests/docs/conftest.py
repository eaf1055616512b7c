"""An environment to install plugins into, and a Hub on loopback."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parents[1]


def _load(name: str, path: Path) -> ModuleType:
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture
def environment(tmp_path: Path) -> Any:
    """A fresh virtual environment with this one's libraries and zoo."""
    return _load("plugin_environment", TESTS / "examples" / "environment.py").Environment(tmp_path / "environment")


@pytest.fixture
def local_hub(environment: Any) -> Iterator[Any]:
    """A running Hub that commands in ``environment`` talk to, logged in as one who may write to ``org``."""
    server = _load("hub_server", TESTS / "hub" / "server.py")
    with server.Hub() as hub:
        environment.variables |= {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": server.OWNER}
        yield hub
