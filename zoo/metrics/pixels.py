"""Measures of classes of pixels from a table of counts, of one image or pooled over many, each by its exact name.

``counts[t, p]``: pixels of class t that were called p. Pooled measures are those of the sum of all images' tables.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Int, Integer

from zoo.metrics import Metric, interval_of, resamples


def counts(
    found: Integer[np.ndarray, "*grid"], truth: Integer[np.ndarray, "*grid"], classes: int, ignored: int | None = None
) -> Int[np.ndarray, "k k"]:
    """The table of one image; pixels whose truth is ``ignored`` are left out."""
    keep = np.ones(truth.shape, bool) if ignored is None else truth != ignored
    places = truth[keep].astype(np.int64) * classes + found[keep]
    return np.bincount(places, minlength=classes * classes).reshape(classes, classes)


def pixel_measures(table: Integer[np.ndarray, "k k"], labels: Sequence[str], first: int = 1) -> dict[str, float]:
    """Measures in [0, 1]; a class that is neither there nor found is NaN and left out of means.

    ``pixel_accuracy`` is also the micro-averaged Dice, precision and recall over all classes; ``micro_iou`` its IoU.
    Of every class from ``first`` on: ``dice_``, ``iou_`` and ``recall_``; ``macro_dice`` and ``macro_iou`` their means.
    """
    accuracy = float(np.trace(table) / table.sum()) if table.sum() else math.nan
    values = {"pixel_accuracy": accuracy, "micro_iou": accuracy / (2 - accuracy)}
    dices, ious = [], []
    for c in range(first, len(table)):
        right, there, called = int(table[c, c]), int(table[c].sum()), int(table[:, c].sum())
        dices.append(2 * right / (there + called) if there + called else math.nan)
        ious.append(right / (there + called - right) if there + called else math.nan)
        values |= {f"dice_{labels[c]}": dices[-1], f"iou_{labels[c]}": ious[-1]}
        values[f"recall_{labels[c]}"] = right / there if there else math.nan
    known = [c for c, value in enumerate(dices) if math.isfinite(value)]
    for name, each in (("macro_dice", dices), ("macro_iou", ious)):
        values[name] = float(np.mean([each[c] for c in known])) if known else math.nan
    return values


def over_counts(
    tables: Sequence[Integer[np.ndarray, "k k"]],
    labels: Sequence[str],
    first: int = 1,
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
) -> list[Metric]:
    """``pixel_measures`` of the sum over all images, in percent and named ``pooled_``, with bootstrap intervals."""
    stacked = np.stack(tables)

    def pooled(table: Integer[np.ndarray, "k k"]) -> dict[str, float]:
        return {f"pooled_{name}": 100 * value for name, value in pixel_measures(table, labels, first).items()}

    value = pooled(stacked.sum(0))
    draws = [pooled(stacked[index].sum(0)) for index in resamples(len(stacked), seed, groups)]
    return [Metric(name, value[name], *interval_of([draw[name] for draw in draws]), len(stacked)) for name in value]


def by_several(tables: Sequence[Integer[np.ndarray, "2 2"]], together: int) -> dict[str, float]:
    """Dice and IoU of two classes, in [0, 1]: of the pixels of so many images at a time, in their order.

    The mean over images of these; 1 where there is nothing and nothing was found. ``together=1``: of single images.
    """
    totals = {"dice": 0.0, "iou": 0.0}
    for start in range(0, len(tables), together):
        some = tables[start : start + together]
        (_, extra), (missed, right) = np.sum(some, axis=0)
        union = right + missed + extra
        totals["dice"] += len(some) * (2 * right / (union + right) if union else 1.0)
        totals["iou"] += len(some) * (right / union if union else 1.0)
    return {name: float(total / len(tables)) for name, total in totals.items()}


def over_several(tables: Sequence[Integer[np.ndarray, "2 2"]], together: int, seed: int = 0) -> list[Metric]:
    """:func:`by_several`, named ``dice_by_5`` for five at a time; intervals by resampling whole lots of images."""
    lots = [tables[start : start + together] for start in range(0, len(tables), together)]
    each = [by_several(lot, together) for lot in lots]
    sizes, value = np.array([len(lot) for lot in lots]), by_several(tables, together)
    found = []
    for name in value:
        own = np.array([one[name] for one in each])
        draws = [float(np.average(own[index], weights=sizes[index])) for index in resamples(len(lots), seed)]
        found.append(Metric(f"{name}_by_{together}", value[name], *interval_of(draws), len(tables)))
    return found
