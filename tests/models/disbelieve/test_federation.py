"""Aggregators behind Flower's messages, and the strategy that audits them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn

from zoo.errors import DataError, OptionError
from zoo.federated import Federation, LocalGrid, client_id, reply
from zoo.federated.client import ZooClientApp

# isort: split
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from zoo.models.disbelieve.aggregators import DOS, aggregator
from zoo.models.disbelieve.attacks import Ascent, AttackSettings
from zoo.models.disbelieve.federation import Adam, Attacker, AuditedStrategy, ClientSettings, client_app, measure


def round_of(
    rule: str, vectors: torch.Tensor, attackers: int, *, buffers: Sequence[float] | None = None, **settings
) -> tuple[AuditedStrategy, ArrayRecord]:
    """One round in which client i answers ``vectors[i]``, and a buffer."""
    n = len(vectors)
    values = buffers or [0.0] * n
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        i = client_id(context)
        state = {"w": vectors[i].float(), "seen": torch.tensor(values[i])}
        return reply(message, state, num_examples=1, loss=float(i))

    base = aggregator(rule, n, attackers, fraction_evaluate=0.0)  # type: ignore[arg-type]
    strategy = AuditedStrategy(base, ["w"], rounds=1, **settings)
    grid = LocalGrid(app, n)
    start = ArrayRecord({"w": torch.zeros(vectors.shape[1]), "seen": torch.tensor(0.0)})
    messages = list(strategy.configure_train(1, start, ConfigRecord(), grid))
    arrays, _ = strategy.aggregate_train(1, grid.send_and_receive(messages, timeout=60))
    assert arrays is not None
    return strategy, arrays


def clouds(seed: int = 0, n: int = 10, d: int = 30) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d))).float().double()


def test_krum_picks_four_equal_copies_inside_the_cloud_and_takes_their_buffers() -> None:
    vectors = clouds()
    vectors[[0, 1, 2, 3]] = vectors[4:].mean(0).float().double()
    strategy, arrays = round_of("krum", vectors, 4, buffers=[float(i) for i in range(10)])
    assert strategy.rounds[0].picked in range(4)
    np.testing.assert_allclose(arrays["w"].numpy(), vectors[0].numpy(), rtol=1e-6)
    assert arrays["seen"].numpy() == strategy.rounds[0].picked


def test_trimmed_mean_of_ten_with_four_attackers_averages_the_middle_two() -> None:
    vectors = clouds()
    _, arrays = round_of("trimmed-mean", vectors, 4, buffers=[float(i) for i in range(10)])
    expected = vectors.sort(0).values[4:6].mean(0)
    np.testing.assert_allclose(arrays["w"].numpy(), expected.numpy(), rtol=1e-5, atol=1e-6)
    assert arrays["seen"].numpy() == 4.5  # the mean of all


@pytest.mark.parametrize(("n", "f"), [(5, 2), (7, 3), (9, 4), (29, 14), (10, 3)])
def test_trimmed_mean_drops_the_true_number_on_each_side(n: int, f: int) -> None:
    vectors = clouds(n=n)
    _, arrays = round_of("trimmed-mean", vectors, f)
    np.testing.assert_allclose(arrays["w"].numpy(), vectors.sort(0).values[f : n - f].mean(0), rtol=1e-5, atol=1e-6)


def test_dos_sums_by_its_weights_and_keeps_them() -> None:
    vectors = clouds()
    vectors[7] += 20
    strategy, arrays = round_of("dos", vectors, 4)
    weights = strategy.rounds[0].weights
    assert isinstance(strategy.aggregator, DOS)
    assert sum(weights) == pytest.approx(1)
    assert int(np.argmin(weights)) == 7
    np.testing.assert_allclose(arrays["w"].numpy(), np.array(weights) @ vectors.numpy(), rtol=1e-5, atol=1e-6)


def test_fedavg_averages() -> None:
    vectors = clouds()
    _, arrays = round_of("fedavg", vectors, 0)
    np.testing.assert_allclose(arrays["w"].numpy(), vectors.mean(0).numpy(), rtol=1e-5, atol=1e-6)


def test_gradients_go_through_adam_on_the_server() -> None:
    vectors = clouds()
    _, arrays = round_of("fedavg", vectors, 0, share="grads", server_lr=0.01)
    parameter = nn.Parameter(torch.zeros(30))
    parameter.grad = vectors.mean(0).float()
    torch.optim.Adam([parameter], lr=0.01).step()
    np.testing.assert_allclose(arrays["w"].numpy(), parameter.detach().numpy(), rtol=1e-4)


def test_adam_agrees_with_torch_over_many_steps_and_after_a_resume() -> None:
    parameter = nn.Parameter(torch.zeros(5, dtype=torch.float64))
    theirs, ours, value = torch.optim.Adam([parameter], lr=0.1), Adam(0.1), torch.zeros(5, dtype=torch.float64)
    for step in range(20):
        gradient = torch.sin(torch.arange(5, dtype=torch.float64) + step)
        parameter.grad = gradient.clone()
        theirs.step()
        value = value - ours.step(gradient)
        again = Adam(0.1)
        again.load_state_dict(ours.state_dict())
        ours = again
    torch.testing.assert_close(value, parameter.detach())


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
    settings = AttackSettings(attack, ascent=Ascent(lr=0.1, batch_size=10))  # type: ignore[arg-type]
    attacker = Attacker(settings, (1, 5, 8), (x, torch.randint(0, 3, (40,))), Plain())
    strategy, _ = round_of("fedavg", vectors, 3, attacker=attacker)
    record, plane = strategy.rounds[0], strategy.projection
    assert plane is not None
    sent = np.array(plane.sent)
    assert np.ptp(sent[[1, 5, 8]], axis=0).max() < 1e-9
    assert plane.controlled == [1, 5, 8]
    assert record.distance <= record.threshold * (1 + 1e-6)
    honest = np.array(plane.honest)
    np.testing.assert_allclose(honest.mean(0), 0, atol=1e-9)  # the origin is their mean


def test_the_record_survives_a_resume() -> None:
    strategy, _ = round_of("dos", clouds(), 4)
    other = AuditedStrategy(aggregator("dos", 10, 4), ["w"], rounds=1)
    other.load_state_dict(strategy.state_dict())
    assert str(other.rounds) == str(strategy.rounds)  # NaN equals itself as text
    assert other.projection == strategy.projection


@pytest.mark.parametrize("rule", ["fedavg", "krum", "trimmed-mean", "dos"])
def test_a_majority_of_attackers_is_refused_under_every_rule(rule: str) -> None:
    with pytest.raises(OptionError, match="use at most 4"):
        aggregator(rule, 10, 5)  # type: ignore[arg-type]


def test_a_model_that_diverged_counts_as_chance() -> None:
    model = Plain()
    nn.init.constant_(model.w, math.nan)
    x, y = torch.randn(9, 2), torch.arange(9) % 3
    assert measure(model, x, y) == (0.5, pytest.approx(1 / 3), True)


@pytest.mark.parametrize("share", ["params", "grads"])
def test_a_client_that_diverges_sends_back_what_it_got(share: str) -> None:
    data = (torch.full((8, 2), 1e30), torch.arange(8) % 3)
    app = client_app(Plain, lambda _: data, ClientSettings(share, 5, 4, 1e30))  # type: ignore[arg-type]
    grid = LocalGrid(ZooClientApp(lambda: app_federation(app), 0, "cpu"), 2)
    start = ArrayRecord({"w": torch.tensor([1e30, -1e30, 0, 0, 0, 0]), "seen": torch.tensor(0.0)})
    message = Message(RecordDict({"arrays": start}), 1, "train", group_id="1.0")
    (answer,) = grid.send_and_receive([message], timeout=60)
    sent = next(iter(answer.content.array_records.values()))["w"].numpy()
    np.testing.assert_array_equal(sent, start["w"].numpy() if share == "params" else np.zeros(6))


def app_federation(app: ClientApp) -> Federation:
    return Federation(Plain, FedAvg(fraction_evaluate=0.0), app, [[0], [1]], 1)


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
