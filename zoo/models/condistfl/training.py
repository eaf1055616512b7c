"""The federation: what a client does in a round, what the server makes of it, and how the whole is measured.

server: W, velocity v = 0
for each round r:
    every client k: student = W, teacher = W; S steps on L_sup + w_r L_ConDist
    v = m v + (W - mean of the W_k);  W = W - lr v
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from zoo.data.case import Case
from zoo.data.sets import Dataset, read_mask
from zoo.data.splits import PARTS, Split, TrainData
from zoo.data.support import named
from zoo.errors import DataError, OptionError
from zoo.federated import Best, Context, Federation, State, Update, divided, weighted_mean
from zoo.metrics import dice
from zoo.models.condistfl.data import Volumes, annotated, augmented
from zoo.models.condistfl.losses import Losses, condist_loss, marginal_loss, organ_groups
from zoo.models.condistfl.model import PAPER, CondistConfig, CondistFL, Network
from zoo.nn.schedules import cosine
from zoo.training import Run, Training

Method = Literal["condistfl", "fedopt", "fedprox", "fedavg", "fedavg-plain"]


def _number(default: float, high: float = 1e6) -> Any:
    return field(default=default, metadata={"min": 0.0, "max": high})


def _count(default: int) -> Any:
    return field(default=default, metadata={"min": 1, "max": 1_000_000})


@dataclass(frozen=True)
class CondistRecipe:
    """The paper's training; comments name the section, or say whose value it is where the paper leaves it open."""

    recipe: Literal["paper", "released"] = "paper"
    method: Method = "condistfl"
    """``fedavg``, ``fedprox``, ``fedopt``: the marginal loss without distillation; ``fedavg-plain``: FedAvg*, the
    ordinary loss, to which all that a client hasn't annotated is background."""
    network: CondistConfig = field(default_factory=lambda: PAPER)
    losses: Losses = field(default_factory=Losses)
    clients: tuple[str, ...] = ("liver+liver tumour", "spleen", "pancreas+pancreas tumour", "kidney+kidney tumour")
    """What each client has annotated, where the data don't say it (``clients:client.csv`` does)."""
    partition: str = "iid"  # then, who holds which case; or column:NAME, such as scanner
    rounds: int = _count(60)  # Sec. 4
    local_steps: int = _count(2000)  # Sec. 4
    batch_size: int = _count(4)  # patches, Sec. 3
    lr: float = _number(1e-2)  # Sec. 3
    lr_end: float = _number(1e-7)  # Sec. 3
    momentum: float = _number(0.99, 1.0)  # released, with Nesterov
    nesterov: bool = True  # released
    weight_decay: float = _number(1e-5)  # released
    clip: float | None = _number(1.0)  # largest norm of a gradient; released
    client_state: Literal["keep", "reset"] = "keep"  # of the optimiser, over the rounds; released
    weight_start: float = _number(0.01)  # w, Sec. 2.3
    weight_end: float = _number(1.0)
    mu: float = _number(0.01)  # of FedProx, Sec. 3
    server_momentum: float = _number(0.6, 1.0)  # of FedOpt and ConDistFL, Sec. 3
    server_lr: float = _number(1.0)  # open
    server_lr_end: float = _number(1.0)  # 0.9 as released
    augment: Literal["released", "none"] = "released"
    keep: Literal["last", "best"] = "last"  # round, or the best by Dice on the validation part
    dtype: Literal["float32", "float16"] = "float32"  # of the saved weights

    @property
    def opt(self) -> bool:
        """Whether the server has momentum."""
        return self.method in ("condistfl", "fedopt")

    def weight(self, round_: int) -> float:
        """w in a round, from 1: linear over the rounds (Sec. 2.3); 0 without distillation."""
        if self.method != "condistfl":
            return 0.0
        share = (round_ - 1) / max(self.rounds - 1, 1)
        return self.weight_start + (self.weight_end - self.weight_start) * share

    def rate(self, step: int) -> float:
        """The clients' learning rate at a step of all rounds, from 0."""
        share = cosine(step, self.rounds * self.local_steps)
        return self.lr_end + (self.lr - self.lr_end) * share


@runtime_checkable
class Shard(Protocol):
    """What a client works on."""

    @property
    def foreground(self) -> tuple[int, ...]: ...
    def __len__(self) -> int: ...
    def batch(self, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]: ...


# ---- a client's round ------------------------------------------------------------------------------------------------


def client(network: Network, shard: Shard, rng: np.random.Generator, context: Context, recipe: CondistRecipe) -> Update:
    """Weights in, weights out; the teacher is the network as it came."""
    teacher = copy.deepcopy(network).eval().requires_grad_(False) if recipe.method == "condistfl" else None
    received = (
        {name: p.detach().clone() for name, p in network.named_parameters()} if recipe.method == "fedprox" else {}
    )
    sgd = torch.optim.SGD(
        network.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov and recipe.momentum > 0,
    )  # fmt: skip
    if recipe.client_state == "keep":
        _restore(sgd, network, context)
    weight, losses = recipe.weight(context.round), []
    network.train()
    for step in range(recipe.local_steps):
        sgd.param_groups[0]["lr"] = recipe.rate((context.round - 1) * recipe.local_steps + step)
        x, y = shard.batch(recipe.batch_size, rng)
        if recipe.augment == "released":
            x, y = augmented(x, y, rng)
        x, y = x.to(context.device), y.to(context.device)
        loss = step_loss(network, teacher, x, y, shard.foreground, weight, recipe)
        for name, p in network.named_parameters() if received else ():
            loss = loss + recipe.mu / 2 * (p - received[name]).square().sum()
        sgd.zero_grad()
        loss.backward()
        if recipe.clip is not None:
            torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)
        sgd.step()
        losses.append(loss.detach())
    if recipe.client_state == "keep":
        state = {name: sgd.state[p].get("momentum_buffer") for name, p in network.named_parameters()}
        context.kept["momentum"] = {name: value.cpu() for name, value in state.items() if value is not None}
    return Update({"network": network}, num_examples=len(shard), loss=float(torch.stack(losses).mean()), w=weight)


def step_loss(
    network: Network, teacher: Network | None, x: Tensor, y: Tensor, foreground: Sequence[int], weight: float,
    recipe: CondistRecipe,
) -> Tensor:  # fmt: skip
    """L = L_sup + w L_ConDist (Eq. 9); L_sup is the mean over the heads, each deeper one weighing half as much."""
    classes, how = recipe.network.classes, recipe.losses
    told = tuple(range(1, len(classes) + 1)) if recipe.method == "fedavg-plain" else tuple(foreground)
    heads = network(x)
    shares = torch.tensor([0.5**depth for depth in range(len(heads))])
    shares /= shares.sum()
    loss = sum(float(share) * marginal_loss(one, y, told, how) for share, one in zip(shares, heads, strict=True))
    assert isinstance(loss, Tensor)
    if teacher is None:
        return loss
    with torch.no_grad():
        taught = teacher(x)[0]
    groups = organ_groups(classes, foreground)
    return loss + weight * condist_loss(heads[0], taught, y, foreground, groups, how)


def _restore(sgd: torch.optim.SGD, network: Network, context: Context) -> None:
    kept = context.kept.get("momentum", {})
    for name, p in network.named_parameters():
        if name in kept:
            sgd.state[p]["momentum_buffer"] = kept[name].to(context.device).clone()


# ---- the server ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FedOpt:
    """SGD with momentum on the mean of the clients' differences: v = m v + (W - mean W_k), W = W - lr v (Sec. 3).

    Every parameter has one name in ``Network``, so that none escapes the momentum. FedAvg is m = 0 and lr = 1. ``lr``
    goes to ``lr_end`` in half a cosine over the ``rounds``.
    """

    momentum: float
    lr: float = 1.0
    lr_end: float = 1.0
    rounds: int = 1

    def __call__(self, updates: Sequence[Update], state: State) -> State:
        mean = weighted_mean([update.models["network"] for update in updates], [update.weight for update in updates])
        lr = self.lr_end + (self.lr - self.lr_end) * cosine(state.round - 1, self.rounds)
        before: Mapping[str, Tensor] = state.own.get("velocity", {})
        velocity, network = {}, {}
        for name, value in state.network.items():
            change = value - mean[name]
            velocity[name] = self.momentum * before[name] + change if name in before else change
            network[name] = value - lr * velocity[name]
        return state.updated({"velocity": velocity} if self.momentum else None, network=network)


def numbers_of(names: str, classes: Sequence[str]) -> tuple[int, ...]:
    """The classes of "liver+liver tumour", by number. Raises ``OptionError`` for one that there isn't."""
    wanted = [name.strip() for name in names.split("+")]
    if unknown := [name for name in wanted if name not in classes]:
        raise OptionError(f"a client has annotated {unknown[0]!r}, which is none of {', '.join(classes)}")
    return tuple(sorted(classes.index(name) + 1 for name in wanted))


def shares_of(
    recipe: CondistRecipe, cases: Dataset, seed: int
) -> tuple[list[np.ndarray], list[tuple[int, ...]], list[Case]]:
    """Who holds which cases, and which classes it has annotated: as the data say, or as the recipe does."""
    classes, made = recipe.network.classes, named(cases)
    owners = [case.attributes.get("client") for case in made]
    if all(owner is None for owner in owners):
        foregrounds = [numbers_of(names, classes) for names in recipe.clients]
        partitions = divided(recipe.partition, cases, [0] * len(cases), len(foregrounds), 1.0, seed)
        if len(partitions) != len(foregrounds):
            raise OptionError(
                f"{recipe.partition} makes {len(partitions)} clients and {len(foregrounds)} are named; name as many"
            )
        return partitions, foregrounds, made
    if any(owner is None for owner in owners):
        raise DataError("some cases name their client and others don't; give all of them one")
    clients = sorted({int(owner) for owner in owners if owner is not None})
    partitions = [np.array([i for i, owner in enumerate(owners) if owner == one]) for one in clients]
    foregrounds = []
    for one, places in zip(clients, partitions, strict=True):
        found = set.intersection(*(set(annotated(made[int(place)], classes)) for place in places))
        if not found:
            raise DataError(f"client {one} has annotated none of {', '.join(classes)}; set network.classes")
        foregrounds.append(tuple(sorted(found)))
    return partitions, foregrounds, made


def build(recipe: CondistRecipe, data: TrainData, seed: int) -> Federation:
    """The federation of a recipe, the same in every process."""
    config = recipe.network
    if config.flat:
        raise OptionError("network.flat is for images, and the data are volumes; set it to false")
    if recipe.keep == "best" and not len(data.validation):
        raise OptionError("keep=best chooses a round on validation cases, and there are none; set keep=last")
    partitions, foregrounds, cases = shares_of(recipe, data.train, seed)

    @cache
    def shard(number: int) -> Volumes:
        own = [cases[int(place)] for place in partitions[number]]
        return Volumes.of(own, config.classes, foregrounds[number], config.view, config.patch)

    def judge(state: State) -> float:
        model = CondistFL(config).eval()
        model.network.load_state_dict(state.network)
        return mean_of_tasks([row for case in named(data.validation) for row in score(model, case, {})])

    return federation(recipe, partitions, shard, judge)


def federation(recipe: CondistRecipe, partitions: Sequence[Any], shard: Any, judge: Any = None) -> Federation:
    """Clients that count alike, for they take equally many steps (Sec. 3)."""
    momentum = recipe.server_momentum if recipe.opt else 0.0
    ends = (recipe.server_lr, recipe.server_lr_end) if recipe.opt else (1.0, 1.0)
    aggregate: Any = FedOpt(momentum, *ends, rounds=recipe.rounds)
    return Federation(
        model=partial(Network, recipe.network),
        client=partial(client, recipe=recipe),
        data=shard,
        partitions=partitions,
        rounds=recipe.rounds,
        aggregate=Best(aggregate, judge) if recipe.keep == "best" and judge is not None else aggregate,
        weights="uniform",
        target=None,
    )


def train(recipe: CondistRecipe, data: TrainData, run: Run) -> CondistFL:
    """All rounds on the run's engine; the global model."""
    from zoo.federated import federate  # needs Flower

    data = TrainData(*(getattr(data, part).in_memory() for part in PARTS))
    outcome = federate(build, recipe, data, run)
    model = CondistFL(recipe.network)
    model.network.load_state_dict(outcome.state_dict())
    return model.to(run.device).eval()


# ---- evaluation ------------------------------------------------------------------------------------------------------


def score(model: CondistFL, case: Case, options: Mapping[str, Any]) -> list[dict[str, float]]:
    """Dice on the grid of the file, by class, of those that somebody has looked for and that are there (Sec. 4).

    With ``merge_tumors=true`` an organ has its tumour in it, on both sides.
    """
    found = model.predict(case.image, **{name: value for name, value in options.items() if value is not None})
    truth, names = read_mask(case), found.labels[1:]
    row = {}
    for number, values in annotated(case, names).items():
        there = np.isin(truth, values)
        if there.any():
            row[f"{names[number - 1]} dice"] = float(dice(found.mask == number, there))
    return [{"dice": float(np.mean(list(row.values()))), **row}] if row else []


def mean_of_tasks(rows: Sequence[Mapping[str, float]]) -> float:
    """The mean over the classes of each one's mean over the cases that have it (Sec. 4); NaN without any."""
    names = sorted({name for row in rows for name in row if name.endswith(" dice")})
    means = [np.mean([row[name] for row in rows if name in row]) for name in names]
    return float(np.mean(means)) if means else float("nan")


RELEASED: dict[str, Any] = {
    "losses": {"temperature": 2.0, "cross_entropy": "probabilities", "smooth": 0.0, "conditional": "divided"},
    "rounds": 120, "local_steps": 1000, "server_lr_end": 0.9, "keep": "best",
}  # fmt: skip
DEMO: dict[str, Any] = {
    "network": {
        "filters": (8, 16, 32), "deep_heads": 0, "patch": (32, 32, 16), "view": {"spacing": (7.5, 7.5, 7.5)},
    },
    "rounds": 40, "local_steps": 18, "batch_size": 2, "lr": 5e-2, "momentum": 0.9, "augment": "none",
    "dtype": "float16",
}  # fmt: skip

training = Training(
    recipe=CondistRecipe,
    run=train,
    federation=build,
    presets={
        "paper": {},
        # organs with their tumours in them, 120 rounds (Table 3)
        "union": {
            "network": {"classes": ("liver", "spleen", "pancreas", "kidney")},
            "clients": ("liver", "spleen", "pancreas", "kidney"), "rounds": 120, "local_steps": 1000,
        },
        "demo": DEMO,
    },
    readings={"released": RELEASED},
    split=Split((0.6, 0.2, 0.2)),  # Sec. 3
    score=score,
)  # fmt: skip
