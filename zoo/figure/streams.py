"""Charts of a model that learns one domain after another; matplotlib's, for trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from zoo.figure import plots

_MARKERS = ("s", "o", "X", "D")


@dataclass(frozen=True)
class Event:
    """What became of a domain: the place that learned it, how (a name of the legend), and a few words."""

    name: str
    place: int
    kind: str
    note: str = ""


def accuracy_matrix(axis: Any, table: Float[np.ndarray, "t i"], names: Sequence[str], **look: Any) -> None:
    """A row after each step, a column for each domain; values in [0, 1], and nothing where one is NaN."""
    axis.imshow(table, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for t, i in np.ndindex(*table.shape):
        if np.isfinite(table[t, i]):
            ink = "black" if table[t, i] > 0.5 else "white"
            axis.text(i, t, f"{table[t, i]:.2f}", ha="center", va="center", color=ink, size=8)
    axis.set_xticks(range(len(names)), names, rotation=30, ha="right", size=8)
    after = [f"after {t + 1}" for t in range(len(table))] if len(table) > 1 else ["after all"]
    axis.set_yticks(range(len(table)), after, size=8)
    plots.dress(axis, **{"grid": "", **look})


def timeline(axis: Any, events: Sequence[Event], kinds: Mapping[str, str], **look: Any) -> None:
    """An event at each step, at the height of its place; ``kinds``: what each stands for in the legend."""
    for at, (kind, words) in enumerate(kinds.items()):
        xy = [(t, one.place) for t, one in enumerate(events, start=1) if one.kind == kind]
        ink = tuple(part / 255 for part in plots.INKS[at])
        if xy:
            axis.scatter(*zip(*xy, strict=True), marker=_MARKERS[at], s=90, color=[ink], label=words, zorder=3)
    for t, one in enumerate(events, start=1):
        axis.annotate(one.note, (t, one.place), (0, 10), textcoords="offset points", ha="center", size=7)
    most = max((one.place for one in events), default=1)
    axis.set_xticks(range(1, len(events) + 1), [one.name for one in events], rotation=30, ha="right", size=8)
    axis.set_yticks(range(1, most + 1))
    plots.dress(axis, **{"xlim": (0.4, len(events) + 0.6), "ylim": (0.4, most + 1.2), "legend": "upper left", **look})
