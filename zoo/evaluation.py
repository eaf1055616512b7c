"""Measuring a model on a data set: ``zoo evaluate MODEL --data SPEC``."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo import registry
from zoo.data.case import Case
from zoo.data.images import place_of
from zoo.data.seen import Seen
from zoo.data.sets import Dataset
from zoo.data.splits import TrainData
from zoo.errors import DataError, OptionError, ZooError, noting
from zoo.metrics import Metric, over_answers, over_cases, over_operating_point, over_set, segmentation_scores
from zoo.metrics.pixels import over_counts, over_several
from zoo.model import Model
from zoo.plugin import Plugin
from zoo.training import Training


@dataclass(frozen=True)
class Evaluation:
    """What a model achieved on a data set. ``rows`` are the cases; ``failures`` those that couldn't be predicted."""

    model: str
    weights: str
    disclaimer: str
    data: str
    split: str
    seed: int
    metrics: tuple[Metric, ...]
    rows: tuple[Mapping[str, Any], ...]
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Metric:
        """A metric by name."""
        return {metric.name: metric for metric in self.metrics}[name]

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "weights": self.weights,
            "disclaimer": self.disclaimer,
            "data": self.data,
            "split": self.split,
            "seed": self.seed,
            "cases": len(self.rows),
            "metrics": [metric.to_dict() for metric in self.metrics],
            "failures": list(self.failures),
            "notes": list(self.notes),
        }

    def table(self) -> str:
        """The cases as CSV."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()

    def save(self, folder: str | Path) -> list[Path]:
        """Write ``evaluation.json``, ``cases.csv`` and ``figure.png``, each whole or not at all."""
        from zoo.storage import write_file

        folder = Path(folder)
        return [
            write_file(folder / "cases.csv", self.table()),
            write_file(folder / "figure.png", figure(self)),
            self.save_record(folder),
        ]

    def save_record(self, folder: Path) -> Path:
        """Write ``evaluation.json`` alone."""
        from zoo.storage import write_file

        return write_file(folder / "evaluation.json", json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n")


def evaluate(
    model: str | Plugin | Model,
    data: str,
    *,
    weights: str | None = None,
    split: str = "test",
    out: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    allow_seen: bool = False,
    options: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Evaluation:
    """Predict the cases of ``data`` and compare them with the truth, by the measures of the model's task.

    ``split``: ``train``, ``validation``, ``test`` or ``all``. Weights that were trained on the same data bring the
    split of their training along, whatever the data are called: the test is what they didn't see. Otherwise the set's
    own splits count, or one drawn with ``seed``. Cases that the weights saw are refused unless ``allow_seen``.
    ``out``: a folder for ``evaluation.json``, ``cases.csv`` and ``figure.png``. ``options`` go to ``predict``.

    Raises ``DataError`` when the set lacks what the task needs, the weights saw its cases or none could be predicted,
    ``OptionError`` for an unknown split.
    """
    network, part, notes = prepared(model, data, weights, split, seed, device, allow_seen)
    plugin = network.plugin
    with noting(notes):
        rows, failures = rows_of(network, part, options or {}, progress=progress)
    if not rows:
        raise DataError(f"none of the {len(part)} cases of {data} could be evaluated; the first: {failures[0]}")
    metrics = over_rows(rows, seed)
    if unlike := {row["id"] for row in rows if row.get("unlike_training_images")}:
        notes.append(f"{len(unlike)} cases are unlike the training images, such as {min(unlike)}")
    provenance = network.provenance
    result = Evaluation(
        plugin.name, provenance.weights, provenance.disclaimer, data, split, seed,
        tuple(metrics), tuple(rows), tuple(failures), tuple(dict.fromkeys(notes)),
    )  # fmt: skip
    if out is not None:
        result.save(out)
        if weights and (Path(weights) / "run.json").is_file():  # where `zoo runs` finds it
            with suppress(DataError):  # the weights may lie where nothing can be written
                result.save_record(Path(weights))
    return result


def prepared(
    model: str | Plugin | Model, data: str, weights: str | None, split: str, seed: int, device: str, allow_seen: bool
) -> tuple[Model, Dataset, list[str]]:
    """The network in eval mode, the cases to measure it on, and what a reader of the numbers should know of them.

    Takes and raises what :func:`evaluate` does.
    """
    from zoo.data.check import require
    from zoo.data.patients import by_patient
    from zoo.data.sets import load_dataset

    network, plugin = _network(model, weights, device)
    dataset = load_dataset(data, plugin=plugin)
    part, notes = _part(dataset, split, weights, seed, network, plugin, allow_seen)
    if not len(part):
        raise DataError(f"the {split} part of {data} is empty")
    require(part, plugin) if plugin.task == "segmentation" else require(part)
    return network, by_patient(part) if plugin.primary_input.kind == "images" else part, notes


def rows_of(
    network: Model,
    part: Dataset,
    options: Mapping[str, Any],
    *,
    change: Callable[[Case], Case] | None = None,
    progress: bool = True,
) -> tuple[list[dict[str, Any]], list[str]]:
    """What the plugin's score says of every case, and the cases that couldn't be predicted.

    ``change``: what is done to a case before it's predicted, such as corrupting its image.
    """
    from zoo.progress import track

    score = _score_of(network.plugin)
    rows: list[dict[str, Any]] = []
    failures: list[str] = []
    for place in track(range(len(part)), f"evaluating {network.plugin.name}", enabled=progress):
        entry = part.entries[place]
        row: dict[str, Any] = {"id": entry.id}
        if entry.patient is not None:
            row["patient"] = entry.patient
        try:
            case = part[place] if change is None else change(part[place])
            scores = score(network, case, options)
        except ZooError as error:
            failures.append(f"{entry.id}: {error}")
            continue
        if (verdict := getattr(network, "verdict", None)) is not None:
            row["unlike_training_images"] = verdict.unlike
        rows += [{**row, **one} for one in (scores if isinstance(scores, list) else [scores])]
    return rows, failures


def figure(evaluation: Evaluation) -> bytes:
    """A PNG: every case as a dot, the mean and its interval beside it; for classes also the confusion matrix."""
    from zoo.figure import plots

    rows = evaluation.rows
    classes = [name.removeprefix("p_") for name in rows[0] if name.startswith("p_")]
    metrics = [metric for metric in evaluation.metrics if math.isfinite(metric.mean)][:12]
    height = 1.7 + 0.42 * len(metrics)
    drawing, axes = plots.canvas(
        "the figure of an evaluation", 1, 2 if classes else 1, widths=[1.5, 1] if classes else None,
        size=(10.5, max(height, 3.6)) if classes else (7.2, height),
        title=f"{evaluation.model} on {evaluation.data} ({evaluation.split}, n = {len(rows)})",
    )  # fmt: skip
    some = [
        plots.Interval(metric.name.replace("_", " "), metric.mean, metric.low, metric.high,
                       [row[metric.name] for row in rows if isinstance(row.get(metric.name), float)])
        for metric in metrics
    ]  # fmt: skip
    dots = "orange: value" if "truth" in rows[0] else "blue: cases, orange: mean"
    plots.intervals(axes[0, 0], some, x=f"{dots}, bar: 95 % bootstrap interval over cases")
    if classes:
        counts = np.zeros((len(classes), len(classes)), dtype=int)
        for row in rows:
            counts[classes.index(row["truth"]), classes.index(row["predicted"])] += 1
        plots.confusion(axes[0, 1], counts, classes)
    return plots.png(drawing)


def _network(model: Any, weights: str | None, device: str) -> tuple[Model, Plugin]:
    from zoo.plugin import Plugin

    if isinstance(model, str):
        from zoo.inference import load

        network = load(model, weights=weights, device=device)
    elif isinstance(model, Plugin):
        from zoo.loading import load_into, pick_device

        spec = weights or ("demo" if model.weights else "none")
        network = load_into(registry.part(model, "model")[1], spec, pick_device(device))
    else:
        network = model
    network.eval()
    return network, network.plugin


def _part(
    dataset: Dataset, name: str, weights: str | None, seed: int, network: Model, plugin: Plugin, allow: bool
) -> tuple[Dataset, list[str]]:
    """The cases to evaluate on, and what a reader of the numbers should know about their choice."""
    from zoo.data.splits import PARTS, load_split

    if name not in (*PARTS, "all"):
        raise OptionError(f"split must be one of {', '.join(PARTS)} or all, not {name!r}")
    if network.seen is not None:
        return _unseen(dataset, name, seed, network.seen, plugin, allow)
    trained_here = network.provenance.trained_on == dataset.spec
    if name == "all":
        return dataset, ["the weights were trained on part of these cases"] if trained_here else []
    record = Path(weights or "") / "split.json"
    if weights and record.is_file() and trained_here:
        return getattr(load_split(dataset, record), name), ["split as in the training of these weights"]
    notes = ["the weights were trained on this data; that it's the same split can't be shown"] if trained_here else []
    if not notes and network.provenance.weights != "none":
        notes = ["the weights come without a list of the cases they saw, so that none is among these can't be shown"]
    return getattr(_divided(dataset, plugin, seed), name), notes


def _divided(dataset: Dataset, plugin: Plugin, seed: int) -> TrainData:
    from zoo.data.splits import Split, divide

    training = _training_of(plugin)
    how, recipe = (training.split, training.recipe()) if training is not None else (Split(), None)
    return divide(dataset, how, recipe, seed)


def _unseen(
    dataset: Dataset, name: str, seed: int, seen: Seen, plugin: Plugin, allow: bool
) -> tuple[Dataset, list[str]]:
    """The cases to evaluate on where it's known what the weights saw."""
    marks = dict(zip(dataset.ids, seen.marks(dataset), strict=True))
    notes = []
    if name == "all":
        part = dataset
    elif not any(marks.values()) or any(entry.split for entry in dataset.entries):
        part = getattr(_divided(dataset, plugin, seed), name)
    else:
        wanted = "" if name == "test" else name
        part = dataset.subset(place for place, mark in enumerate(marks.values()) if mark == wanted)
        notes = [f"split as in the training of these weights: {len(part)} of {len(dataset)} cases are its {name} part"]
        if not len(part):
            raise DataError(f"the weights saw all {len(dataset)} cases of {dataset.spec}; measure them on other data")
    overlap = [one for one in part.ids if marks[one]]
    if overlap and not allow:
        raise DataError(
            f"the weights saw {len(overlap)} of these {len(part)} cases, or others of their patients, such as "
            f"{overlap[0]}; measure them on other cases (--split test), or ask for it with --allow-seen"
        )
    if overlap:
        notes.append(f"the weights saw {len(overlap)} of these {len(part)} cases or others of their patients")
    elif name == "test" and notes:
        notes = [f"{notes[0]}, which the weights didn't see"]
    return part, notes


def _training_of(plugin: Plugin) -> Training | None:
    return registry.part(plugin, "training")[1] if plugin.training else None


def _score_of(plugin: Plugin) -> Any:
    """How the model is measured on one case: the plugin's own way, or that of its task."""
    training = _training_of(plugin)
    if training is not None and training.score is not None:
        return training.score
    try:
        return {"segmentation": _segmentation, "classification": _classification}[plugin.task]
    except KeyError:
        raise OptionError(f"{plugin.name} can't be evaluated: its training states no score for {plugin.task}") from None


def _segmentation(model: Model, case: Case, options: Mapping[str, Any]) -> dict[str, float]:
    from zoo.data.sets import read_mask

    prediction = model.predict(case if case.images else case.image, **options)
    inside = read_mask(case, "fov") > 0 if "fov" in case.masks else None
    mask, labels, probability = prediction.mask, prediction.labels, prediction.probability  # type: ignore[attr-defined]
    return segmentation_scores(mask, read_mask(case), labels, probability=probability, inside=inside)


def _classification(model: Model, case: Case, options: Mapping[str, Any]) -> dict[str, Any]:
    prediction = model.predict(case if case.images else case.image, **options)
    probabilities: dict[str, float] = prediction.probabilities  # type: ignore[attr-defined]
    names = list(probabilities)
    place = place_of(case.label, names)
    if place is None:
        raise DataError(f"the label {case.label!r} isn't one of {', '.join(names)}")
    predicted = max(names, key=lambda name: probabilities[name])
    row = {"truth": names[place], "predicted": predicted}
    return {**row, **{f"p_{name}": float(probabilities[name]) for name in names}}


def over_rows(rows: Sequence[Mapping[str, Any]], seed: int = 0) -> list[Metric]:
    """The measures of what ``score`` returned, with intervals by resampling cases, or patients where rows name one.

    Rows with ``truth``, ``predicted`` and ``p_<label>`` are of a classification; beside its measures stand those of the
    answer that is always the label ``constant``, where they name one. Two labels with the model's
    ``operating_point`` are measured there, and at Youden's cut-off on the very cases measured (an upper bound, named
    ``*_test_optimal``). All others are means of their numbers; where they hold ``counts`` (pixels of each class of
    ``labels`` that were called each) the measures of all pixels together stand beside them as ``pooled_*``, and with
    ``together`` those of so many cases' pixels at a time, in their order.

    Raises ``DataError`` when only one label occurs.
    """
    groups = [row.get("patient", place) for place, row in enumerate(rows)]
    if "truth" in rows[0] and "predicted" in rows[0]:
        names = [name for name in rows[0] if name.startswith("p_")]
        probabilities = np.array([[row[name] for name in names] for row in rows])
        truth = np.array([names.index("p_" + row["truth"]) for row in rows])
        if len(set(truth.tolist())) < 2:
            raise DataError(f"all evaluated cases have the label {rows[0]['truth']!r}; at least two are needed")
        if "operating_point" in rows[0]:
            called = np.array([row["predicted"] == names[1].removeprefix("p_") for row in rows])
            return over_operating_point(probabilities[:, 1], truth, called, seed, groups)
        measured = over_set(probabilities, truth, seed, groups)
        if constant := rows[0].get("constant"):
            called = np.full_like(truth, names.index(f"p_{constant}"))
            measured += over_answers(called, truth, f"_always_{constant}", seed, groups)
        return measured
    scores = [{name: value for name, value in row.items() if isinstance(value, float)} for row in rows]
    pooled = []
    if "counts" in rows[0]:
        tables = [np.array(row["counts"]) for row in rows]
        pooled = over_counts(tables, rows[0]["labels"], seed=seed, groups=groups)
        if "together" in rows[0]:
            pooled += over_several(tables, rows[0]["together"], seed)
    return [*over_cases(scores, seed, groups), *pooled]
