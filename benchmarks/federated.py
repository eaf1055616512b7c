"""A federation of a small network: rounds per second of LocalGrid and of Flower's simulation, overhead and memory.

``python benchmarks/federated.py`` measures everything in one run and writes ``benchmarks/results/``. ``--quick`` shows
that it works. The peak of memory is that of a fresh process for each number of clients.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import contest
import machine
import numpy as np
import torch

from zoo.data.sets import load_dataset
from zoo.data.splits import Split, TrainData, split
from zoo.federated import Context, Federation, Update, federate, iid
from zoo.training import Run
from zoo.training.recipe import digest

CASES = 256


@dataclass(frozen=True)
class Recipe:
    clients: int = 10
    rounds: int = 5
    steps: int = 20  # 0: a round without training


def network() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(4),
        torch.nn.Conv2d(16, 32, 3, padding=1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(4),
        torch.nn.Flatten(), torch.nn.Linear(512, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2),
    )  # fmt: skip


def client(net: torch.nn.Module, data: int, rng: np.random.Generator, context: Context, steps: int) -> Update:
    sgd = torch.optim.SGD(net.parameters(), lr=0.01)
    for _ in range(steps):
        x = torch.from_numpy(rng.normal(size=(16, 3, 48, 48)).astype(np.float32))
        loss = torch.nn.functional.cross_entropy(net(x), (x.mean((1, 2, 3)) > 0).long())
        sgd.zero_grad()
        loss.backward()
        sgd.step()
    return Update({"network": net}, num_examples=16)


def build(recipe: Recipe, data: TrainData, seed: int) -> Federation:
    partitions = iid(len(data.train), recipe.clients, seed)
    return Federation(network, partial(client, steps=recipe.steps), int, partitions, recipe.rounds)


def seconds(recipe: Recipe, engine: str = "local") -> float:
    """Of a whole federated training, with its checkpoints."""
    import federated as this  # by the name under which a worker of the simulation imports it

    spec = f"phantom:fundus?n={CASES}"
    parts = split(load_dataset(spec), seed=0)
    source = {"data": spec, "phantom": None, "split": asdict(Split()), "cases": digest(parts)}
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder) / "run", device="cpu", progress=False, engine=engine, source=source)
        start = time.perf_counter()
        federate(this.build, this.Recipe(**asdict(recipe)), parts, run)
        return time.perf_counter() - start


def peak_memory(clients: int) -> float:
    """MB, of a process of its own."""
    command = [sys.executable, __file__, "--memory", str(clients)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def seconds_per_round(rounds: int, engine: str = "local", steps: int = Recipe.steps) -> tuple[float, float]:
    """Of a round, and to start: the difference of two lengths leaves out what an engine takes once."""
    short, long = (seconds(Recipe(rounds=n, steps=steps), engine) for n in (1, 1 + rounds))
    return (long - short) / rounds, short


def measure(rounds: int) -> dict[str, Any]:
    seconds(Recipe(rounds=1))  # imports and first allocations
    result: dict[str, Any] = {"clients": 10}
    for engine in ("local", "simulation"):
        one, start = seconds_per_round(rounds, engine)
        result[f"rounds per second, {engine}"] = 1 / one
        result[f"seconds to start, {engine}"] = start
    idle, _ = seconds_per_round(rounds, steps=0)
    result["seconds of a round without training, local"] = idle
    result["share of a round that isn't training, local"] = idle * result["rounds per second, local"]
    for clients in (10, 100):
        result[f"peak memory with {clients} clients, MB"] = peak_memory(clients)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        seconds(Recipe(clients=arguments.memory, rounds=2, steps=1))
        print(machine.peak_memory() / 1e6)
        return
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    result = measure(1 if arguments.quick else 20)
    lines = [f"{name}: {value:.4g}" for name, value in result.items()]
    print("\n".join(lines))
    if not arguments.quick:
        facts = machine.facts()
        about = f"{facts['processor']}, {facts['threads']} threads, torch {facts['torch']}, {facts['date']}"
        page = "\n".join(["# federated", "", about, "", *(f"- {line}" for line in lines), ""])
        contest.save("federated", page, facts, [result])


if __name__ == "__main__":
    main()
