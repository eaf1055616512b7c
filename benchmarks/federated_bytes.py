"""Bytes that every federated model of the registry sends in a round, against plain FedAvg of the network that it makes.

``python benchmarks/federated_bytes.py`` trains each by its demo preset, cut to two rounds of one step where the recipe
has such fields and asked for no score that so little can't reach, and reads the ledger of the run. Then the same
network goes to as many clients and back unchanged. The table is printed and written to ``benchmarks/results/``;
``--model`` and ``--preset`` choose others. Bytes are counted, not timed, so that other work on the machine changes
nothing.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import contest
import machine
import numpy as np
from torch import nn

import zoo
from zoo import registry
from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry
from zoo.data.splits import TrainData
from zoo.errors import ZooError
from zoo.federated import Context, Federation, Update, federate
from zoo.spec import Spec
from zoo.training import Run

CASES, VOLUMES = 400, 40  # enough that every client has two of each class; bytes do not depend on more
SHORT = {
    "rounds": "2", "local_epochs": "1", "local_steps": "1", "iterations": "1", "epochs": "1", "least_steps": "1",
    "prior_steps": "1", "learned": "0", "iters": "1", "search_rounds": "1", "search_steps": "1",
}  # fmt: skip
HEADER = "| model | clients | down | up | plain FedAvg, each way | of plain FedAvg |\n|---|---:|---:|---:|---:|---:|"


@dataclass(frozen=True)
class Traffic:
    """Mean bytes of one client in one round, in all exchanges of it."""

    clients: int
    down: float
    up: float

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> Traffic:
        """From rows of a ledger; several federations of a run count as further rounds."""
        rows = list(rows)
        turns = sum(row["phase"] == rows[0]["phase"] for row in rows)
        down, up = (sum(int(row[way]) for row in rows) / turns for way in ("down", "up"))
        return cls(len({row["client"] for row in rows}), down, up)


def federated_models() -> list[str]:
    """Those of the registry whose training is a federation."""
    names = [name for name in registry.list_models() if registry.info(name).training]
    return [name for name in names if registry.part(name, "training")[1].federation is not None]


def measured(name: str, preset: str) -> tuple[Traffic, nn.Module]:
    """What a short training of the model sends, and the network that it makes."""
    card, training = registry.part(name, "training")
    count = VOLUMES if card.primary_input.kind == "volume" else CASES
    data = Spec.parse(card.weights.trained_on.split(" ")[0]).with_options(n=count)
    known = {field.name for field in fields(training.recipe)}
    with tempfile.TemporaryDirectory() as folder:
        out = zoo.train(
            name, str(data), out=Path(folder) / "run", preset=preset, device="cpu",
            overrides={field: value for field, value in SHORT.items() if field in known},
        )  # fmt: skip
        rows: list[dict[str, str]] = []
        for path in sorted((out / "metrics").glob("*-communication.csv")):
            with path.open(encoding="utf-8", newline="") as file:
                rows += csv.DictReader(file)
        model: Any = zoo.load(name, weights=str(out), device="cpu")
    network = getattr(model, "network", model)
    return Traffic.of(rows), network if isinstance(network, nn.Module) else model


def plain(network: nn.Module, clients: int) -> Traffic:
    """FedAvg: the network goes to every client and comes back, as float32."""
    cases = Dataset("none", [Entry(str(i), Case(None, str(i))) for i in range(clients)])
    data = TrainData(cases, cases.subset([]), cases.subset([]))

    def build(recipe: Any, data: TrainData, seed: int) -> Federation:
        return Federation(lambda: network, unchanged, int, [[i] for i in range(clients)], rounds=1)

    with Run(None, seed=0, device="cpu", progress=False) as run:
        return Traffic.of(federate(build, None, data, run).ledger)


def unchanged(network: nn.Module, data: int, rng: np.random.Generator, context: Context) -> Update:
    return Update({"network": network}, num_examples=1)


def kilobytes(bytes_: float) -> str:
    return f"{bytes_ / 1000:,.1f} kB" if bytes_ < 1e6 else f"{bytes_ / 1e6:,.2f} MB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", help="default: every federated model of the registry")
    parser.add_argument("--preset", default="demo")
    arguments = parser.parse_args()
    lines, cases = [HEADER], []
    for name in arguments.model or federated_models():
        try:
            sent, network = measured(name, arguments.preset)
        except ZooError as error:
            print(f"{name}: {error}")
            continue
        base = plain(network.float(), sent.clients)
        share = (sent.down + sent.up) / (base.down + base.up)
        each = kilobytes((base.down + base.up) / 2)
        lines.append(
            f"| `{name}` | {sent.clients} | {kilobytes(sent.down)} | {kilobytes(sent.up)} | {each} | {share:.3g} |"
        )
        cases.append({"model": name, "sent": vars(sent), "plain": vars(base), "share": share})
    print("\n".join(lines))
    if not arguments.model:
        facts = machine.facts()
        about = f"By the preset {arguments.preset}, {facts['date']}; bytes of one client in one round."
        contest.save("federated_bytes", "\n".join(["# federated_bytes", "", about, "", *lines, ""]), facts, cases)


if __name__ == "__main__":
    main()
