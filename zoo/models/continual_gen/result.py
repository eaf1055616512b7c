"""What was learned and decided, a prediction with its distances, and the pictures of both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from zoo import figure
from zoo.figure import plots, streams
from zoo.figure.limits import limited_bars
from zoo.models.continual_gen import plugin
from zoo.prediction import Classification

Action = Literal["new", "updated", "forced"]
WORDS = {"new": "new subnetwork", "updated": "updated", "forced": "updated, for no unit was left"}


@dataclass(frozen=True)
class Learned:
    """What one subnetwork was trained on. Names are for people: the method never looks at them."""

    domains: tuple[str, ...] = ()
    # to train on, of each domain
    images: tuple[int, ...] = field(default=(), metadata={"min": 0, "max": 1_000_000_000})
    clusters: tuple[int, ...] = field(default=(), metadata={"min": 0, "max": 100_000})
    """Of each ensemble that is kept: one for every domain, or of the last alone."""


@dataclass(frozen=True)
class Decision:
    """What became of one domain."""

    domain: str
    action: Action
    subnetwork: int = field(metadata={"min": 1, "max": 10_000})  # counted from 1
    ess: tuple[float, ...] = field(default=(), metadata={"min": 0.0, "max": 1e9, "infinite": True})
    """To every subnetwork that there was, and ``gamma``, below which it would be in-distribution."""
    gamma: tuple[float, ...] = field(default=(), metadata={"min": 0.0, "max": 1e9, "infinite": True})
    images: int = field(default=0, metadata={"min": 0, "max": 1_000_000_000})
    room: int = field(default=0, metadata={"min": 0, "max": 1_000_000_000})  # for so many more subnetworks

    def to_dict(self) -> dict[str, Any]:
        """Plain data; a distance to no cluster at all is ``None``."""
        found = asdict(self)
        return {**found, **{k: [v if math.isfinite(v) else None for v in found[k]] for k in ("ess", "gamma")}}

    def sentence(self) -> str:
        near = ", ".join(f"{e:.2f} ({g:.2f})" for e, g in zip(self.ess, self.gamma, strict=True))
        told = f"; ESS (threshold) {near}" if near else ""
        return f"{self.domain}: {WORDS[self.action]} {self.subnetwork}{told}; room for {self.room} more"


@dataclass(kw_only=True)
class RoutedClassification(Classification):
    """Class probabilities by the subnetwork whose clusters are nearest."""

    subnetwork: int  # that answered, counted from 1; 0 where nothing was learned
    asked: bool = False  # for by the user, in place of the nearest
    distances: tuple[float, ...] = ()  # ESS of the image to every subnetwork; less is nearer
    limits: tuple[float, ...] = ()  # of each, beyond which an image is out of its domains
    learned: tuple[Learned, ...] = ()

    @property
    def out_of_domain(self) -> bool:
        """Whether the image is beyond the limit of every subnetwork."""
        return all(d > limit for d, limit in zip(self.distances, self.limits, strict=True))

    def domains(self, subnetwork: int) -> str:
        return ", ".join(self.learned[subnetwork - 1].domains) if subnetwork else "none"

    def summary(self) -> str:
        flag = "; out of all its domains" if self.out_of_domain else ""
        return f"{super().summary()}; subnetwork {self.subnetwork} ({self.domains(self.subnetwork)}){flag}"

    def to_dict(self) -> dict[str, Any]:
        return {
            **super().to_dict(),
            "subnetwork": self.subnetwork,
            "subnetwork_asked_for": self.asked,
            "domains_of_subnetwork": list(self.learned[self.subnetwork - 1].domains) if self.subnetwork else [],
            "ess": [_number(d) for d in self.distances],
            "out_of_domain_beyond": [_number(limit) for limit in self.limits],
            "out_of_domain": self.out_of_domain,
        }

    def quantities(self) -> dict[str, Any]:
        apart = {f"ess_subnetwork_{t}": _number(d) for t, d in enumerate(self.distances, start=1)}
        more = {"subnetwork": self.subnetwork, "out_of_domain": self.out_of_domain, **apart}
        return {**super().quantities(), **more}

    def panels(self) -> list[figure.Panel]:
        names = [f"{t + 1}: {self.domains(t + 1)}" for t in range(len(self.distances))]
        bars = limited_bars(names, self.distances, self.limits, self.subnetwork - 1)
        title = "distance (ESS) to each subnetwork; the nearest answers"
        title = f"distance (ESS) to each subnetwork; {self.subnetwork} was asked for" if self.asked else title
        return [*super().panels(), figure.Panel(title, bars)]

    def legend(self) -> list[figure.LegendEntry]:
        return [figure.LegendEntry("subnetwork that answered", figure.colour(5)),
                figure.LegendEntry("limit, beyond which an image is out of its domains", figure.colour(6))]  # fmt: skip


def _number(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


# ---- a stream --------------------------------------------------------------------------------------------------------


def stream_table(matrix: Sequence[Sequence[float]], names: Sequence[str]) -> dict[str, Any]:
    """Balanced accuracy ``a[t][i]`` on domain i after t were learned, and what the paper makes of the last row."""
    last = [v for v in matrix[-1] if math.isfinite(v)]
    return {
        "domains": list(names),
        "balanced_accuracy": [[round(v, 6) if math.isfinite(v) else None for v in row] for row in matrix],
        "average": round(float(np.mean(last)), 6) if last else None,
    }


def stream_chart(
    matrix: Sequence[Sequence[float]], names: Sequence[str], log: Sequence[Decision], method: str
) -> bytes:
    """A PNG: accuracy on every domain after each was learned, and beside it what was decided."""
    drawing, axes = plots.canvas(
        "the chart of a stream", 1, 2, size=(8 + 1.2 * len(names), 2.4 + 0.5 * len(matrix)), widths=(1, 1.2),
        title=plugin.name if method == plugin.name else f"{plugin.name}: {method}",
    )  # fmt: skip
    streams.accuracy_matrix(axes[0, 0], np.array(matrix, float), names, title="balanced accuracy on each domain")
    events = []
    for one in log:
        k = one.subnetwork - 1 if one.action == "updated" else int(np.argmin(one.ess or [0]))
        near = f"ESS to {k + 1}: {one.ess[k]:.2f}\nthreshold {one.gamma[k]:.2f}" if one.ess else ""
        events.append(streams.Event(one.domain, one.subnetwork, one.action, near))
    if log:
        streams.timeline(axes[0, 1], events, WORDS, title="which subnetwork learned what", y="subnetwork")
    else:
        plots.message(axes[0, 1], "one network for all domains:\nnothing was decided")
    return plots.png(drawing, dpi=130)
