"""The aggregation rules, the audit around them, and a client's round."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from zoo.errors import DataError
from zoo.federated import Context, State, Update
from zoo.figure.plane import Projection
from zoo.models.disbelieve.attacks import AttackSettings
from zoo.models.disbelieve.audit import Attacker, Audited
from zoo.models.disbelieve.data import measure
from zoo.models.disbelieve.result import RoundRecord
from zoo.models.disbelieve.training import DisbelieveRecipe, client
from zoo.nn.robust import rule_of


def audited(
    rule: str, vectors: torch.Tensor, attackers: int, *, buffers: Sequence[float] | None = None,
    before: State | None = None, **settings,
) -> State:  # fmt: skip
    """One round in which client i answers ``vectors[i]``, and a buffer."""
    n = len(vectors)
    values = buffers or [0.0] * n
    grads = settings.get("share") == "grads"
    updates = []
    for i in range(n):
        vector, buffer = {"w": vectors[i].float()}, {"seen": torch.tensor(values[i])}
        models = {"gradient": vector, "buffers": buffer} if grads else {"network": {**vector, **buffer}}
        update = Update(models, num_examples=1, loss=float(i))
        update.client = i
        updates.append(update)
    start = {"w": torch.zeros(vectors.shape[1]), "seen": torch.tensor(0.0)}
    state = before or State({"network": start})
    aggregate = Audited(rule_of(rule, n, attackers), ["w"], rounds=1, **settings)  # type: ignore[arg-type]
    return aggregate(updates, replace(state, round=state.round + 1))


def noted(state: State) -> RoundRecord:
    return RoundRecord(**state.own["rounds"][-1])


def clouds(seed: int = 0, n: int = 10, d: int = 30) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d))).float().double()


def test_krum_picks_four_equal_copies_inside_the_cloud_and_takes_their_buffers() -> None:
    vectors = clouds()
    vectors[[0, 1, 2, 3]] = vectors[4:].mean(0).float().double()
    state = audited("krum", vectors, 4, buffers=[float(i) for i in range(10)])
    assert noted(state).picked in range(4)
    torch.testing.assert_close(state.network["w"].double(), vectors[0], rtol=1e-6, atol=0)
    assert float(state.network["seen"]) == noted(state).picked


def test_trimmed_mean_of_ten_with_four_attackers_averages_the_middle_two() -> None:
    vectors = clouds()
    state = audited("trimmed-mean", vectors, 4, buffers=[float(i) for i in range(10)])
    expected = vectors.sort(0).values[4:6].mean(0)
    torch.testing.assert_close(state.network["w"].double(), expected, rtol=1e-5, atol=1e-6)
    assert float(state.network["seen"]) == 4.5  # the mean of all


def test_dos_sums_by_its_weights_and_keeps_them() -> None:
    vectors = clouds()
    vectors[7] += 20
    state = audited("dos", vectors, 4)
    weights = noted(state).weights
    assert sum(weights) == pytest.approx(1)
    assert int(np.argmin(weights)) == 7
    np.testing.assert_allclose(state.network["w"].numpy(), np.array(weights) @ vectors.numpy(), rtol=1e-5, atol=1e-6)


def test_fedavg_averages_by_cases() -> None:
    vectors = clouds()
    torch.testing.assert_close(audited("fedavg", vectors, 0).network["w"].double(), vectors.mean(0), rtol=1e-5,
                               atol=1e-6)  # fmt: skip


def test_gradients_go_through_adam_on_the_server_and_its_moments_outlive_a_round() -> None:
    parameter = nn.Parameter(torch.zeros(30))
    adam, state = torch.optim.Adam([parameter], lr=0.01), None
    for seed in range(5):
        vectors = clouds(seed)
        state = audited("fedavg", vectors, 0, share="grads", server_lr=0.01, before=state)
        parameter.grad = vectors.mean(0).float()
        adam.step()
    assert state is not None
    torch.testing.assert_close(state.network["w"], parameter.detach(), rtol=1e-4, atol=1e-7)
    assert int(state.own["adam"]["state"][0]["step"]) == 5


class Plain(nn.Module):
    """A linear classifier of two features whose only parameter is called w, with a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(6))
        self.seen: torch.Tensor
        self.register_buffer("seen", torch.tensor(0.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.w.view(2, 3)


@pytest.mark.parametrize("attack", ["lie", "min-max", "disbelieve"])
def test_all_controlled_clients_send_one_vector_and_nobody_else_changes(attack: str) -> None:
    vectors = clouds(d=6)
    x = torch.randn(40, 2)
    settings = AttackSettings(attack, lr=0.1, batch_size=10)  # type: ignore[arg-type]
    attacker = Attacker(settings, (1, 5, 8), (x, torch.randint(0, 3, (40,))), Plain())
    state = audited("fedavg", vectors, 3, attacker=attacker)
    record, plane = noted(state), Projection(**state.own["projection"])
    sent = np.array(plane.sent)
    assert np.ptp(sent[[1, 5, 8]], axis=0).max() < 1e-9
    assert plane.controlled == [1, 5, 8]
    assert record.distance <= record.threshold * (1 + 1e-6)
    honest = np.array(plane.honest)
    np.testing.assert_allclose(honest.mean(0), 0, atol=1e-9)  # the origin is their mean


def test_a_model_that_diverged_counts_as_chance() -> None:
    model = Plain()
    nn.init.constant_(model.w, math.nan)
    x, y = torch.randn(9, 2), torch.arange(9) % 3
    assert measure(model, x, y) == (0.5, pytest.approx(1 / 3), 0.5, True)


@pytest.mark.parametrize("share", ["params", "grads"])
def test_a_client_that_diverges_sends_back_what_it_got(share: str) -> None:
    data = (torch.full((8, 2), 1e30), torch.arange(8) % 3)
    start = {"w": torch.tensor([1e30, -1e30, 0, 0, 0, 0]), "seen": torch.tensor(0.0)}
    network = Plain()
    network.load_state_dict(start)
    recipe = DisbelieveRecipe(share=share, local_epochs=5, batch_size=4, lr=1e30)  # type: ignore[arg-type]
    context = Context(0, 1, "train", torch.device("cpu"), {"network": start}, {})
    update = client(network, data, np.random.default_rng(0), context, recipe)
    sent = update.models["network" if share == "params" else "gradient"]["w"]
    assert torch.equal(sent, start["w"] if share == "params" else torch.zeros(6))
    assert update.num_examples == 8


def test_auc_of_several_labels_is_the_mean_over_those_that_can_be_told_apart() -> None:
    model = Plain()
    model.w.data = torch.tensor([1.0, -1.0, 0.0, 0.0, 0.0, 0.0])
    x = torch.tensor([[-2.0, 0], [-1, 0], [1, 0], [2, 0]])
    y = torch.tensor([[0.0, 0, 1], [0, 0, 1], [1, 1, 1], [1, 1, 1]])  # 1.0, 0.0, and one that all have
    assert measure(model, x, y)[0] == pytest.approx(0.5)
    with pytest.raises(DataError, match="no label tells"):
        measure(model, x, torch.ones(4, 3))


def test_auc_of_one_class_is_refused() -> None:
    with pytest.raises(DataError, match="at least two"):
        measure(Plain(), torch.randn(5, 2), torch.zeros(5, dtype=torch.int64))
