"""What clients of a federation sent: in the plane of two main directions, how far apart, and what it counts for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from zoo.figure import plots
from zoo.figure.layout import RGB


@dataclass
class Projection:
    """The updates of a round in the plane of their two main directions, for a picture; the mean is the origin.

    ``radius`` is that of the threshold around the mean. A projection only shortens distances.
    """

    clients: list[int]
    sent: list[list[float]]
    controlled: list[int]
    honest: list[list[float]]  # what the controlled clients would have sent
    radius: float

    @classmethod
    def of(
        cls, sent: Float[Any, "n d"], honest: Float[Any, "f d"], clients: Sequence[int], controlled: Sequence[int],
        threshold: float,
    ) -> Projection:  # fmt: skip
        """Principal components of all updates, around the mean of what the controlled clients would have sent."""
        there, would = np.asarray(sent), np.asarray(honest)
        rows = np.concatenate([there, would]) - (would if len(would) else there).mean(0)
        values, vectors = np.linalg.eigh(rows @ rows.T)  # few updates, many coordinates: the small Gram matrix
        points = (vectors[:, :-3:-1] * np.sqrt(np.maximum(values[:-3:-1], 0))).tolist()
        radius = math.sqrt(threshold) if threshold >= 0 else math.nan
        return cls(list(clients), points[: len(there)], list(controlled), points[len(there) :], radius)


def draw_plane(axis: Any, plane: Projection | None, title: str, colours: Sequence[RGB]) -> None:
    """``colours``: of benign clients, honest updates of controlled ones, their mean, and what they sent instead."""
    if plane is None:
        plots.message(axis, "no update in the last round", title=title)
        return
    sent = np.array(plane.sent)
    benign = sent[[client not in plane.controlled for client in plane.clients]]
    sets = [plots.Points("benign client", benign, colours[0])]
    if plane.controlled:
        malicious = sent[plane.clients.index(plane.controlled[0])]
        if plane.honest:
            sets.append(plots.Points("controlled client,\nhonest update", plane.honest, colours[1], "s"))
        sets.append(plots.Points("their mean", [[0, 0]], colours[2], "P", 70))
        sets.append(plots.Points("malicious vector,\nsent by all of them", malicious, colours[3], "X", 130))
    circle = plane.radius if plane.controlled and math.isfinite(plane.radius) else None
    plots.scatter(axis, sets, circle=circle, circle_name="threshold\naround the mean", square=True, title=title,
                  x="first main direction", y="second", grid="", legend="outside")  # fmt: skip


def draw_distances(axis: Any, records: Sequence[Any], title: str, colours: Sequence[RGB]) -> None:
    """By ``round``: ``spread`` of honest pairs (least, mean, largest), ``distance`` and ``threshold`` of an attack.

    All are squared; NaN where nobody attacked. ``colours``: of honest pairs, and of the malicious vector.
    """
    rounds = [record.round for record in records]
    least, mean, most = (np.sqrt([record.spread[i] for record in records]) for i in range(3))
    some = [plots.Line("honest pairs, mean", rounds, mean, colours[0], band=(least, most),
                       band_name="honest pairs, least to largest")]  # fmt: skip
    distance, threshold = (np.sqrt([getattr(r, name) for r in records]) for name in ("distance", "threshold"))
    if np.isfinite(threshold).any():
        some.append(plots.Line("malicious to the attackers' mean", rounds, distance, colours[1]))
        some.append(plots.Line("threshold", rounds, threshold, (0, 0, 0), ":"))
    plots.lines(axis, some, title=title, x="round", whole=True, log=True, headroom=0.55, legend="upper right")


def draw_shares(
    axis: Any, records: Sequence[Any], clients: int, controlled: Sequence[int], empty: str, colours: Sequence[RGB]
) -> None:
    """What share of the aggregate each client has: its mean weight, or how often it was picked.

    ``records``: with ``picked`` or ``weights`` of the clients that aren't ``excluded``. ``empty``: what to write where
    they have neither. ``colours``: of benign and of controlled clients.
    """
    counts = np.zeros(clients)
    rounds = [record for record in records if record.weights or record.picked is not None]
    for record in rounds:
        if record.picked is not None:
            counts[record.picked] += 1 / len(rounds)
        else:
            present = [client for client in range(clients) if client not in record.excluded]
            counts[present] += np.array(record.weights) / len(rounds)
    if not rounds:
        plots.message(axis, empty or "clients are weighed\nby their cases")
        return
    kinds = {"benign": [client for client in range(clients) if client not in controlled]}
    if controlled:
        kinds["controlled by the attacker"] = list(controlled)
    picked = "how often a client was picked\n(equal updates: the first of them)"
    title = picked if rounds[0].picked is not None else "mean weight of a client"
    plots.upright(axis, counts.tolist(), kinds, tuple(colours), title=title, x="client", legend="upper right")
