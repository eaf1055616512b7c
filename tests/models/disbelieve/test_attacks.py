"""The attacks on flat updates: what the paper's algorithms and their sources promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parameters_to_vector

from zoo.errors import DataError, OptionError
from zoo.models.disbelieve.attacks import (
    RELEASED,
    AttackSettings,
    closed_form_scale,
    craft,
    disbelieve_gradients,
    disbelieve_parameters,
    refuse_federation,
    released_lie,
    search_scale,
)
from zoo.nn.poisoning import spread
from zoo.nn.robust import squared_distances

seeds = st.integers(0, 10_000)
CLIMB = AttackSettings(lr=0.1, batch_size=20)


def federation(seed: int = 0, f: int = 4, scale: float = 0.05) -> tuple[torch.Tensor, nn.Module, tuple]:
    """Controlled models near each other, the network that they're of, and labelled data."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    home = parameters_to_vector(network.parameters()).detach().double()
    updates = home + scale * torch.randn(f, len(home), dtype=torch.float64)
    x = torch.randn(60, 6)
    return updates, network, (x, x[:, :3].argmax(1))


# ---- Algorithm 1 ---------------------------------------------------------------------------------------------------


@given(seed=seeds, scale=st.sampled_from([1e-3, 0.05, 0.5]), landing=st.sampled_from(["on", "inside"]))
@settings(max_examples=15, deadline=None)
def test_the_malicious_parameters_stay_in_the_ball(seed: int, scale: float, landing: str) -> None:
    updates, network, (x, y) = federation(seed, scale=scale)
    ascent = AttackSettings(lr=0.1, batch_size=20, landing=landing, ascent_epochs=10)  # type: ignore[arg-type]
    found = disbelieve_parameters(updates, network, x, y, ascent, np.random.default_rng(0))
    assert found.threshold == pytest.approx(float(squared_distances(updates).max()))
    assert float((found.vector - updates.mean(0)).square().sum()) <= found.threshold * (1 + 1e-6)


def test_projection_lands_on_the_sphere_and_raises_the_loss() -> None:
    updates, network, (x, y) = federation()
    mean = updates.mean(0)

    def loss() -> float:
        return float(nn.functional.cross_entropy(network(x), y).detach())

    torch.nn.utils.vector_to_parameters(mean.float(), network.parameters())
    before = loss()
    found = disbelieve_parameters(updates, network, x, y, CLIMB, np.random.default_rng(0))
    assert found.distance == pytest.approx(found.threshold, rel=1e-9)
    assert loss() > before + 0.1  # the network holds the malicious model
    torch.testing.assert_close(parameters_to_vector(network.parameters()).detach().double(), found.vector,
                               atol=1e-6, rtol=1e-5)  # fmt: skip


def test_the_released_ascent_ends_one_step_beyond_the_sphere() -> None:
    updates, network, (x, y) = federation(scale=0.02)
    mean = updates.mean(0)
    found = disbelieve_parameters(updates, network, x, y, AttackSettings(**RELEASED), np.random.default_rng(0))
    assert found.distance > found.threshold
    # one batch of 100 holds all 60 cases here, so every step is the whole gradient: the one before lies inside
    path, here = [], mean.float()
    for _ in range(10):
        torch.nn.utils.vector_to_parameters(here, network.parameters())
        loss = nn.functional.cross_entropy(network(x), y)
        slope = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(network.parameters()))])
        here = here + 0.1 * slope
        path.append(here.double())
    last = min(range(10), key=lambda i: float((path[i] - found.vector).norm()))
    torch.testing.assert_close(path[last], found.vector, atol=1e-5, rtol=1e-4)
    assert last == 0 or float((path[last - 1] - mean).square().sum()) < found.threshold


def test_equal_clients_leave_no_room() -> None:
    updates, network, (x, y) = federation(scale=0.0)
    found = disbelieve_parameters(updates, network, x, y, CLIMB, np.random.default_rng(0))
    torch.testing.assert_close(found.vector, updates[0])
    assert found.distance == found.threshold == 0


# ---- Algorithm 2 ---------------------------------------------------------------------------------------------------


@given(length=st.floats(0.05, 5), cosine=st.floats(-1, -0.05), room=st.floats(1.05, 20))
def test_the_corrected_search_finds_the_closed_form_where_the_mean_is_feasible(
    length: float, cosine: float, room: float
) -> None:
    mean = torch.tensor([length, 0.0], dtype=torch.float64)
    u = torch.tensor([cosine, math.sqrt(1 - cosine**2)], dtype=torch.float64)
    g_dist = room * length**2
    best = closed_form_scale(u, mean, g_dist)
    assert best is not None
    assert search_scale(u, mean, g_dist) == pytest.approx(best, abs=0.011)


def test_nothing_is_feasible_when_the_mean_is_longer_than_the_threshold() -> None:
    mean, u = torch.tensor([2.0, 0.0]), torch.tensor([-1.0, 0.0])
    assert closed_form_scale(u, mean, 1.0) is None
    assert search_scale(u, mean, 1.0) == pytest.approx(0.001, abs=1e-9)  # a gradient of almost nothing


def test_the_closed_form_finds_what_bisection_can_miss() -> None:
    mean, u = torch.tensor([5.0, 0.1]), torch.tensor([1.0, 0.0])  # feasible from 4.005 to 5.995: 500 is not, 0 neither
    assert closed_form_scale(u, mean, 1.0) == pytest.approx(5.995, abs=1e-3)


@given(length=st.floats(0.05, 5), room=st.floats(0.1, 10))
def test_the_printed_search_ends_at_the_largest_scale(length: float, room: float) -> None:
    mean, u = torch.tensor([length, 0.0]), torch.tensor([-1.0, 0.0])
    assert search_scale(u, mean, room * length**2, "as_printed") == pytest.approx(1000, abs=0.02)


def test_the_malicious_gradient_points_up_the_loss_and_keeps_within_the_smallest_distance() -> None:
    _, network, (x, y) = federation()
    parameters = list(network.parameters())
    loss = nn.functional.cross_entropy(network(x), y)
    descent = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]).double()
    honest = 0.1 * descent + torch.randn(3, len(descent), dtype=torch.float64)
    found = disbelieve_gradients(honest, network, x, y, AttackSettings(batch_size=20), np.random.default_rng(0))
    assert found.threshold == pytest.approx(spread(honest, "min"))
    cosine = nn.functional.cosine_similarity(found.vector, -descent, dim=0)
    assert cosine == pytest.approx(1, abs=1e-5)
    assert found.feasible == (float(honest.mean(0).square().sum()) <= found.threshold)


@given(length=st.floats(0.05, 0.5), cosine=st.floats(-1, -0.05), room=st.floats(1.05, 4))
def test_the_divisor_search_finds_the_corrected_scale_on_its_coarser_grid(
    length: float, cosine: float, room: float
) -> None:
    mean = torch.tensor([length, 0.0], dtype=torch.float64)
    u = torch.tensor([cosine, math.sqrt(1 - cosine**2)], dtype=torch.float64)
    best = closed_form_scale(u, mean, room * length**2)
    assert best is not None
    if best > 0.002:  # a divisor of less than 500
        assert 1 / search_scale(u, mean, room * length**2, "divisor") == pytest.approx(1 / best, abs=0.011)


def test_the_released_gradient_is_that_of_the_attackers_mean_after_a_step_of_adam() -> None:
    _, network, (x, y) = federation()
    honest = torch.randn(3, sum(p.numel() for p in network.parameters()), dtype=torch.float64)
    home = parameters_to_vector(network.parameters()).detach().clone()
    stepped = []
    for gradient in honest:
        torch.nn.utils.vector_to_parameters(home.clone(), network.parameters())
        adam = torch.optim.Adam(network.parameters(), lr=0.05)
        for p, g in zip(network.parameters(), gradient.split([p.numel() for p in network.parameters()]), strict=True):
            p.grad = g.reshape(p.shape).float()
        adam.step()
        stepped.append(parameters_to_vector(network.parameters()).detach())
    torch.nn.utils.vector_to_parameters(torch.stack(stepped).mean(0), network.parameters())
    loss = nn.functional.cross_entropy(network(x), y)  # 60 cases are fewer than a batch
    slope = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(network.parameters()))])
    torch.nn.utils.vector_to_parameters(home.clone(), network.parameters())
    settings = AttackSettings(**RELEASED, server_lr=0.05)
    found = disbelieve_gradients(honest, network, x, y, settings, np.random.default_rng(0))
    assert nn.functional.cosine_similarity(found.vector, -slope.double(), dim=0) == pytest.approx(1, abs=1e-5)
    assert torch.equal(parameters_to_vector(network.parameters()), home)


@pytest.mark.parametrize(("attackers", "z"), [(3, 0.52), (4, 0.84)])
def test_released_lie_goes_the_other_way_by_the_table(attackers: int, z: float) -> None:
    updates = torch.randn(attackers, 5, dtype=torch.float64)
    torch.testing.assert_close(released_lie(updates, 10), updates.mean(0) + z * updates.std(0))
    with pytest.raises(OptionError, match="no z for 2 attackers of 10 clients, only for 3 of 10, 4 of 10"):
        released_lie(updates[:2], 10)


def test_inner_steps_sum_gradients_along_an_ascent_and_leave_the_network_as_it_was() -> None:
    updates, network, (x, y) = federation()
    before = parameters_to_vector(network.parameters()).detach().clone()
    one = disbelieve_gradients(updates, network, x, y, AttackSettings(inner_steps=1), np.random.default_rng(0))
    many = disbelieve_gradients(updates, network, x, y, AttackSettings(inner_steps=9), np.random.default_rng(0))
    assert torch.equal(parameters_to_vector(network.parameters()), before)
    assert not torch.allclose(one.vector / one.vector.norm(), many.vector / many.vector.norm(), atol=1e-3)


# ---- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clients", "attackers", "attack", "words"),
    [
        (10, 5, "lie", "5 attackers of 10 clients are a majority or half.*at most 4"),
        (10, 1, "disbelieve", "at least 2 attackers, not 1"),
        (1, 0, "none", "at least 2 clients, not 1"),
    ],
)
def test_impossible_federations_are_refused_in_one_sentence(
    clients: int, attackers: int, attack: str, words: str
) -> None:
    with pytest.raises(OptionError, match=words):
        refuse_federation(clients, attackers, attack)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda u, d: (u[:, :5], d), "don't fit a network of 83 parameters"),
        (lambda u, d: (u * math.nan, d), "not finite"),
        (lambda u, d: (u, (d[0][:0], d[1][:0])), "hold no data"),
    ],
)
def test_what_can_not_be_crafted_from_is_refused(change, words: str) -> None:
    updates, network, data = federation()
    updates, data = change(updates, data)
    with pytest.raises(DataError, match=words):
        craft(updates, network, data, "params", clients=10, settings=AttackSettings("disbelieve"),
              rng=np.random.default_rng(0))  # fmt: skip


def test_several_labels_are_attacked_through_binary_cross_entropy() -> None:
    updates, network, (x, y) = federation()
    several = nn.functional.one_hot(y, 3).float()
    found = disbelieve_parameters(updates, network, x, several, CLIMB, np.random.default_rng(0))
    torch.nn.utils.vector_to_parameters(updates.mean(0).float(), network.parameters())
    before = nn.functional.binary_cross_entropy_with_logits(network(x), several)
    torch.nn.utils.vector_to_parameters(found.vector.float(), network.parameters())
    assert nn.functional.binary_cross_entropy_with_logits(network(x), several) > before
