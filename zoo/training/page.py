"""What a run's folder tells a reader: ``README.md`` and ``curves.png``."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.data.splits import PARTS, TrainData
from zoo.errors import MissingExtraError
from zoo.plugin import Plugin
from zoo.runs import after, last_numbers, read_logs
from zoo.storage import write_file

PAGE, CURVES = "README.md", "curves.png"
MARK = "<!-- written by zoo train; zoo push writes a model card in its place -->"
MOST = 12  # curves in the picture
COLUMNS = 3


def plan(plugin: Plugin, data: str, parts: TrainData, out: Path, preset: str) -> str:
    """What is said before the first step: how many cases, how long, where to, and how to go on."""
    sizes = ", ".join(f"{len(getattr(parts, part))} for {_USE[part]}" for part in PARTS)
    stated = plugin.weights.seconds if plugin.weights else None
    if preset == "demo" and stated:
        long = f"about {_time(stated)} on two CPU cores with the demo's data"
    else:
        long = "how long it takes shows beside the bar after some steps"
    return (
        f"{plugin.name} on {data}: {sizes}\n"
        f"everything goes to {out}; {long}; Ctrl-C stops it, and the same command with --resume goes on"
    )


_USE = {"train": "training", "validation": "validation", "test": "testing"}


def write(
    out: Path,
    plugin: Plugin,
    parts: TrainData,
    identity: Mapping[str, Any],
    preset: str,
    changed: Mapping[str, str],
) -> None:
    """Write both into the folder of a finished run; without matplotlib only the text."""
    logs = read_logs(out / "metrics")
    pictured = _draw(out, logs)
    given = "".join(f" --set {name}={shlex.quote(value)}" for name, value in changed.items())
    data, seed = str(identity["data"]), identity.get("seed", 0)
    command = f"zoo train {plugin.name} --data {shlex.quote(data)} --preset {preset}{given}"
    command += f" --seed {seed}" if seed else ""
    lines = [
        MARK,
        f"# {plugin.name}, trained on {data}",
        "",
        f"{plugin.title}. {sum(len(getattr(parts, part)) for part in PARTS)} cases, divided by patient: "
        + ", ".join(f"{len(getattr(parts, part))} for {_USE[part]}" for part in PARTS)
        + f". Preset `{preset}`, seed {seed}.",
        "",
        "```bash",
        f"{command} --out {shlex.quote(str(out))}",
        after(plugin.name, data, out),
        "```",
        "",
    ]
    if logs:
        lines += ["| stage | steps | last numbers |", "|---|---|---|"]
        lines += [f"| {stage} | {rows[-1]['step'] + 1:.0f} | {last_numbers(rows)} |" for stage, rows in logs.items()]
        lines += [""]
    if pictured:
        lines += [f"![curves of the training]({CURVES})", ""]
    lines += [
        "| file | holds |",
        "|---|---|",
        "| `model.safetensors`, `config.json` | the weights and what they are built from |",
        "| `split.json` | which case was for what |",
        "| `run.json` | every field of the recipe |",
        "| `metrics/` | the numbers of every step |",
        "| `evaluation.json` | the latest evaluation, once there is one |",
        "",
    ]
    write_file(out / PAGE, "\n".join(lines))


def _draw(out: Path, logs: Mapping[str, list[dict[str, float]]]) -> bool:
    """A small chart for each number of each stage."""
    from zoo.figure import plots

    series = [
        (f"{stage}: {name}", [row["step"] for row in rows if name in row], [row[name] for row in rows if name in row])
        for stage, rows in logs.items()
        for name in dict.fromkeys(name for row in rows for name in row if name != "step")
    ][:MOST]
    if not series:
        return False
    tall, wide = math.ceil(len(series) / COLUMNS), min(COLUMNS, len(series))
    try:
        drawing, axes = plots.canvas("the picture of a run", tall, wide, size=(3.6 * wide, 2.6 * tall))
    except MissingExtraError:
        return False
    for place, axis in enumerate(axes.flat):
        if place >= len(series):
            axis.set_axis_off()
            continue
        title, x, y = series[place]
        plots.lines(axis, [plots.Line("", x, y, marker="" if len(x) > 1 else "o")], title=title, x="step", least=2)
    write_file(out / CURVES, plots.png(drawing, dpi=100))
    return True


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
