from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("flwr")


@pytest.fixture
def toy(monkeypatch):
    """The module of the toy federation."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import toy_federation

    return toy_federation
