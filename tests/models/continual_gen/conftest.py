"""A stream of four tiny domains, learned once; and the recipe that learned it."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest

from zoo.data.shifts import LOOKS, draw_set
from zoo.models.continual_gen.claim import RECIPE
from zoo.models.continual_gen.data import DomainSet
from zoo.models.continual_gen.model import ContinualGen
from zoo.models.continual_gen.training import learn_stream
from zoo.training import Run

TINY = replace(RECIPE, epochs=10, retrain_epochs=14, update_epochs=4, update_lr=1e-4)


def domain(look: str, n: int = 48, seed: int = 0) -> DomainSet:
    rng = np.random.default_rng([seed, list(LOOKS).index(look)])
    return DomainSet(look, *(draw_set(LOOKS[look], count, rng) for count in (n, 24, 12)))


class Stream(NamedTuple):
    model: ContinualGen
    matrix: list[list[float]]
    domains: list[DomainSet]


@pytest.fixture(scope="session")
def learned() -> Stream:
    """Don't change it."""
    domains = [domain(name, 96) for name in ("brown", "inverted", "blue")]
    with Run(seed=3, device="cpu", progress=False) as run:
        model, matrix = learn_stream(TINY, domains, run)
    return Stream(model, matrix, domains)
