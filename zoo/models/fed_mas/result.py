"""Class probabilities with head, medium and tail classes told apart, and the pictures of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from zoo import figure as fig
from zoo.federated.figures import client_curves
from zoo.prediction import Classification
from zoo.storage import write_file

GROUP_COLOURS = {"head": fig.colour(5), "medium": fig.colour(2), "tail": fig.colour(6)}
TOP = 5


@dataclass(kw_only=True)
class LongTailClassification(Classification):
    """Class probabilities, and how often the predicted class was seen in training.

    ``groups``: head, medium or tail by class, empty where unknown. ``view``: the part of the image that was used.
    ``saliency``: [h w] in [0, 1], the evidence for the predicted class.
    """

    groups: Mapping[str, str] = field(default_factory=dict)
    view: UInt8[np.ndarray, "s s 3"] | None = None
    saliency: Float[np.ndarray, "h w"] | None = None

    @property
    def top(self) -> dict[str, float]:
        """The five most probable classes, the first one first."""
        return dict(sorted(self.probabilities.items(), key=lambda item: -item[1])[:TOP])

    def to_dict(self) -> dict[str, Any]:
        record = super().to_dict()
        record["top"] = (
            [] if self.unlike else [{"label": name, "probability": round(p, 6)} for name, p in self.top.items()]
        )
        if self.groups:
            record["group"] = None if self.label is None else self.groups[self.label]
            record["groups"] = dict(self.groups)
        return record

    def summary(self) -> str:
        text = super().summary()
        if self.groups:
            text += f" ({self.groups[self.most_probable]} class)"
        if "ssl_distance" in self.measurements:
            text += f"; distance to the prior {self.measurements['ssl_distance']:.2f} of 4"
        return text

    def legend(self) -> list[fig.LegendEntry]:
        meaning = {"head": "head: often seen in training", "medium": "medium", "tail": "tail: rarely seen in training"}
        there = set(self.groups.values())
        return [fig.LegendEntry(meaning[name], colour) for name, colour in GROUP_COLOURS.items() if name in there]

    def panels(self) -> list[fig.Panel]:
        panels = [fig.Panel("input", self.image.thumbnail(fig.PANEL_SIDE))]
        if self.saliency is not None and self.view is not None:
            panels.append(
                fig.Panel(
                    f"evidence for {self.spelled(self.most_probable)} (brighter: more)",
                    fig.heat_over(self.view, self.saliency, (0.45, 0.45)),
                )
            )
        colours = {name: GROUP_COLOURS[group] for name, group in self.groups.items()}
        panels.append(fig.Panel("probabilities", self.bars(colours)))
        return [*panels, *self.extra_panels]


def training_figures(
    rows: Sequence[dict[str, Any]], labels: Sequence[str], counts: Sequence[int], groups: Mapping[str, str], out: Path
) -> list[Path]:
    """Write ``weights.png``, and with a prior ``rescue_factors.png``; with reported w_k also ``distances.png``.

    ``rows``: the clients' of a federation. ``counts``: training images of each class.
    """
    written = []
    if shares := [row for row in rows if "weight" in row]:
        data = client_curves(shares, "weight", "aggregation weight of each client", "share of the global model")
        written.append(write_file(out / "weights.png", data))
    if any("rescue-factor" in row for row in rows):
        data = client_curves(rows, "rescue-factor", "rescue factor of each client", "rescue factor", log=True)
        written.append(write_file(out / "rescue_factors.png", data))
    if any("w-0" in row for row in rows):
        written.append(write_file(out / "distances.png", distances(rows, labels, np.array(counts), groups)))
    return written


def distances(
    rows: Sequence[dict[str, Any]], labels: Sequence[str], counts: Int[np.ndarray, " k"], groups: Mapping[str, str]
) -> bytes:
    """w_k of the received model for each class, commonest first: mean over the clients that hold it, early and late."""
    from zoo.figure import plots

    order = [int(k) for k in np.argsort(-counts, kind="stable") if counts[k] > 0]
    rounds = sorted({int(row["round"]) for row in rows})
    early, late = rounds[min(1, len(rounds) - 1)], rounds[-1]  # in the first one the projector is still random
    sets, white = [], (255, 255, 255)
    for round_, marker, aside in ((early, "^", -0.14), (late, "o", 0.14))[early == late :]:
        sets.append(plots.Points(f"round {round_}", [], white, marker))
        for place, k in enumerate(order):
            here = [float(row.get(f"w-{k}", 0)) for row in rows if int(row["round"]) == round_]
            held = [(place + aside, value) for value in here if value > 0]
            ink = GROUP_COLOURS[groups[labels[k]]]
            sets.append(plots.Points("", held, ink, marker, 12, faint=True))
            sets.append(plots.Points("", [np.mean(held, axis=0)] if held else [], ink, marker, 58))
    there = {groups[labels[k]] for k in order}
    sets += [plots.Points(f"{name} class", [], ink, "s") for name, ink in GROUP_COLOURS.items() if name in there]
    drawing, axes = plots.canvas("the figures of a training", size=(1.9 + 0.75 * len(order), 4.2))
    plots.scatter(
        axes[0, 0], sets, names=[f"{labels[k]}\n{counts[k]}" for k in order], ylim=(0, None), grid="y",
        title="distance of the global model to the prior (large: mean over the clients)", legend="outside",
        x="class and its training images, all clients", y="distance to the prior, w_k",
    )  # fmt: skip
    return plots.png(drawing)
