"""How a split federation trains: rounds of local epochs through client, server and client, then the aggregation."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.data.case import Case
from zoo.data.splits import Split, TrainData
from zoo.errors import DataError
from zoo.federated import Aggregation, Context, Federation, Link, State, Update
from zoo.federated.figures import client_curves
from zoo.metrics.pixels import counts
from zoo.models.splitfed_embryo.data import (
    Measured,
    Setting,
    Shard,
    SplitFedRecipe,
    classes_of,
    divide,
    held_out,
    jaccard,
    load,
    mean_of,
    measure,
    refuse,
)  # fmt: skip
from zoo.models.splitfed_embryo.model import SplitFedEmbryo, across_link
from zoo.models.splitfed_embryo.network import Part, SplitUNet, part_of
from zoo.models.splitfed_embryo.result import loss_curves
from zoo.models.splitfed_embryo.sides import (
    ClientSide,
    ServerSide,
    SplitServer,
    exchanges,
    message,
    sends,
    soft_dice,
    train_step,
)  # fmt: skip
from zoo.storage import write_file
from zoo.training import Run, Training

RATES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)  # Sec. 3.3
Data = tuple[Shard, Shard]  # of a client: training and validation


# ---- a client, in one process with its copy of the server's part -----------------------------------------------------


def client(network: SplitUNet, data: Data, rng: np.random.Generator, context: Context, setting: Setting) -> Update:
    """``train``: a round of local epochs; ``judge`` and ``mix-..``: what Fed-NCL V2 and Auto-FedAvg ask for besides."""
    shard = data[0]
    if context.exchange == "judge":
        loss = loss_of(network, shard, setting, Link(0.0, 0, 0, 0), context.device)
        return Update(num_examples=len(shard), loss=loss)
    if context.exchange.startswith("mix"):
        return Update({"gradient": mixed_gradient(network, shard, setting, context)}, num_examples=len(shard))
    loss, kept = train_locally(network, data, setting, context.client, context.round, context.device)
    return Update({"network": network}, num_examples=len(shard), loss=loss, epoch=kept)


def train_locally(
    network: SplitUNet, data: Data, setting: Setting, client: int, round_: int, device: torch.device
) -> tuple[float, int]:
    """A client's round in place (Sec. 2). Returns the mean loss of the last epoch, and which epoch is kept."""
    recipe, (shard, validation) = setting.recipe, data
    schedule, link = setting.schedule(len(shard), client, round_), setting.link(client, round_)
    side = ClientSide(network, setting.config, recipe.lr, recipe.dice == "released")
    server = ServerSide(network, setting.config, recipe.lr)
    best: tuple[float, int, dict[str, Tensor]] | None = None
    losses: list[float] = []
    for epoch in range(recipe.local_epochs):
        network.train()
        losses = []
        for step in range(epoch * schedule.per_epoch, (epoch + 1) * schedule.per_epoch):
            x, y = (part.to(device) for part in schedule.batch(shard, step))
            losses.append(train_step(side, server, x, y, link, step, recipe.leak))
        if recipe.keep_epoch == "best":
            found = loss_of(network, validation, setting, link, device, first=schedule.steps)
            if best is None or found < best[0]:
                best = found, epoch, {name: t.detach().clone() for name, t in network.state_dict().items()}
    if best is not None:
        network.load_state_dict(best[2])
    return float(np.mean(losses)), recipe.local_epochs if best is None else best[1] + 1


@torch.no_grad()
def loss_of(
    network: SplitUNet, shard: Shard, setting: Setting, link: Link, device: torch.device, first: int = 0
) -> float:
    """Mean of the batches' loss over ``link``, in evaluation mode; ``first``: step of the first one's losses."""
    network.eval()
    size, total = setting.recipe.batch_size, 0.0
    for number, start in enumerate(range(0, len(shard), size)):
        x, y = (part.to(device) for part in shard.at(np.arange(start, min(start + size, len(shard)))))
        logits = across_link(network, x, link, first + number).logits
        total += float(soft_dice(logits, y, setting.recipe.dice == "released")) * len(y)
    return total / len(shard)


def mixed_gradient(network: SplitUNet, shard: Shard, setting: Setting, context: Context) -> dict[str, Tensor]:
    """Of the loss on one batch in all parameters of the mixed network, nothing lost on the way."""
    network.train()
    step = int(context.exchange.partition("-")[2])
    schedule = setting.schedule(len(shard), context.client, context.round)
    x, y = schedule.batch(shard, step % schedule.steps)
    loss = soft_dice(network(x.to(context.device)), y.to(context.device), setting.recipe.dice == "released")
    named = dict(network.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


# ---- the federation --------------------------------------------------------------------------------------------------


def build(recipe: SplitFedRecipe, data: TrainData, seed: int) -> Federation:
    """The federation of a recipe, the same in every process."""
    refuse(recipe)
    setting = Setting(recipe, seed)
    partitions = divide(recipe.partition, data.train, recipe.shares, recipe.clients, seed)
    parts = [held_out(data.train, places, recipe.validation, seed) for places in partitions]
    if not all(len(train) for train, _ in parts):
        raise DataError("a client has no training case; use fewer clients")

    @cache
    def shards(client: int) -> Data:
        train, validation = (load(data.train.subset(places), recipe.network) for places in parts[client])
        return train, validation

    def evaluate(state: State) -> Mapping[str, float] | None:
        """The global model on what all clients held out, nothing lost."""
        held = [shard for shard in (shards(client)[1] for client in range(len(parts))) if len(shard)]
        if not held:
            return None
        network = SplitUNet(recipe.network)
        network.load_state_dict(whole(state))
        together = Shard(torch.cat([one.views for one in held]), torch.cat([one.y for one in held]))
        found = measured(network, together, recipe, Link(0.0, 0, 0, 0))
        return {"mji": found.mji, "mji-pooled": mean_of(found.pooled)}

    names = [name for name, _ in setting.initial().named_parameters()]
    rule = Aggregation(recipe.aggregation, names, literal=recipe.literal_ncl, lr=recipe.mix_lr)
    common: dict[str, Any] = {
        "data": shards, "partitions": [train for train, _ in parts], "rounds": recipe.rounds, "evaluate": evaluate,
        "target": "mask",
    }  # fmt: skip
    if recipe.wire == "messages":
        ends: tuple[Part, ...] = ("front", "back")
        steps = max(setting.schedule(len(train), 0, 0).steps for train, _ in parts)
        return Federation(
            model=lambda: SplitUNet(recipe.network, ends),
            start=lambda: {"network": part_of(setting.initial().state_dict(), recipe.network, ends)},
            client=partial(message, setting=setting),
            aggregate=SplitServer(setting, rule),
            exchanges=exchanges(steps),
            sends=sends,
            **common,
        )
    more = {"ncl-v2": ("judge",), "auto": tuple(f"mix-{k}" for k in range(recipe.mix_steps))}
    return Federation(
        model=setting.initial,
        client=partial(client, setting=setting),
        aggregate=rule,
        exchanges=("train", *more.get(recipe.aggregation, ())),
        **common,
    )


def whole(state: State) -> dict[str, Tensor]:
    """The global network's weights, the server's part included."""
    return {**state.network, **state.own.get("server", {})}


def measured(network: SplitUNet, shard: Shard, recipe: SplitFedRecipe, link: Link) -> Measured:
    network.eval()
    return measure(lambda x, step: across_link(network, x, link, step).logits, shard, len(recipe.network.labels))


def train(recipe: SplitFedRecipe, data: TrainData, run: Run) -> SplitFedEmbryo:
    """The federation; what the test part says of it goes into ``run.out``."""
    from zoo.federated import federate  # needs Flower

    refuse(recipe)
    outcome = federate(build, recipe, data, run)
    model = SplitFedEmbryo(recipe.network)
    model.network.load_state_dict(whole(outcome.state))
    if run.out is not None and run.is_main:
        write_file(
            run.out / "loss.png", client_curves(outcome.clients, "loss", "Loss of each client", "soft Dice loss")
        )
        if len(data.test):
            report(model, load(data.test, recipe.network), recipe, run.seed, run.out)
    return model.to(run.device).eval()


def report(model: SplitFedEmbryo, test: Shard, recipe: SplitFedRecipe, seed: int, out: Path) -> None:
    """``scores.json``: Jaccard of each component without loss and over a lossy link; ``packet_loss.png``: over all
    rates at the cut that was trained and at the other one, whose weights are the same."""
    labels = recipe.network.labels

    def score(rate: float, network: SplitUNet) -> Measured:
        return measured(network, test, recipe, Link(rate, seed, 0, 0))

    scores: dict[str, Any] = {"lossless": score(0.0, model.network).to_dict(labels)}
    if recipe.lossy_test:
        scores[f"packet_loss={recipe.packet_loss:g}"] = score(recipe.packet_loss, model.network).to_dict(labels)
        curves = {}
        for split in ("deep", "shallow"):
            other = SplitUNet(replace(recipe.network, split=split))
            other.load_state_dict(model.network.state_dict())
            curves[split] = [score(rate, other).mji for rate in RATES]
        write_file(out / "packet_loss.png", loss_curves(RATES, curves, recipe.network.split))
        scores["MJI over packet loss of the test pass"] = {"rates": list(RATES), **curves}
    known = json.loads(json.dumps(scores), parse_constant=lambda _: None)  # NaN: a class that the test part lacks
    write_file(out / "scores.json", json.dumps(known, indent=1) + "\n")


def score(model: SplitFedEmbryo, case: Case, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of one image in percent, at its own size; ``counts`` lets the evaluation pool pixels over all images."""
    labels = model.config.labels
    table = counts(model.predict(case.image, **options).mask, classes_of(case, labels), len(labels))
    each = jaccard(table)[1:]
    named = {f"jaccard_{name}": 100 * float(value) for name, value in zip(labels[1:], each, strict=True)}
    found = {name: value for name, value in named.items() if not math.isnan(value)}
    return {"MJI": 100 * mean_of(each), **found, "counts": table.tolist(), "labels": list(labels)}


training = Training(
    recipe=SplitFedRecipe,
    presets={
        "paper": {},
        # Small images, three clients, half of all rows lost: a few minutes on one CPU core.
        "demo": {
            "network": {"widths": (12, 24, 48), "bottleneck": 64, "image_size": 64}, "clients": 3,
            "shares": (4.0, 3.0, 2.0), "lossy_clients": 3, "rounds": 10, "local_epochs": 4, "batch_size": 8, "lr": 3e-3,
            "dtype": "float16",
        },
        "check": {
            "network": {"widths": (6, 8), "bottleneck": 8, "image_size": 32}, "clients": 2, "shares": (1.0, 1.0),
            "packet_loss": 0.1, "rounds": 4, "local_epochs": 2, "batch_size": 4, "lr": 1e-2, "dtype": "float16",
        },
    },
    # The same authors' later code; this paper's own was never released.
    readings={
        "released": {
            "link": "fixed", "flips": False, "shuffled": False, "dice": "released", "keep_epoch": "best",
            "lossy_test": False, "rounds": 10,
        }
    },
    run=train,
    federation=build,
    split=Split((0.91, 0.0, 0.09)),  # Sec. 3.1: 70 of 781 for the test; clients hold out their own
    score=score,
)  # fmt: skip
