from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def toy(monkeypatch):
    """The module of the toy plugin."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import toy_plugin

    return toy_plugin


@pytest.fixture
def squares(toy, tmp_path):
    return toy.write_squares(tmp_path / "squares")
