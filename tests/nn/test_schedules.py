"""The rate over the steps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo.nn.schedules import cosine, cosine_schedule


def test_half_a_wave_from_the_top_to_the_floor() -> None:
    assert [cosine(step, 4) for step in range(5)] == pytest.approx([1, 0.5 + 0.125**0.5, 0.5, 0.5 - 0.125**0.5, 0])
    assert [cosine(step, 2, floor=0.2) for step in range(4)] == pytest.approx([1, 0.6, 0.2, 0.2])


def test_the_first_steps_go_up_in_a_line() -> None:
    found = [cosine(step, 10**9, warmup=4) for step in range(6)]
    assert found == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


@given(step=st.integers(0, 300), steps=st.integers(1, 200), warmup=st.integers(0, 50), floor=st.floats(0, 1))
def test_it_lies_between_0_and_1_and_above_the_floor_once_warm(step: int, steps: int, warmup: int, floor: float):
    share = cosine(step, steps, warmup=warmup, floor=floor)
    assert 0 <= share <= 1 + 1e-12
    assert step < warmup or share >= floor - 1e-12


def test_it_scales_the_rate_of_every_group() -> None:
    p, q = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    sgd = torch.optim.SGD([{"params": [p], "lr": 1.0}, {"params": [q], "lr": 0.1}])
    schedule = cosine_schedule(sgd, 2)
    seen = []
    for _ in range(3):
        seen.append([group["lr"] for group in sgd.param_groups])
        sgd.step()
        schedule.step()
    assert seen == [pytest.approx(rates) for rates in ([1, 0.1], [0.5, 0.05], [0, 0])]
