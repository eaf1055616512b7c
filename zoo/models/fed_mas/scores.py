"""How the paper measures: mean recall of head, medium and tail classes, of all, and for each value of an attribute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from zoo.nn.long_tail import frequency_groups


def recalls(predicted: Int[np.ndarray, " n"], y: Int[np.ndarray, " n"], classes: int) -> Float[np.ndarray, " k"]:
    """By class, in [0, 1]; NaN for a class without a case."""
    return np.array([np.mean(predicted[y == k] == k) if (y == k).any() else np.nan for k in range(classes)])


def scores(
    predicted: Int[np.ndarray, " n"],
    y: Int[np.ndarray, " n"],
    counts: Sequence[int],
    *,
    head_above: int,
    tail_below: int,
    attribute: Sequence[Any] = (),
) -> dict[str, float]:
    """``balanced_accuracy`` (mean recall), ``head``, ``medium``, ``tail`` (mean recall of each group), ``all``.

    ``counts``: training images of each class, by which the groups are made. ``all`` is the mean of the groups
    (Table 1). ``attribute``: its value for each case; adds ``balanced_accuracy_<value>`` and ``attribute_average``
    (Table 3). What no case belongs to is left out.
    """
    by_class = recalls(predicted, y, len(counts))
    result = {"balanced_accuracy": float(np.nanmean(by_class))}
    masks = frequency_groups(counts, head_above, tail_below)
    for name, mask in zip(("head", "medium", "tail"), masks, strict=True):
        there = by_class[mask.numpy() & np.isfinite(by_class)]
        if len(there):
            result[name] = float(there.mean())
    result["all"] = float(np.mean([result[name] for name in ("head", "medium", "tail") if name in result]))
    if len(attribute):
        values = np.array([str(value) for value in attribute])
        parts = []
        for value in sorted(set(values)):
            here = values == value
            parts.append(float(np.nanmean(recalls(predicted[here], y[here], len(counts)))))
            result[f"balanced_accuracy_{value}"] = parts[-1]
        result["attribute_average"] = float(np.mean(parts))
    return result
