"""How much of a model's accuracy corrupted images leave: ``zoo robustness MODEL --data SPEC``.

Every image is corrupted at its own size, before the model sees it; masks, boxes and clicks are those of the clean one.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PILImage

from zoo import figure, media
from zoo.data.case import Case
from zoo.data.corruptions import GROUPS, KINDS, SEVERITIES, corrupt
from zoo.data.images import rgb_bytes
from zoo.errors import DataError, OptionError
from zoo.evaluation import over_rows, prepared, rows_of
from zoo.model import Model
from zoo.plugin import Plugin
from zoo.storage import write_file
from zoo.text import nearest, strict_json

CLEAN = ("clean", 0)


@dataclass(frozen=True)
class Robustness:
    """``values``: corruption and severity (``("clean", 0)`` for none) to metric to its mean over the cases."""

    model: str
    weights: str
    disclaimer: str
    data: str
    split: str
    cases: int
    metric: str
    values: Mapping[tuple[str, int], Mapping[str, float]]
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def rows(self) -> list[list[str]]:
        """A line for each corruption: its name, and the metric clean and at each severity."""
        kinds = dict.fromkeys(kind for kind, severity in self.values if severity)
        clean = self.values[CLEAN][self.metric]
        return [
            [kind, f"{clean:.4f}", *(self._shown(kind, severity) for severity in self.severities)] for kind in kinds
        ]

    @property
    def severities(self) -> list[int]:
        return sorted({severity for _, severity in self.values if severity})

    def _shown(self, kind: str, severity: int) -> str:
        value = self.values.get((kind, severity), {}).get(self.metric)
        return "" if value is None else f"{value:.4f}"

    def table(self) -> str:
        """All metrics as CSV."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["corruption", "severity", "metric", "mean"])
        for (kind, severity), metrics in self.values.items():
            writer.writerows([kind, severity, name, value] for name, value in metrics.items())
        return text.getvalue()

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "weights": self.weights,
            "disclaimer": self.disclaimer,
            "data": self.data,
            "split": self.split,
            "cases": self.cases,
            "metric": self.metric,
            "values": {f"{kind} {severity}": dict(metrics) for (kind, severity), metrics in self.values.items()},
            "failures": list(self.failures),
            "notes": list(self.notes),
        }

    def figure(self) -> bytes:
        """A PNG: the metric over severity, a chart for each group of corruptions."""
        from zoo.figure import plots

        groups = {name: [k for k in kinds if (k, self.severities[0]) in self.values] for name, kinds in GROUPS.items()}
        groups = {name: kinds for name, kinds in groups.items() if kinds}
        drawing, axes = plots.canvas(
            "the figure of a robustness table", 1, len(groups), size=(3.1 * len(groups) + 0.6, 4.2),
            title=f"{self.model} on {self.data} ({self.split}, n = {self.cases}), weights: {self.weights}",
        )  # fmt: skip
        clean, x = self.values[CLEAN][self.metric], [0, *self.severities]
        highest = max(metrics[self.metric] for metrics in self.values.values() if self.metric in metrics)
        for axis, (name, kinds) in zip(axes[0], groups.items(), strict=True):
            some = [
                plots.Line(kind.replace("_", " "), x, [clean, *(self._value(kind, s) for s in self.severities)])
                for kind in kinds
            ]
            plots.lines(axis, some, title=name, x="severity", y=self.metric.replace("_", " ").replace("iou", "IoU"),
                        ylim=(0, 1.05 * highest), legend="below", whole=True)  # fmt: skip
        return plots.png(drawing)

    def _value(self, kind: str, severity: int) -> float:
        return self.values.get((kind, severity), {}).get(self.metric, float("nan"))


def robustness(
    model: str | Plugin | Model,
    data: str,
    *,
    corruptions: Sequence[str] = KINDS,
    severities: Sequence[int] = SEVERITIES,
    metric: str | None = None,
    weights: str | None = None,
    split: str = "test",
    out: str | Path | None = None,
    resume: bool = False,
    seed: int = 0,
    device: str = "auto",
    allow_seen: bool = False,
    options: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Robustness:
    """Measure a model on clean and on corrupted images of ``data``; the truth stays that of the clean ones.

    ``corruptions``: some of ``zoo.data.corruptions.KINDS``; ``metric``: the one that table and figure show, by default
    the first. ``out``: a folder for ``robustness.json``, ``robustness.csv``, ``figure.png`` and ``examples.png``;
    with ``resume`` what an interrupted run left there isn't measured again. Otherwise as :func:`zoo.evaluate`.

    Raises ``OptionError`` for an unknown corruption, severity or metric, and what ``zoo.evaluate`` raises.
    """
    for kind in corruptions:
        if kind not in KINDS:
            raise OptionError(f"there is no corruption {kind!r}; {nearest(kind, KINDS)}")
    if unknown := [severity for severity in severities if severity not in SEVERITIES]:
        raise OptionError(f"the severity of a corruption is 1 to 5, not {unknown[0]!r}")
    if not corruptions or not severities:
        raise OptionError("name at least one corruption and one severity")
    network, part, notes = prepared(model, data, weights, split, seed, device, allow_seen)
    about = network.provenance
    asked = {
        "model": network.plugin.name,
        "weights": [about.weights, about.revision],
        "data": [data, split, seed, part.ids],
        "options": {name: repr(value) for name, value in (options or {}).items()},
    }
    folder = None if out is None else Path(out)
    done = _left_by(folder, asked) if resume and folder is not None else {}
    values: dict[tuple[str, int], Mapping[str, float]] = {}
    failures: list[str] = []
    for kind, severity in (CLEAN, *((kind, severity) for kind in corruptions for severity in severities)):
        if (found := done.get(f"{kind} {severity}")) is None:
            change = partial(corrupted, kind=kind, severity=severity, seed=seed) if severity else None
            rows, failed = rows_of(network, part, options or {}, change=change, progress=progress)
            failures += [f"{kind} {severity}: {one}" for one in failed]
            if not rows:
                raise DataError(f"none of the {len(part)} cases of {data} could be evaluated; {failures[0]}")
            found = {one.name: one.mean for one in over_rows(rows, seed) if np.isfinite(one.mean)}
            done[f"{kind} {severity}"] = found
            if folder is not None:
                write_file(folder / "progress.json", json.dumps({"asked": asked, "values": done}))
        values[kind, severity] = found
    names = list(values[CLEAN])
    metric = metric or names[0]
    if metric not in names:
        raise OptionError(f"{network.plugin.name} has no metric {metric!r}; {nearest(metric, names)}")
    result = Robustness(
        network.plugin.name, about.weights, about.disclaimer, data, split, len(part), metric, values,
        tuple(failures), tuple(notes),
    )  # fmt: skip
    if folder is not None:
        write_file(folder / "robustness.csv", result.table())
        write_file(folder / "figure.png", result.figure())
        write_file(folder / "examples.png", _png(examples(part[0], corruptions, max(severities), seed)))
        write_file(folder / "robustness.json", json.dumps(result.to_dict(), indent=2, allow_nan=False) + "\n")
    return result


def corrupted(case: Case, *, kind: str, severity: int, seed: int = 0) -> Case:
    """The case with a corrupted image, as 8 bits; a grey image stays grey.

    Raises ``DataError`` for a case of several images, ``MediaError`` for a volume.
    """
    if case.images:
        raise DataError("corruptions are made for single images, not for cases of several")
    picture = media.read(case.image).require_2d("a corruption")
    own = int.from_bytes(case.id.encode()[-8:], "big") ^ seed  # every image has its own noise
    changed = corrupt(rgb_bytes(picture), kind, severity, own)
    if picture.channels == 1:
        changed = np.asarray(PILImage.fromarray(changed).convert("L"))
    return replace(case, image=media.Image(changed, picture.source, spacing=picture.spacing))


def examples(case: Case, kinds: Sequence[str], severity: int, seed: int = 0) -> PILImage.Image:
    """One image under every corruption, to look at."""
    clean = media.read(case.image).require_2d("a corruption")
    some = [figure.Tile(clean.thumbnail(figure.PANEL_SIDE), ["clean"])]
    for kind in kinds:
        changed = media.read(corrupted(case, kind=kind, severity=severity, seed=seed).image)
        some.append(figure.Tile(changed.thumbnail(figure.PANEL_SIDE), [f"{kind.replace('_', ' ')}, {severity}"]))
    return figure.tiles(some, side=1500, columns=min(5, len(some)))


def _left_by(folder: Path, asked: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """What an interrupted run measured. Raises ``OptionError`` when it asked for something else."""
    path = folder / "progress.json"
    if not path.is_file():
        return {}
    try:
        left = strict_json(path.read_text(encoding="utf-8"))
        if left["asked"] == json.loads(json.dumps(asked)):
            return dict(left["values"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise OptionError(f"{folder} holds the table of another model, set or split; choose another folder with --out")


def _png(picture: PILImage.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
