"""Rounds per second of a split federation, in one process and over messages, beside FedAvg of the same whole network.

``python benchmarks/splitfed.py`` writes ``benchmarks/results/``; ``--quick`` shows that it works. The plain round
trains the same network on the same batches by one Adam, without cut and link.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from functools import partial
from typing import Any

import contest
import machine
import numpy as np
import torch

from zoo.data.sets import load_dataset
from zoo.data.splits import TrainData, divide
from zoo.federated import Context, Federation, Update, federate
from zoo.models.splitfed_embryo.data import Setting, SplitFedRecipe
from zoo.models.splitfed_embryo.network import SplitFedConfig, SplitUNet
from zoo.models.splitfed_embryo.sides import soft_dice
from zoo.models.splitfed_embryo.training import Data, build, training
from zoo.training import Run

RECIPE = SplitFedRecipe(
    network=SplitFedConfig(widths=(12, 24, 48), bottleneck=64, image_size=64), clients=3, shares=(1.0, 1.0, 1.0),
    lossy_clients=3, local_epochs=1, batch_size=8, lr=3e-3,
)  # fmt: skip


def plain(network: SplitUNet, data: Data, rng: np.random.Generator, context: Context, setting: Setting) -> Update:
    shard = data[0]
    schedule = setting.schedule(len(shard), context.client, context.round)
    adam = torch.optim.Adam(network.parameters(), lr=setting.recipe.lr)
    network.train()
    for step in range(schedule.steps):
        x, y = schedule.batch(shard, step)
        loss = soft_dice(network(x), y)
        adam.zero_grad()
        loss.backward()
        adam.step()
    return Update({"network": network}, num_examples=len(shard))


def fedavg(recipe: SplitFedRecipe, data: TrainData, seed: int) -> Federation:
    split = build(replace(recipe, wire="joined"), data, seed)
    return replace(split, client=partial(plain, setting=Setting(recipe, seed)), evaluate=None)


def without_scores(recipe: SplitFedRecipe, data: TrainData, seed: int) -> Federation:
    return replace(build(recipe, data, seed), evaluate=None)


def seconds(recipe: SplitFedRecipe, data: TrainData, make: Any) -> float:
    start = time.perf_counter()
    with Run(None, device="cpu", progress=False) as run:
        federate(make, recipe, data, run)
    return time.perf_counter() - start


def measure(data: TrainData, rounds: int, repeats: int) -> dict[str, float]:
    """Rounds per second: the difference of two lengths leaves out what is done once; the best of some repeats."""
    arms = {
        "FedAvg, whole network": (RECIPE, fedavg),
        "split, nothing lost": (replace(RECIPE, packet_loss=0.0), without_scores),
        "split, half of all rows lost": (RECIPE, without_scores),
        "split over messages, half lost": (replace(RECIPE, wire="messages"), without_scores),
    }
    best: dict[str, float] = {}
    for _ in range(repeats):
        for name, (recipe, make) in arms.items():
            short, long = (seconds(replace(recipe, rounds=n), data, make) for n in (1, 1 + rounds))
            best[name] = max(best.get(name, 0.0), rounds / max(long - short, 1e-9))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    cases = load_dataset(f"phantom:embryo?n={30 if quick else 120}&size=64").in_memory()
    data = divide(cases, training.split, RECIPE)
    result = measure(data, 1 if quick else 3, 1 if quick else 3)
    lines = [f"rounds per second, {name}: {value:.4g}" for name, value in result.items()]
    print("\n".join(lines))
    if not quick:
        facts = machine.facts()
        about = f"{facts['processor']}, {facts['threads']} threads, torch {facts['torch']}, {facts['date']}"
        page = "\n".join(["# splitfed", "", about, "", *(f"- {line}" for line in lines), ""])
        contest.save("splitfed", page, facts, [dict(result)])


if __name__ == "__main__":
    main()
