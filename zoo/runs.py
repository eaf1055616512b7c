"""The runs that ``zoo train`` left in folders: what they were and how far they came. Needs no torch."""

from __future__ import annotations

import csv
import json
import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.errors import OptionError


@dataclass(frozen=True)
class RunFacts:
    """A run as a folder has it. ``state``: ``finished``, or where it stopped; ``scores``: of its latest evaluation,
    else the last numbers of its training."""

    folder: Path
    model: str
    data: str
    state: str
    seed: int
    scores: str


def runs(folder: str | Path) -> list[RunFacts]:
    """The runs in a folder and one level below, newest first.

    Raises ``OptionError`` where there is no such folder or it holds no run.
    """
    root = Path(folder)
    if not root.is_dir():
        raise OptionError(f"there is no folder {root}; name the one that zoo train --out wrote to")
    records = {*root.glob("run.json"), *root.glob("*/run.json"), *root.glob("*/*/run.json")}
    found = [facts for path in sorted(records, key=lambda p: -p.stat().st_mtime) if (facts := _facts(path)) is not None]
    if not found:
        raise OptionError(f"{root} holds no run of zoo train; name the folder of its --out, or the one above")
    return found


def _facts(path: Path) -> RunFacts | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        identity = record["identity"]
        model, data, seed = str(identity["model"]), str(identity["data"]), int(identity.get("seed") or 0)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    logs = read_logs(path.parent / "metrics")
    stage = list(logs)[-1] if logs else ""
    done = f"stopped at step {logs[stage][-1]['step'] + 1:.0f} of {stage}" if stage else "no step yet"
    return RunFacts(path.parent, model, data, "finished" if record.get("finished") else done, seed,
                    _scores(path.parent) or (last_numbers(logs[stage]) if stage else ""))  # fmt: skip


def _scores(folder: Path) -> str:
    try:
        record = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
        named = [f"{one['name']} {float(one['mean']):.4g}" for one in record["metrics"][:4]]
        return f"{record['split']}: {', '.join(named)}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def after(model: str, data: str, out: Path) -> str:
    """The commands that follow a training, as they can be typed."""
    weights = shlex.quote(str(out))
    return (
        f"zoo evaluate {model} --data {shlex.quote(data)} --weights {weights}\n"
        f"zoo predict {model} IMAGE --weights {weights}"
    )


def read_logs(folder: Path) -> dict[str, list[dict[str, float]]]:
    """The rows of a run's metrics by stage, the finite numbers of each by name."""
    found = {}
    for path in sorted(folder.glob("*.csv")):
        with open(path, newline="", encoding="utf-8") as file:
            rows = [{name: value for name, text in row.items() if (value := _number(text)) is not None}
                    for row in csv.DictReader(file)]  # fmt: skip
        if rows := [row for row in rows if "step" in row]:
            found[path.stem] = rows
    return found


def _number(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def last_numbers(rows: list[dict[str, float]]) -> str:
    """The latest value of each number of a stage."""
    last: dict[str, float] = {}
    for row in rows:
        last |= row
    return ", ".join(f"{name} {value:.4g}" for name, value in last.items() if name != "step")
