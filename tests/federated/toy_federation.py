"""A federation small enough to train in a second: a linear classifier of six numbers, with a client that counts."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry
from zoo.data.splits import TrainData
from zoo.federated import Context, Federation, HistoryPolicy, State, Update, average, federate, iid
from zoo.plugin import Input, Output, Paper, Plugin
from zoo.training import Run, Training

plugin = Plugin(
    name="toy-federated",
    title="A toy",
    summary="Tells two classes apart.",
    paper=Paper("Toy", ("A. Nobody",), "nowhere"),
    task="classification",
    modality="any",
    inputs=(Input("image", "image", "a picture", required=True),),
    outputs=(Output("label", "which class"),),
    labels=("a", "b"),
    model="toy_federation:Toy",
    training="toy_federation:training",
)


@dataclass(frozen=True)
class ToyRecipe:
    clients: int = field(default=2, metadata={"min": 1})
    rounds: int = field(default=3, metadata={"min": 1})
    steps: int = 4
    lr: float = 0.1
    crash: int = -1  # this client raises
    nan: int = -1  # this client returns NaN
    width: int = 3
    odd: int = -1  # this client has another architecture
    slow: int = -1
    timeout: float = 60.0
    min_clients: int = 1
    weights: str = "samples"
    history: bool = False
    dtype: str = "float32"


def network(width: int = 3) -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Linear(6, width), torch.nn.BatchNorm1d(width), torch.nn.Dropout(0.2), torch.nn.Linear(width, 2)
    )


def numbers(case: Case) -> np.ndarray:
    image = case.image
    if isinstance(image, str):
        from zoo import media

        image = media.read(image).grey()
    return np.asarray(image, dtype=np.float32).reshape(-1)[:6]


def build(recipe: ToyRecipe, data: TrainData, seed: int) -> Federation:
    partitions = iid(len(data.train), recipe.clients, seed)

    def tensors(client: int) -> tuple[torch.Tensor, torch.Tensor]:
        cases = data.train.subset(partitions[client])
        x = np.stack([numbers(case) for case in cases])
        return torch.from_numpy(x), torch.tensor([int(case.label == "b") for case in cases])

    def client(net: Any, data: tuple[torch.Tensor, torch.Tensor], rng: np.random.Generator, context: Context) -> Update:
        x, y = data
        who = context.client
        if context.exchange == "evaluate":
            with torch.no_grad():
                return Update(num_examples=len(x), accuracy=float((net.eval()(x).argmax(1) == y).float().mean()))
        if who == recipe.crash:
            raise ValueError("the scanner is off")
        if who == recipe.slow:
            time.sleep(0.2)
        if who == recipe.odd:
            net = network(recipe.width + 1)
        sgd = torch.optim.SGD(net.parameters(), lr=recipe.lr)
        seen = context.kept.get("seen", 0)
        for _ in range(recipe.steps):
            index = rng.integers(len(x), size=4)
            noise = torch.randn(4, 6) * 0.01 * (1 + seen)  # depends on what the client kept
            loss = torch.nn.functional.cross_entropy(net(x[index] + noise), y[index])
            sgd.zero_grad()
            loss.backward()
            sgd.step()
        context.kept["seen"] = seen + 1
        if who == recipe.nan and context.round == 2:
            torch.nn.init.constant_(net[3].bias, float("nan"))
        return Update({"network": net}, num_examples=len(x), loss=loss.item(), seen=seen, trust=1.0 + who)

    return Federation(
        model=lambda: network(recipe.width),
        client=client,
        data=tensors,
        partitions=partitions,
        rounds=recipe.rounds,
        aggregate=momentum,
        exchanges=("train", "evaluate"),
        weights=recipe.weights,
        evaluate=lambda state: {"norm": float(sum(t.double().square().sum() for t in state.network.values()))},
        min_clients=recipe.min_clients,
        timeout=recipe.timeout,
        target="label",
        history=HistoryPolicy(clients=True, dtype="float32") if recipe.history else None,
    )


def momentum(updates: list[Update], state: State) -> State:
    """FedAvgM: the server moves on in the direction of past rounds."""
    if state.exchange != "train":
        return state
    mean = average(updates, state).network
    before = state.own.get("velocity", {})
    velocity, after = {}, {}
    for name, here in state.network.items():
        if not here.is_floating_point():
            after[name] = mean[name]
            continue
        velocity[name] = here - mean[name] + 0.5 * before.get(name, 0)
        after[name] = here - velocity[name]
    return state.updated({"velocity": velocity}, network=after)


def run_training(recipe: ToyRecipe, data: TrainData, run: Run) -> torch.nn.Module:
    outcome = federate(build, recipe, data, run)
    net = network(recipe.width)
    net.load_state_dict(outcome.state_dict())
    return net


training = Training(recipe=ToyRecipe, run=run_training, federation=build)


def toy_data(n: int = 40, unlabelled: int | None = None) -> TrainData:
    """Two classes whose means differ."""
    rng = np.random.default_rng(0)
    cases = [
        Case(
            (rng.normal(size=6) + (i % 2)).astype(np.float32),
            f"case-{i}",
            label=None if i == unlabelled else "ab"[i % 2],
            attributes={"site": "north" if i % 3 else "south"},
        )
        for i in range(n)
    ]
    train = Dataset("toy:", [Entry(case.id, case) for case in cases])
    return TrainData(train, train.subset([]), train.subset([]))
