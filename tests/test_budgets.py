"""What travels in every installation stays small, with 35 plugins too."""

from __future__ import annotations

from pathlib import Path

import pytest

import zoo
from zoo.conformance import MAX_DEMO_BYTES

PACKAGE = Path(zoo.__file__).parent
DEMOS = sorted(PACKAGE.glob("models/*/demo"))
MAX_BYTES = 20 << 20


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_there_are_demo_weights():
    assert len(DEMOS) >= 8


@pytest.mark.parametrize("folder", DEMOS, ids=lambda folder: folder.parent.name)
def test_a_demo_is_under_1_mib(folder: Path):
    assert 0 < size(folder) < MAX_DEMO_BYTES


def test_all_weights_are_under_20_mib():
    weights = [path for path in PACKAGE.rglob("*.safetensors") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in weights) < MAX_BYTES
