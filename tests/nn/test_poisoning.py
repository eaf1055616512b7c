"""Known attacks on flat updates: what their sources promise."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.nn.poisoning import lie, lie_z, min_max
from zoo.nn.robust import squared_distances

seeds = st.integers(0, 10_000)


@pytest.mark.parametrize(("clients", "attackers", "z"), [(10, 4, 0.431), (10, 3, 0.180)])
def test_lie_moves_by_the_quantile_of_its_source(clients: int, attackers: int, z: float) -> None:
    assert lie_z(clients, attackers) == pytest.approx(z, abs=1e-3)
    updates = torch.tensor([[0.0, 1.0]] * 2 + [[2.0, 1.0]] * (attackers - 2), dtype=torch.float64)
    expected = updates.mean(0) - lie_z(clients, attackers) * updates.std(0, correction=0)
    torch.testing.assert_close(lie(updates, clients), expected)
    assert lie(updates, clients)[1] == 1  # where the clients agree, nothing moves


@given(seed=seeds, f=st.integers(2, 6), direction=st.sampled_from(["std", "sign", "unit"]))
@settings(max_examples=40, deadline=None)
def test_min_max_goes_as_far_as_its_bound_allows_and_no_further(seed: int, f: int, direction: str) -> None:
    torch.manual_seed(seed)
    updates = torch.randn(f, 12, dtype=torch.float64)
    mean, bound = updates.mean(0), squared_distances(updates).max().sqrt()
    vector = min_max(updates, direction)  # type: ignore[arg-type]

    def reach(v: torch.Tensor) -> torch.Tensor:
        return (v - updates).norm(dim=1).max()

    assert reach(vector) <= bound * (1 + 1e-9)
    assert reach(mean + 1.001 * (vector - mean)) > bound


def test_min_max_stays_where_all_clients_agree() -> None:
    updates = torch.ones(3, 5, dtype=torch.float64)
    torch.testing.assert_close(min_max(updates), updates[0])
