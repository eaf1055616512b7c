"""A network that trains in seconds, and its patients."""

from __future__ import annotations

import pytest

from zoo.data.case import Case
from zoo.data.phantoms.patients import patients
from zoo.models.meldd.model import MelDD, MelddConfig
from zoo.models.meldd.network import ContextConfig
from zoo.models.meldd.training import MelddRecipe, fit
from zoo.training import Run

TINY = MelddRecipe(
    network=MelddConfig(
        backbone="small", image_size=32, small_channels=(8, 12), context=ContextConfig(width=16, layers=2, ffn=24)
    ),
    pretrained=False,
    backbone_epochs=1,
    backbone_lr=2e-3,
    epochs=3,
    lr=1e-2,
    batch_size=4,
)


@pytest.fixture(scope="package")
def tiny() -> MelddRecipe:
    return TINY


@pytest.fixture(scope="package")
def people() -> list[Case]:
    """Twelve patients of 2 to 30 lesions, some with melanomas."""
    return [patients(seed, size=32, risk=0.3, artifacts="none") for seed in range(12)]


@pytest.fixture(scope="package")
def trained(people: list[Case]) -> MelDD:
    with Run(None, seed=0, device="cpu", progress=False) as run:
        return fit(TINY, people[:8], people[8:], run)
