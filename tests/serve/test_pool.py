"""Models are loaded once; the least recently used goes when memory is short."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from zoo.serve.pool import Pool, size_of
from zoo.serve.settings import Settings

NAMES = ("map-vessel", "grad-align", "meldd")


class Weight(nn.Module):
    def __init__(self, values: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(values))


@pytest.fixture
def loads() -> list[str]:
    return []


def pool(loads: list[str], memory: int) -> Pool:
    def load(name: str, *, weights: str | None, device: str) -> Any:
        loads.append(name.rpartition(":")[2])
        return Weight(1000)

    return Pool(Settings(memory=memory), load)


@pytest.mark.wrong_types
def test_a_model_is_loaded_once_by_whatever_name(loads: list[str]) -> None:
    some = pool(loads, 1 << 20)
    first = some.get("map-vessel")
    assert some.get("map_vessel") is some.get("medimg-zoo:map-vessel") is first
    assert loads == ["map-vessel"]
    assert some.size == 4000


@pytest.mark.wrong_types
def test_the_least_recently_used_goes_at_the_limit(loads: list[str]) -> None:
    some = pool(loads, 9000)
    for name in (NAMES[0], NAMES[1], NAMES[0], NAMES[2]):
        some.get(name)
    assert some.size == 8000
    assert [name for name in NAMES if f"medimg-zoo:{name}" in some] == [NAMES[0], NAMES[2]]
    some.get(NAMES[1])
    assert loads == [NAMES[0], NAMES[1], NAMES[2], NAMES[1]]


@pytest.mark.wrong_types
def test_one_model_is_served_even_above_the_limit(loads: list[str]) -> None:
    some = pool(loads, 1)
    assert some.get(NAMES[0]) is some.get(NAMES[0])
    some.get(NAMES[1])
    assert loads == [NAMES[0], NAMES[1]]
    assert some.size == 4000


@pytest.mark.wrong_types
def test_a_model_that_grows_is_weighed_again(loads: list[str]) -> None:
    some = pool(loads, 1 << 20)
    model: Any = some.get(NAMES[0])
    model.cache = {"features": [torch.zeros(500)]}
    some.used(model)
    assert some.size == 6000


def test_what_stands_beside_a_model_counts_and_what_is_shared_counts_once() -> None:
    model = Weight(1000)
    model.register_buffer("mean", torch.zeros(10))
    model.twin = model.weight
    vars(model)["beside"] = [Weight(100)]  # as a frozen part that is in no state dict
    assert size_of(model) == 4 * (1000 + 10 + 100)


def test_a_model_on_a_frozen_sam_weighs_its_sam(demo_sam: Any) -> None:
    assert size_of(demo_sam) > 3_000_000  # 0.9 million values, in four bytes each


@pytest.fixture
def demo_sam() -> Any:
    pytest.importorskip("transformers")
    import zoo

    model = zoo.load("sampot", device="cpu")
    alone = size_of(model)
    model.base  # noqa: B018 - loads it
    assert size_of(model) > alone
    return model
