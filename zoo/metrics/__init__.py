"""The field's measures by their usual names, computed by torchmetrics, with bootstrap intervals over cases."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Integer

from zoo.errors import DataError, MissingExtraError

LEVEL = 0.95
RESAMPLES = 1000

Classes: TypeAlias = Integer[np.ndarray, " n"] | Bool[np.ndarray, " n"]  # yes and no are two classes


@dataclass(frozen=True)
class Metric:
    """A measure over a set of cases: its value and the bootstrap interval that resampling cases gives.

    ``mean``: the mean over cases for measures of one case, the value itself for measures of a set (AUROC).
    ``low`` and ``high`` are NaN for fewer than two cases.
    """

    name: str
    mean: float
    low: float
    high: float
    cases: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data; NaN, which JSON lacks, becomes None."""
        numbers = {"mean": self.mean, "low": self.low, "high": self.high}
        finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        return {"name": self.name, **finite, "cases": self.cases}


def segmentation_scores(
    mask: Integer[np.ndarray, "*grid"],
    truth: Integer[np.ndarray, "*grid"],
    labels: Sequence[str] = ("background", "foreground"),
    *,
    probability: Float[np.ndarray, "*grid"] | None = None,
    inside: Bool[np.ndarray, "*grid"] | None = None,
) -> dict[str, float]:
    """Dice, IoU, sensitivity and specificity of one case, in [0, 1]; with ``probability`` (two labels) also AUROC.

    Several foreground labels: each has its own ``dice_<label>`` etc., and the plain name is their mean. A label that
    neither mask has is NaN, for there is nothing to find, and left out of means. ``inside`` limits the count to a
    region such as the field of view. Raises ``DataError`` for masks of different size or values beyond ``labels``.
    """
    if mask.shape != truth.shape:
        raise DataError(f"a mask of {mask.shape} can't be compared with one of {truth.shape}")
    if truth.size and (truth.min() < 0 or truth.max() >= len(labels)):
        raise DataError(f"a mask has the label {truth.max()}, beyond the {len(labels)} that are named")
    where = np.ones(mask.shape, dtype=bool) if inside is None else np.asarray(inside, dtype=bool)
    found, wanted = mask[where], truth[where]
    scores: dict[str, float] = {}
    for value in range(1, len(labels)):
        for name, score in _binary_scores(found == value, wanted == value).items():
            scores[f"{name}_{labels[value]}"] = score
    if len(labels) == 2:
        scores = {name.removesuffix(f"_{labels[1]}"): score for name, score in scores.items()}
        if probability is not None and probability.shape == truth.shape and 0 < (wanted == 1).sum() < wanted.size:
            functional, torch = _torchmetrics()
            scores["auroc"] = float(
                functional.binary_auroc(
                    torch.from_numpy(np.ascontiguousarray(probability[where], dtype=np.float32)),
                    torch.from_numpy((wanted == 1).astype(np.int64)),
                )
            )
        return scores
    means = {name: _mean([scores[f"{name}_{label}"] for label in labels[1:]]) for name in _BINARY}
    return {**means, **scores}


def classification_scores(
    probabilities: Float[np.ndarray, "n c"], truth: Integer[np.ndarray, " n"]
) -> dict[str, float]:
    """Accuracy, balanced accuracy, F1 (macro) and AUROC (macro, one against rest) of a set, in [0, 1].

    Two classes: also sensitivity and specificity, the second class being the positive one, and F1 and AUROC of it.
    NaN where ``truth`` lacks the classes that a measure needs.
    """
    functional, torch = _torchmetrics()
    scores_in = torch.from_numpy(np.ascontiguousarray(probabilities, dtype=np.float32))
    wanted = torch.from_numpy(np.ascontiguousarray(truth, dtype=np.int64))
    classes = probabilities.shape[1]
    present = np.unique(truth)
    chosen = scores_in.argmax(dim=1)
    recall = functional.multiclass_recall(chosen, wanted, classes, average="none")
    result = {
        "accuracy": float(functional.multiclass_accuracy(chosen, wanted, classes, average="micro")),
        "balanced_accuracy": float(recall[torch.from_numpy(present)].mean()),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that a resample lacks; they're NaN or left out below
        if classes == 2:
            result["f1"] = float(functional.binary_f1_score(chosen, wanted))
            result["sensitivity"] = float(recall[1]) if 1 in present else math.nan
            result["specificity"] = float(recall[0]) if 0 in present else math.nan
            both = len(present) == 2
            result["auroc"] = float(functional.binary_auroc(scores_in[:, 1], wanted)) if both else math.nan
        else:
            f1 = functional.multiclass_f1_score(chosen, wanted, classes, average="none")
            result["f1"] = float(f1[torch.from_numpy(present)].mean())
            areas = functional.multiclass_auroc(scores_in, wanted, classes, average="none")
            areas = areas[torch.from_numpy(present)]
            result["auroc"] = float(areas.mean()) if len(present) > 1 else math.nan
    return result


def roc(
    scores: Float[np.ndarray, " n"], truth: Integer[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Cut-offs from high to low, with sensitivity and specificity of calling all scores from the cut-off on positive.

    There is one for each different score, and infinity before them. Raises ``DataError`` unless both labels occur.
    """
    positives = int((truth == 1).sum())
    if positives in (0, len(truth)):
        raise DataError("sensitivity and specificity need cases of both labels")
    functional, torch = _torchmetrics()
    # torchmetrics takes scores beyond [0, 1] for logits and divides in single precision: ranks keep the order of any
    # scores, and counts of cases are whole numbers.
    cuts, rank = np.unique(np.asarray(scores, dtype=np.float64), return_inverse=True)
    ranks = torch.from_numpy((rank.reshape(-1) + 1.0) / (len(cuts) + 1))
    false, found, _ = functional.binary_roc(ranks, torch.from_numpy((truth == 1).astype(np.int64)))
    negatives = len(truth) - positives
    sensitivity = np.round(found.double().numpy() * positives) / positives
    specificity = 1 - np.round(false.double().numpy() * negatives) / negatives
    return np.concatenate([[np.inf], cuts[::-1]]), sensitivity, specificity


def youden(scores: Float[np.ndarray, " n"], truth: Integer[np.ndarray, " n"]) -> tuple[float, float]:
    """The cut-off of largest sensitivity + specificity - 1 (the highest such), and the balanced accuracy there.

    The cut-off lies half-way to the next lower score, so that it doesn't hang on one case. It is the highest score plus
    1 where calling nothing positive is best.
    """
    cuts, sensitivity, specificity = roc(scores, truth)
    best = int(np.argmax(sensitivity + specificity))
    lower = cuts[best + 1] if best + 1 < len(cuts) else cuts[best]
    cut = lower + 1 if np.isinf(cuts[best]) else (cuts[best] + lower) / 2
    return float(cut), float((sensitivity[best] + specificity[best]) / 2)


def auroc(scores: Float[np.ndarray, " n"], truth: Integer[np.ndarray, " n"]) -> float:
    """Area under the curve of :func:`roc`, ties counted half."""
    from torchmetrics.utilities.compute import auc

    _, sensitivity, specificity = roc(scores, truth)
    _, torch = _torchmetrics()
    return float(auc(torch.from_numpy(1 - specificity), torch.from_numpy(sensitivity)))


def label_auroc(scores: Float[np.ndarray, "n c"], truth: Integer[np.ndarray, "n c"]) -> float:
    """Mean :func:`auroc` over the labels that some cases have and others lack. Raises ``DataError`` if none is so."""
    known = [c for c in range(truth.shape[1]) if 0 < truth[:, c].sum() < len(truth)]
    if not known:
        raise DataError("no label tells the cases to measure AUC on apart; some must have it and others lack it")
    return float(np.mean([auroc(scores[:, c], truth[:, c]) for c in known]))


def recalls(predicted: Classes, truth: Classes, classes: int) -> Float[np.ndarray, " k"]:
    """Share of each class's cases that are found, in [0, 1]; NaN for a class without a case."""
    functional, torch = _torchmetrics()
    found, wanted = (torch.from_numpy(np.ascontiguousarray(y, dtype=np.int64)) for y in (predicted, truth))
    counts = functional.multiclass_confusion_matrix(found, wanted, classes).double()  # its own recall is float32
    return (counts.diagonal() / counts.sum(1)).numpy()


def balanced_accuracy(predicted: Classes, truth: Classes) -> float:
    """Mean recall over the classes that ``truth`` has, in [0, 1]; NaN without a case."""
    if not len(truth):
        return math.nan
    return float(np.nanmean(recalls(predicted, truth, int(max(predicted.max(), truth.max())) + 1)))


def over_cases(
    rows: Sequence[Mapping[str, float]], seed: int = 0, groups: Sequence[Hashable] | None = None
) -> list[Metric]:
    """The mean of each per-case score with its interval; NaN scores are left out and not counted."""
    names = dict.fromkeys(name for row in rows for name in row)
    metrics = []
    for name in names:
        known = [place for place, row in enumerate(rows) if name in row and math.isfinite(row[name])]
        values = np.array([rows[place][name] for place in known])
        own = None if groups is None else [groups[place] for place in known]
        low, high = bootstrap(partial(_mean_of, values), len(values), seed, own)
        metrics.append(Metric(name, float(values.mean()) if len(values) else math.nan, low, high, len(values)))
    return metrics


def over_set(
    probabilities: Float[np.ndarray, "n c"],
    truth: Integer[np.ndarray, " n"],
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
) -> list[Metric]:
    """``classification_scores`` of a set, each with its interval."""
    value = classification_scores(probabilities, truth)
    draws = [classification_scores(probabilities[index], truth[index]) for index in resamples(len(truth), seed, groups)]
    return [Metric(name, value[name], *interval_of([draw[name] for draw in draws]), len(truth)) for name in value]


def over_answers(
    predicted: Classes, truth: Classes, ending: str = "", seed: int = 0, groups: Sequence[Hashable] | None = None
) -> list[Metric]:
    """Accuracy and balanced accuracy of answers without probabilities; ``ending``: of the names."""
    measures = {"accuracy": lambda y, t: float((y == t).mean()), "balanced_accuracy": balanced_accuracy}
    found = []
    for name, measure in measures.items():
        draws = [measure(predicted[index], truth[index]) for index in resamples(len(truth), seed, groups)]
        found.append(Metric(name + ending, measure(predicted, truth), *interval_of(draws), len(truth)))
    return found


def over_operating_point(
    probability: Float[np.ndarray, " n"],
    truth: Integer[np.ndarray, " n"],
    called: Bool[np.ndarray, " n"],
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
) -> list[Metric]:
    """AUROC; balanced accuracy, sensitivity and specificity of what was ``called`` positive, and, with the ending
    ``_test_optimal``, at Youden's cut-off on these very cases: an upper bound. Each with its interval.
    """

    def values(index: Integer[np.ndarray, " m"]) -> dict[str, float]:
        p, y, c = probability[index], truth[index], called[index]
        if y.min() == y.max():
            return dict.fromkeys(_OPERATING, math.nan)
        _, sensitivity, specificity = roc(p, y)
        best = int(np.argmax(sensitivity + specificity))
        pairs = {"": (c[y == 1].mean(), 1 - c[y == 0].mean()), "_test_optimal": (sensitivity[best], specificity[best])}
        found = {"auroc": auroc(p, y)}
        for ending, (sn, sp) in pairs.items():
            numbers = {"balanced_accuracy": (sn + sp) / 2, "sensitivity": sn, "specificity": sp}
            found |= {f"{name}{ending}": float(number) for name, number in numbers.items()}
        return found

    value = values(np.arange(len(truth)))
    draws = [values(index) for index in resamples(len(truth), seed, groups)]
    return [Metric(name, value[name], *interval_of([d[name] for d in draws]), len(truth)) for name in _OPERATING]


_OPERATING = (
    "auroc", "balanced_accuracy", "sensitivity", "specificity", "balanced_accuracy_test_optimal",
    "sensitivity_test_optimal", "specificity_test_optimal",
)  # fmt: skip


def bootstrap(
    statistic: Callable[[Integer[np.ndarray, " m"]], float],
    n: int,
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
) -> tuple[float, float]:
    """The 95 % percentile interval of a statistic of resampled places; NaN for fewer than two cases."""
    return interval_of([statistic(index) for index in resamples(n, seed, groups)])


def resamples(n: int, seed: int = 0, groups: Sequence[Hashable] | None = None) -> Iterator[Integer[np.ndarray, " m"]]:
    """Places of ``n`` cases drawn with replacement, again and again; of two groups or more, whole groups are drawn.

    ``groups``: which cases belong together, such as those of a patient.
    """
    members: dict[Hashable, list[int]] = {}
    for place in range(n):
        members.setdefault(place if groups is None else groups[place], []).append(place)
    if len(members) < 2:
        return
    places = [np.array(chosen) for chosen in members.values()]
    rng = np.random.default_rng(seed)
    for _ in range(RESAMPLES):
        drawn = rng.integers(0, len(places), len(places))
        yield drawn if len(places) == n else np.concatenate([places[i] for i in drawn])


def dice(a: Bool[np.ndarray, "*grid"], b: Bool[np.ndarray, "*grid"], *, empty: float = 1.0) -> float:
    """Dice of two masks, in [0, 1]; ``empty`` for two empty ones, where ``segmentation_scores`` leaves a case out."""
    total = int(a.sum()) + int(b.sum())
    return float(2 * int((a & b).sum()) / total) if total else empty


def iou(a: Bool[np.ndarray, "*grid"], b: Bool[np.ndarray, "*grid"], *, empty: float = 1.0) -> float:
    """Intersection over union of two masks, in [0, 1]; ``empty`` for two empty ones."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else empty


_BINARY = ("dice", "iou", "sensitivity", "specificity")


def _binary_scores(found: Bool[np.ndarray, " n"], wanted: Bool[np.ndarray, " n"]) -> dict[str, float]:
    functional, torch = _torchmetrics()
    a, b = torch.from_numpy(found.astype(np.int64)), torch.from_numpy(wanted.astype(np.int64))
    anything = bool(found.any() or wanted.any())
    return {
        "dice": float(functional.binary_f1_score(a, b)) if anything else math.nan,
        "iou": float(functional.binary_jaccard_index(a, b)) if anything else math.nan,
        "sensitivity": float(functional.binary_recall(a, b)) if wanted.any() else math.nan,
        "specificity": float(functional.binary_specificity(a, b)) if not wanted.all() else math.nan,
    }


def _mean_of(values: Float[np.ndarray, " n"], places: Integer[np.ndarray, " n"]) -> float:
    return float(values[places].mean())


def interval_of(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % percentile interval of resampled values; NaN without a finite one."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return math.nan, math.nan
    low, high = np.percentile(known, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return float(np.mean(known)) if known else math.nan


def _torchmetrics() -> tuple[Any, Any]:
    try:
        import torch
        import torchmetrics.functional.classification as functional
    except ImportError as error:
        raise MissingExtraError("evaluation", "torchmetrics", "train") from error
    return functional, torch
