"""Measures of objects rather than pixels, for nuclei and glands: all of them from one table of overlaps.

Label maps hold 0 for background and one number for each object, in any order and with gaps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Integer

from zoo.errors import DataError


@dataclass(frozen=True)
class Overlaps:
    """How many pixels each object of the truth shares with each that was found, and how large they are."""

    shared: Int[np.ndarray, "g p"]
    truth: Int[np.ndarray, " g"]  # pixels of each object
    found: Int[np.ndarray, " p"]


def overlaps(found: Integer[np.ndarray, "*grid"], truth: Integer[np.ndarray, "*grid"]) -> Overlaps:
    """The table of two label maps, in one pass over the pixels. Raises ``DataError`` for maps of different size."""
    if found.shape != truth.shape:
        raise DataError(f"objects in a map of {found.shape} can't be compared with those in one of {truth.shape}")
    g, p = (_numbered(labels) for labels in (truth, found))
    rows, columns = int(g.max(initial=0)) + 1, int(p.max(initial=0)) + 1
    table = np.bincount(g * columns + p, minlength=rows * columns).reshape(rows, columns)
    return Overlaps(table[1:, 1:], table[1:].sum(1), table[:, 1:].sum(0))


def _numbered(labels: Integer[np.ndarray, "*grid"]) -> Int[np.ndarray, " n"]:
    """0 for background, then 1, 2, ... without gaps."""
    flat = labels.ravel()
    low, high = int(flat.min(initial=0)), int(flat.max(initial=0))
    if low < 0:
        raise DataError(f"a map of objects holds {low}; background is 0 and objects have numbers above it")
    if high > 4 * flat.size:
        return np.unique(np.append(0, flat), return_inverse=True)[1].reshape(-1)[1:].astype(np.int64)
    present = np.zeros(high + 1, bool)
    present[flat] = True
    present[0] = False
    return np.where(present, present.cumsum(), 0)[flat].astype(np.int64)


def aji(table: Overlaps) -> float:
    """Aggregated Jaccard index (Kumar et al. 2017), in [0, 1]; NaN where there is no object at all.

    Each object of the truth takes the found one of largest Jaccard index (which several may take); found objects that
    nobody took add to the union.
    """
    if not len(table.truth) and not len(table.found):
        return math.nan
    if not len(table.truth) or not len(table.found):
        return 0.0
    union = table.truth[:, None] + table.found - table.shared
    best = (table.shared / union).argmax(1)
    g = np.arange(len(best))
    taken = table.shared[g, best] > 0
    free = np.ones(len(table.found), bool)
    free[best[taken]] = False
    whole = np.where(taken, union[g, best], table.truth).sum() + table.found[free].sum()
    return float(table.shared[g, best].sum() / whole)


def object_dice(table: Overlaps) -> float:
    """Object-level Dice of the GlaS contest (Sirinukunwattana et al. 2017), in [0, 1]; NaN without any object.

    Every object has its Dice with the one of the other map that it overlaps most, weighted by its size; the mean of
    both directions.
    """
    if not len(table.truth) and not len(table.found):
        return math.nan
    if not len(table.truth) or not len(table.found):
        return 0.0
    pairs = 2 * table.shared / (table.truth[:, None] + table.found)
    from_truth = pairs[np.arange(len(table.truth)), table.shared.argmax(1)]
    from_found = pairs[table.shared.argmax(0), np.arange(len(table.found))]
    halves = (_weighted(from_truth, table.truth), _weighted(from_found, table.found))
    return float(np.mean(halves))


def object_f1(table: Overlaps) -> float:
    """F1 of detection of the GlaS contest, in [0, 1]; NaN where there is no object at all.

    A found object counts as right when it covers at least half of the object of the truth that it overlaps most.
    """
    if not len(table.truth) and not len(table.found):
        return math.nan
    if not len(table.truth) or not len(table.found):
        return 0.0
    best = table.shared.argmax(0)
    right = 2 * table.shared[best, np.arange(len(best))] >= table.truth[best]
    missed = len(table.truth) - len(np.unique(best[right]))
    return float(2 * right.sum() / (2 * right.sum() + (~right).sum() + missed))


def _weighted(values: Float[np.ndarray, " n"], sizes: Int[np.ndarray, " n"]) -> float:
    return float((values * sizes).sum() / sizes.sum())
