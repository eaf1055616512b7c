"""Rounds per second of Fed-CoT, with two teachers, one or none, beside a plain FedAvg round of the same network.

``python benchmarks/fed_cot.py`` writes ``benchmarks/results/``; ``--quick`` shows that it works. The plain round is
``method=fl``: the same labelled crops by the same Adam, and nothing else. Seconds are processor time of one thread, so
that other work on the machine changes little.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import Any

import contest
import machine
import torch

from zoo.data.sets import load_dataset
from zoo.data.splits import TrainData, divide
from zoo.federated import Federation, federate
from zoo.models.fed_cot.client import CoTRecipe
from zoo.models.fed_cot.training import build, training
from zoo.training import Run

RECIPE: CoTRecipe = replace(training.configure("demo"), iters=8)
ARMS: dict[str, dict[str, Any]] = {
    "FedAvg, labelled scans alone": {"method": "fl"},
    "FL+PL": {"method": "pl", "pl_round": 1},
    "one teacher (FL+MT)": {"method": "mt"},
    "Fed-CoT": {"method": "fed-cot"},
}


def without_scores(recipe: CoTRecipe, data: TrainData, seed: int) -> Federation:
    return replace(build(recipe, data, seed), evaluate=None)


def seconds(recipe: CoTRecipe, data: TrainData) -> float:
    start = time.process_time()
    with Run(None, device="cpu", progress=False) as run:
        federate(without_scores, recipe, data, run)
    return time.process_time() - start


def measure(data: TrainData, rounds: int, repeats: int) -> dict[str, float]:
    """Rounds per second: the difference of two lengths leaves out what is done once; of each the fastest repeat."""
    taken: dict[tuple[str, int], list[float]] = {}
    for _ in range(repeats):
        for name, changes in ARMS.items():
            for length in (1, 1 + rounds):
                taken.setdefault((name, length), []).append(seconds(replace(RECIPE, rounds=length, **changes), data))
    return {name: rounds / (min(taken[name, 1 + rounds]) - min(taken[name, 1])) for name in ARMS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    cases = load_dataset("phantom:flair?n=48&size=48&slices=40").in_memory()
    data = divide(cases, training.split, RECIPE)
    seconds(replace(RECIPE, rounds=1), data)  # what is done once
    result = measure(data, 1 if quick else 4, 1 if quick else 3)
    lines = [f"rounds per second, {name}: {value:.4g}" for name, value in result.items()]
    print("\n".join(lines))
    if not quick:
        facts = machine.facts()
        about = f"{facts['processor']}, one thread, torch {facts['torch']}, {facts['date']}"
        what = f"{RECIPE.iters} steps of {RECIPE.batch_l} and {RECIPE.batch_u} crops at each of three clients"
        page = "\n".join(["# fed_cot", "", f"{about}; {what}", "", *(f"- {line}" for line in lines), ""])
        contest.save("fed_cot", page, facts, [dict(result)])


if __name__ == "__main__":
    main()
