"""What papers to come need of a federation, each in a few lines of plain torch."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from zoo.data.sets import Dataset, Entry
from zoo.data.splits import TrainData
from zoo.federated import Federation, HistoryPolicy, Update, average, federate, lossy, weighted_mean
from zoo.training import Run

CLIENTS = 3


def line() -> nn.Module:
    return nn.Linear(2, 1)


def run(client, *, rounds=2, out=None, resume=False, **fields):
    """A federation of three clients whose data are numbers around their own mean."""

    def points(i):
        rng = torch.Generator().manual_seed(i)
        x = torch.randn(6 + i, 2, generator=rng)
        return x, x.sum(1, keepdim=True) + i

    def build(recipe, data, seed):
        parts = [np.arange(6 + i) for i in range(CLIENTS)]
        return Federation(**{"model": line, "client": client, "data": points, "partitions": parts, "rounds": rounds,
                             **fields})  # fmt: skip

    return federate(build, None, NOTHING, Run(out, seed=0, device="cpu", progress=False, resume=resume))


NOTHING = TrainData(*(Dataset("nothing", []) for _ in range(3)))


def fit(net: nn.Module, data, lr: float = 0.1) -> float:
    x, y = data
    loss = F.mse_loss(net(x), y)
    gradients = torch.autograd.grad(loss, list(net.parameters()))
    with torch.no_grad():
        for parameter, gradient in zip(net.parameters(), gradients, strict=True):
            parameter -= lr * gradient
    return loss.item()


def trained(net, data, rng, context) -> Update:
    return Update({"network": net}, num_examples=len(data[0]), loss=fit(net, data))


def vector(tensors) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


def test_two_teachers_one_averaged_and_one_that_never_leaves_its_client():
    def client(student, data, rng, context):
        asynchronous, synchronous = line(), line()
        synchronous.load_state_dict(context.received["sync"])
        asynchronous.load_state_dict(context.kept.get("async", student.state_dict()))
        drift = float((vector(asynchronous.state_dict()) - vector(student.state_dict())).norm())
        loss = fit(student, data)
        for teacher, decay in ((synchronous, 0.5), (asynchronous, 0.9)):
            for theirs, ours in zip(teacher.parameters(), student.parameters(), strict=True):
                theirs.data.lerp_(ours.data, 1 - decay)
        context.kept["async"] = asynchronous.state_dict()
        return Update({"network": student, "sync": synchronous}, num_examples=len(data[0]), loss=loss, drift=drift)

    def start():
        net = line()
        return {"network": net, "sync": copy.deepcopy(net)}

    outcome = run(client, start=start, weights="uniform")
    assert outcome.state.models.keys() == {"network", "sync"}
    assert not torch.equal(outcome.state.models["sync"]["weight"], outcome.state.network["weight"])
    drifts = [row["drift"] for row in outcome.clients if row["round"] == 2]
    assert len(set(drifts)) == CLIENTS  # each client has an async-teacher of its own
    assert 0 not in drifts
    models = sum(tensor.nbytes for tensor in outcome.state.network.values())
    assert all(entry["up"] > 2 * models for entry in outcome.ledger)


def test_data_sets_are_sent_once_and_the_server_trains_on_them():
    def client(net, data, rng, context):
        x, y = data
        n = context.client + 1  # clients may send different numbers of images
        images = {"x": (x[:n] * 50).clamp(0, 255).to(torch.uint8), "y": y[:n]}
        return Update({"images": images}, num_examples=n)

    def pool(updates, state):
        sets = [update.models["images"] for update in updates]
        x, y = (torch.cat([one[name] for one in sets]) for name in "xy")
        net = line()
        net.load_state_dict(state.network)
        for _ in range(20):
            fit(net, (x.float() / 50, y), lr=0.02)
        return state.updated({"pooled": len(y)}, network=net.state_dict())

    outcome = run(client, rounds=1, aggregate=pool)
    assert outcome.state.own["pooled"] == 1 + 2 + 3
    first = outcome.state.network
    assert first["weight"].shape == (1, 2)
    sizes = [entry["up"] for entry in outcome.ledger]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 3


def test_a_servers_history_is_enough_to_forget_a_client(tmp_path):
    def recording(updates, state):
        after = average(updates, state)
        own = {"norms": [*state.own.get("norms", [])], "sums": dict(state.own.get("sums", {}))}
        deltas = {u.client: {n: t - state.network[n] for n, t in u.models["network"].items()} for u in updates}
        own["norms"].append({client: float(vector(delta).norm()) for client, delta in deltas.items()})
        for client, delta in deltas.items():
            before = own["sums"].get(client, {})
            own["sums"][client] = {name: before.get(name, 0) + t for name, t in delta.items()}
        return after.updated(own)

    policy = HistoryPolicy(clients=True, dtype="float32")
    outcome = run(trained, rounds=3, out=tmp_path / "run", aggregate=recording, weights="uniform", history=policy)
    history, own = outcome.history, outcome.state.own
    assert history.rounds == [0, 1, 2, 3]
    assert len(own["norms"]) == 3
    # the sums of all clients' contributions lead from the first model to the last, so one of them can be left out
    step = weighted_mean([own["sums"][client] for client in range(CLIENTS)], [1] * CLIENTS)
    torch.testing.assert_close(vector(history.network(0)) + vector(step), vector(outcome.state.network))
    moved = vector(history.client(1, 2)) - vector(history.network(0))
    assert float(moved.norm()) == pytest.approx(own["norms"][0][2], rel=1e-5)


def test_architecture_parameters_are_averaged_beside_weights():
    def client(net, data, rng, context):
        alpha = context.received["architecture"]["alpha"]
        context.kept["ema"] = 0.5 * context.kept.get("ema", 0) + 0.5 * vector(net.state_dict())
        loss = fit(net, data)
        mine = {"alpha": alpha + context.client, "steps": torch.tensor(context.round)}
        return Update({"network": net, "architecture": mine}, num_examples=len(data[0]), loss=loss)

    def start():
        return {"network": line(), "architecture": {"alpha": torch.zeros(3, 8), "steps": torch.tensor(0)}}

    outcome = run(client, start=start)
    found = outcome.state.models["architecture"]
    mean = (6 * 0 + 7 * 1 + 8 * 2) / 21
    torch.testing.assert_close(found["alpha"], torch.full((3, 8), 2 * mean))
    assert (found["steps"].dtype, int(found["steps"])) == (torch.int64, 2)


def test_several_exchanges_weigh_clients_by_how_the_mean_does_on_their_data():
    def client(net, data, rng, context):
        if context.exchange == "judge":
            with torch.no_grad():
                return Update(num_examples=len(data[0]), loss=F.mse_loss(net(data[0]), data[1]).item())
        return trained(net, data, rng, context)

    def aggregate(updates, state):
        if state.exchange == "train":  # the plain mean goes out to be judged
            own = {"models": {u.client: u.models["network"] for u in updates}, "cases": [u.weight for u in updates]}
            return average(updates, state).updated(own)
        scores = [u.weight * float(np.exp(-u.numbers["loss"])) for u in updates]
        models = [state.own["models"][u.client] for u in updates]
        return state.updated({"models": {}, "weights": scores}, network=weighted_mean(models, scores))

    plain, judged = run(trained), run(client, exchanges=("train", "judge"), aggregate=aggregate)
    assert {row["phase"] for row in judged.clients} == {"train", "judge"}
    assert len(judged.ledger) == 2 * len(plain.ledger)
    assert judged.rows[0]["train/loss"] == plain.rows[0]["train/loss"]
    assert "judge/loss" in judged.rows[0]
    assert not torch.equal(judged.state_dict()["weight"], plain.state_dict()["weight"])


class Split(nn.Module):
    """Front and back at the client, the middle on the server, a link that loses rows between them."""

    def __init__(self) -> None:
        super().__init__()
        self.front, self.middle, self.back = nn.Conv2d(1, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 1, 1)

    def forward(self, x, rate, rng):
        return self.back(lossy(self.middle(lossy(self.front(x), rate, rng)), rate, rng))


def split_client(net, data, rng, context, rate):
    x = torch.ones(2, 1, 8, 8)
    loss = (net(x, rate, rng) - context.client).square().mean()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    loss.backward()
    optimizer.step()
    parts = {name: part.state_dict() for name, part in net.named_children()}
    return Update({"network": net, **parts}, num_examples=1, loss=loss.item())


def test_a_split_network_trains_over_a_lossy_link_and_its_parts_may_be_averaged_apart():
    def by_part(updates, state):
        uniform = [1.0] * len(updates)
        parts = {name: weighted_mean([u.models[name] for u in updates], uniform) for name in ("front", "back")}
        parts["middle"] = updates[0].models["middle"]  # as a server that keeps one client's copy would
        network = {f"{part}.{name}": t for part, model in parts.items() for name, t in model.items()}
        return state.updated(network=network)

    lossless, lossy_ = (
        run(partial(split_client, rate=rate), model=Split, aggregate=by_part, rounds=3) for rate in (0.0, 0.6)
    )
    again = run(partial(split_client, rate=0.6), model=Split, aggregate=by_part, rounds=3)
    assert lossless.rows[-1]["train/loss"] < lossless.rows[0]["train/loss"]
    assert not torch.equal(vector(lossless.state_dict()), vector(lossy_.state_dict()))
    assert torch.equal(vector(again.state_dict()), vector(lossy_.state_dict()))  # losses come from the seed too


def test_an_exchange_may_send_some_models_alone_and_something_else_to_each_client(tmp_path):
    """As a split network's server does, with the gradients of each client's own features."""
    seen: list[tuple] = []

    def client(net, data, rng, context) -> Update:
        got = {name: float(next(iter(model.values())).sum()) for name, model in context.received.items()}
        seen.append((context.round, context.exchange, context.client, sorted(got), got.get("mine")))
        context.kept["asked"] = [*context.kept.get("asked", []), context.exchange]
        if context.exchange != "train":
            return Update({"features": {"z": torch.full((1,), float(context.client))}}, num_examples=1)
        assert context.kept["asked"][-3:] == ["up", "down", "train"]
        return Update({"network": net}, num_examples=1)

    def aggregate(updates, state):
        if state.exchange == "train":
            return average(updates, state)
        back = {u.client: {"mine": {"z": 10 + u.models["features"]["z"]}} for u in updates if u.client < 2}
        return replace(state, addressed=back)

    sends = lambda exchange: ("network",) if exchange == "up" else ()  # noqa: E731
    more = {"aggregate": aggregate, "exchanges": ("up", "down", "train"), "sends": sends}
    outcome = run(client, out=tmp_path / "run", **more)
    assert seen[:9] == [
        *((1, "up", c, ["network"], None) for c in range(3)),
        *((1, "down", c, ["mine"] if c < 2 else [], 10.0 + c if c < 2 else None) for c in range(3)),
        *((1, "train", c, ["mine"] if c < 2 else [], 10.0 + c if c < 2 else None) for c in range(3)),
    ]
    assert seen[9] == (2, "up", 0, ["network"], None)  # what was addressed goes out once, within its round
    down = {(row["client"], row["phase"]): row["down"] for row in outcome.ledger if row["round"] == 1}
    assert down[0, "down"] > down[2, "down"] < down[2, "up"]
    kept = sorted(path.name for path in (tmp_path / "run" / "clients" / "federated" / "client-0000").iterdir())
    assert kept == ["000001.000002", "000002.000002"]  # the round before, and this one's latest


def test_a_servers_momentum_goes_on_after_a_kill(tmp_path):
    def stepped(updates, state, dies=False):
        if dies and state.round == 3:
            raise KeyboardInterrupt
        mean = average(updates, state).network
        delta = {name: here - mean[name] for name, here in state.network.items()}
        velocity = {n: 0.6 * state.own.get("velocity", {}).get(n, 0) + d for n, d in delta.items()}
        network = {name: here - velocity[name] for name, here in state.network.items()}
        return replace(state.updated(network=network), own={"velocity": velocity})

    whole = run(trained, rounds=4, aggregate=stepped, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(trained, rounds=4, aggregate=partial(stepped, dies=True), out=tmp_path / "killed")
    again = run(trained, rounds=4, aggregate=stepped, out=tmp_path / "killed", resume=True)
    assert torch.equal(vector(whole.state_dict()), vector(again.state_dict()))
    assert torch.equal(vector(whole.state.own["velocity"]), vector(again.state.own["velocity"]))


def test_the_example_of_the_documentation_trains(toy):
    page = (Path(__file__).parents[2] / "docs" / "federated.md").read_text(encoding="utf-8")
    example: dict = {"__name__": "example"}
    exec(compile(page.split("```python\n")[1].split("```")[0], "federated.md", "exec", dont_inherit=True), example)
    data = toy.toy_data()
    cases = [replace(entry.case, label=int(entry.case.label == "b")) for entry in data.train.entries]
    train = Dataset("toy:", [Entry(case.id, case) for case in cases])
    with Run(None, seed=0, device="cpu", progress=False) as here:
        parts = TrainData(train, data.validation, data.test)
        network = example["training"].run(example["Recipe"](rounds=12), parts, here)
    x = torch.from_numpy(np.stack([case.image for case in cases]))
    right = network(x).argmax(1) == torch.tensor([case.label for case in cases])
    assert float(right.float().mean()) > 0.7
