"""Tasks to learn from: regions of labelled volumes, and made-up ones in which a rule says which object is meant.

A task is a set of slices and one region in each of them; an episode is a slice to segment and others of the task to
tell by. UniverSeg saw 53 sets of scans; here, objects on noise stand in for their variety: the label is the darkest of
them, the topmost, the polygon, ..., so that only the support set tells which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from scipy.ndimage import gaussian_filter
from torch import Tensor

from zoo.data.case import Case
from zoo.errors import OptionError
from zoo.models.universeg_prostate.support import Scaling, labelled


@dataclass(frozen=True)
class Task:
    """One region in many slices, not all of which need show it; ``group`` says whose a slice is."""

    name: str
    images: Float32[np.ndarray, "n s s"]
    labels: Bool[np.ndarray, "n s s"]
    group: Int[np.ndarray, " n"]


class Episodes(NamedTuple):
    """Some slices to segment, each with its supports."""

    query: Float[Tensor, "b 1 s s"]
    truth: Float[Tensor, "b 1 s s"]
    images: Float[Tensor, "b k 1 s s"]
    labels: Float[Tensor, "b k 1 s s"]


def tasks_of(
    cases: Iterable[Case], regions: Sequence[str], side: int, scaling: Scaling, names: Sequence[str],
    everything: bool = False,
) -> list[Task]:  # fmt: skip
    """The regions of labelled volumes as tasks, of ``everything`` or of the slices that show them."""
    cases = list(cases)
    tasks = []
    for name in regions:
        parts = []
        for place, case in enumerate(cases):
            try:
                one = labelled(case, name, side, scaling, names).pooled("agnostic" if everything else "inclusive")
            except OptionError:  # a set may know the region in some cases only
                continue
            parts.append((one.images, one.labels, np.full(len(one), place)))
        if sum(int(part[1].any((1, 2)).sum()) for part in parts) > 1:
            images, labels, group = (np.concatenate(column) for column in zip(*parts, strict=True))
            tasks.append(Task(name, images, labels, group))
    return tasks


def episodes(tasks: Sequence[Task], index: Int[np.ndarray, " b"], supports: int, rngs: Sequence[np.random.Generator], *,
             augment: bool = True, absent: float = 0.0) -> Episodes:  # fmt: skip
    """An episode of each of the tasks ``index``: supports are of other volumes than the query, if there are any.

    A share of ``absent`` of the queries doesn't show the region, where there are such slices; some support always does.
    """
    made = []
    for place, rng in zip(index, rngs, strict=True):
        task = tasks[place]
        shown = task.labels.any((1, 2))
        wanted = shown if shown.all() else shown != (rng.random() < absent)
        query = int(rng.choice(np.flatnonzero(wanted)))
        others = np.flatnonzero(task.group != task.group[query])
        if not shown[others].any():
            others = np.delete(np.arange(len(task.group)), query)
        chosen = rng.choice(others, supports, replace=len(others) < supports)
        if not shown[chosen].any():
            chosen[0] = rng.choice(others[shown[others]])
        rows = np.array([query, *chosen])
        x, y = task.images[rows], task.labels[rows]
        made.append(varied(x, y, rng) if augment else (x, y.astype(np.float32)))
    x, y = (torch.from_numpy(np.stack(part)).float()[:, :, None] for part in zip(*made, strict=True))
    return Episodes(x[:, 0], y[:, 0], x[:, 1:], y[:, 1:])


def varied(
    x: Float32[np.ndarray, "n s s"], y: Bool[np.ndarray, "n s s"], rng: np.random.Generator
) -> tuple[Float32[np.ndarray, "n s s"], Float32[np.ndarray, "n s s"]]:
    """The same turn, mirroring and inversion for a whole episode; for each image other grey values and noise."""
    if rng.random() < 0.5:
        x, y = x[:, :, ::-1], y[:, :, ::-1]
    turns = int(rng.integers(4))
    x, y = np.rot90(x, turns, (1, 2)), np.rot90(y, turns, (1, 2))
    x = 1 - x if rng.random() < 0.5 else x
    n = len(x)
    gamma, gain = np.exp(rng.normal(0, 0.2, (n, 1, 1))), rng.uniform(0.85, 1.15, (n, 1, 1))
    x = gain * np.clip(x, 0, 1) ** gamma + rng.normal(0, 0.04, (n, 1, 1)) + rng.normal(0, 0.03, x.shape)
    return np.clip(x, 0, 1).astype(np.float32), y.astype(np.float32)


# ---- made-up tasks ---------------------------------------------------------------------------------------------------

KINDS = ("ellipse", "polygon", "blob")

Rule = Callable[[dict[str, np.ndarray]], Any]
"""From what is known of a picture's objects to the place of the one that is meant, or none."""


def made_up(count: int, side: int, rng: np.random.Generator) -> list[Task]:
    """A task for each rule, on ``count`` images of two to four objects; every image shows what the rule means."""
    images, objects, facts = zip(*(_picture(side, rng) for _ in range(count)), strict=True)
    pictures = np.stack(images)
    rules: dict[str, Rule] = {
        "brightest": lambda f: f["grey"].argmax(),
        "darkest": lambda f: f["grey"].argmin(),
        "largest": lambda f: f["size"].argmax(),
        "smallest": lambda f: f["size"].argmin(),
        "topmost": lambda f: f["y"].argmin(),
        "lowest": lambda f: f["y"].argmax(),
        "leftmost": lambda f: f["x"].argmin(),
        "nearest to the centre": lambda f: np.hypot(f["x"] - side / 2, f["y"] - side / 2).argmin(),
        **{kind: _within("kind", k, k + 1) for k, kind in enumerate(KINDS)},
        **{f"grey {low:.1f} to {low + 0.2:.1f}": _within("grey", low, low + 0.2) for low in (0.1, 0.3, 0.5, 0.7)},
    }
    tasks = []
    for name, rule in rules.items():
        chosen = [rule(f) for f in facts]
        rows = [i for i, k in enumerate(chosen) if k is not None]
        if len(rows) > 1:
            labels = np.stack([objects[i][chosen[i]] for i in rows])
            tasks.append(Task(name, pictures[rows], labels, np.arange(len(rows))))
    return tasks


def _within(fact: str, low: float, high: float) -> Rule:
    return lambda f: _only((f[fact] >= low) & (f[fact] < high))


def _only(wanted: Bool[np.ndarray, " k"]) -> int | None:
    """The one object that fits; none where several do, for then nobody could tell."""
    return int(wanted.argmax()) if wanted.sum() == 1 else None


def _picture(
    side: int, rng: np.random.Generator
) -> tuple[Float32[np.ndarray, "s s"], Bool[np.ndarray, "k s s"], dict[str, np.ndarray]]:
    """Two to four objects that don't touch, on noise of low frequency; where and what they are."""
    noise = gaussian_filter(rng.standard_normal((side, side)), side / 10, mode="wrap")
    image = rng.uniform(0.2, 0.6) + 0.08 * noise / noise.std() + rng.normal(0, 0.04, (side, side))
    y, x = np.mgrid[:side, :side]
    free = np.ones((side, side), bool)
    found: list[np.ndarray] = []
    rows: list[tuple[float, ...]] = []
    wanted = int(rng.integers(2, 5))
    for _ in range(40):
        if len(found) == wanted:
            break
        radius, kind, grey = rng.uniform(0.1, 0.24) * side, int(rng.integers(3)), rng.uniform(0.05, 0.95)
        cy, cx = rng.uniform(radius, side - radius, 2)
        inside = _shape(kind, (y - cy) / radius, (x - cx) / radius, rng)
        if inside.sum() < 6 or not free[inside].all():
            continue
        free &= ~((np.hypot(y - cy, x - cx) < 1.3 * radius) | inside)
        image[inside] = grey + 0.04 * noise[inside] + rng.normal(0, 0.03, int(inside.sum()))
        found.append(inside)
        rows.append((grey, inside.sum(), cy, cx, kind))
    if len(found) < 2:
        return _picture(side, rng)
    facts = dict(zip(("grey", "size", "y", "x", "kind"), np.array(rows, float).T, strict=True))
    return np.clip(gaussian_filter(image, 0.5), 0, 1).astype(np.float32), np.stack(found), facts


def _shape(kind: int, v: np.ndarray, u: np.ndarray, rng: np.random.Generator) -> Bool[np.ndarray, "s s"]:
    """An ellipse, a triangle or square, or a wavy blob, of radius about 1."""
    angle = rng.uniform(0, np.pi)
    u, v = u * np.cos(angle) + v * np.sin(angle), v * np.cos(angle) - u * np.sin(angle)
    if kind == 0:
        return np.hypot(u, v / rng.uniform(0.5, 0.9)) < 1
    turn = np.arctan2(v, u)
    if kind == 1:
        sides = int(rng.integers(3, 5))
        return np.hypot(u, v) * np.cos((turn + np.pi) % (2 * np.pi / sides) - np.pi / sides) < 0.75
    return np.hypot(u, v) < 0.75 + 0.25 * np.sin(int(rng.integers(3, 6)) * turn + rng.uniform(0, 6))
