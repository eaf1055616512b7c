"""Eq. 1 to 3."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.models.fed_mas.prior import ClassMeans, prior_distance, rescue_factor


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 100))
def test_distance_lies_between_0_and_4_and_ignores_length(seed: int, scale: float) -> None:
    y, prior = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(seed)).unbind(0)
    distance = prior_distance(y, prior)
    assert float(distance.min()) >= -1e-5
    assert float(distance.max()) <= 4 + 1e-5
    torch.testing.assert_close(prior_distance(scale * y, prior), distance, atol=1e-4, rtol=1e-4)


def test_distance_is_0_for_the_same_direction_and_4_for_the_opposite() -> None:
    y = torch.tensor([[3.0, 4.0]])
    assert float(prior_distance(y, 2 * y)) == pytest.approx(0, abs=1e-6)
    assert float(prior_distance(y, -y)) == pytest.approx(4)


def test_distance_is_the_squared_distance_of_unit_vectors() -> None:
    y, prior = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0)).unbind(0)
    unit = torch.nn.functional.normalize(y) - torch.nn.functional.normalize(prior)
    torch.testing.assert_close(prior_distance(y, prior), unit.square().sum(1))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=4))
def test_class_means_do_not_depend_on_the_batches(sizes: list[int]) -> None:
    n = sum(sizes)
    rng = torch.Generator().manual_seed(n)
    values, labels = torch.rand(n, generator=rng), torch.randint(0, 3, (n,), generator=rng)
    parts = ClassMeans(4)
    for some, which in zip(values.split(sizes), labels.split(sizes), strict=True):
        parts.add(some, which)
    for k in range(4):
        mine = values[labels == k]
        assert float(parts.means[k]) == pytest.approx(float(mine.mean()) if len(mine) else 0.0, abs=1e-5)


def test_printed_rescue_factor_is_a_sum_over_classes() -> None:
    assert rescue_factor(torch.tensor([2.0, 0.0, 1.0]), torch.tensor([1.0, 5.0, 0.5])) == pytest.approx(2.5)


def test_normalised_rescue_factor_turns_round_who_weighs_more() -> None:
    few, many = torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.full((4,), 1.0)
    assert rescue_factor(few, few) < rescue_factor(many, many)
    assert rescue_factor(few, few, "shares") == pytest.approx(1.0)
    assert rescue_factor(many, 2 * many, "shares") == pytest.approx(0.25)  # 1 / (classes held), whatever the epochs
    assert rescue_factor(0 * few, few, "shares") == 0
