"""Lesions with their volumes, in three planes through the largest, and the probability projected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from zoo import figure as fig
from zoo.kinds.volume import VolumeSegmentation, planes

FOUND, SPURIOUS, MISSED = 3, 2, 1  # places in the palette, as far apart as it has them
SHOWN = 500  # lesions in the record; of a noisy mask there may be thousands


class Lesion(NamedTuple):
    """Its volume, its voxels, and the middle of them: slice, row and column of the file."""

    ml: float
    voxels: int
    centre: tuple[float, ...]


@dataclass(kw_only=True)
class Lesions(VolumeSegmentation):
    """``lesions``: the largest first. ``reference``: the true mask, where it was given."""

    lesions: Sequence[Lesion]
    reference: np.ndarray | None = None

    def summary(self) -> str:
        if self.unlike:
            return super().summary()
        if not self.lesions:
            return "no lesion"
        load = self.measurements["load_ml"]
        text = f"{len(self.lesions)} lesion{'s' * (len(self.lesions) > 1)}, {load:.4g} ml"
        return f"{text}, Dice {self.measurements['dice']:.3f}" if "dice" in self.measurements else text

    def to_dict(self) -> dict[str, Any]:
        shown = [{"ml": one.ml, "voxels": one.voxels, "centre": list(one.centre)} for one in self.lesions[:SHOWN]]
        return {**super().to_dict(), "count": len(self.lesions), "lesions": shown}

    def legend(self) -> list[fig.LegendEntry]:
        if self.reference is None:
            return [fig.LegendEntry(self.summary(), fig.colour(1))]
        score = self.measurements["dice"]
        return [
            fig.LegendEntry(f"found (Dice {score:.3f})", fig.colour(FOUND)),
            fig.LegendEntry("found and not true", fig.colour(SPURIOUS)),
            fig.LegendEntry("missed", fig.colour(MISSED)),
        ]

    def panels(self) -> list[fig.Panel]:
        """Planes through the largest lesion, and the highest probability from top to bottom."""
        grey = self.image.array.reshape(self.image.size).astype(np.float32)
        low, high = np.percentile(grey, (1, 99.7))
        volume = self.image.axial(np.clip((grey - low) / max(float(high - low), 1e-12), 0, 1))
        shown, at = self.mask.astype(np.int64), None
        if self.reference is not None:
            true = self.reference > 0
            shown = np.select([true & (self.mask > 0), self.mask > 0, true], [FOUND, SPURIOUS, MISSED], 0)
        if self.lesions:
            places = self.image.axial(self._largest())
            at = tuple(int(c) for c in np.argwhere(places).mean(0).round())
        spacing = self._plane_spacings()
        panels = planes(volume, self.image.axial(shown), spacing, at=at)
        _, tall, wide = spacing
        top = self.image.axial(np.asarray(self.probability, np.float32)).max(0)
        aspect = top.shape[1] * wide / (top.shape[0] * tall)
        picture = fig.to_picture(np.asarray(fig.heatmap(top)), aspect=aspect)
        panels.append(fig.Panel("highest probability, from above", picture, spacing=wide, pixels=top.shape[1]))
        return [*panels, *self.extra_panels]

    def _largest(self) -> np.ndarray:
        """The lesion of the most voxels, whose middle needn't be inside of it."""
        from zoo.data.volumes import largest_component

        return largest_component(self.mask > 0)


def rounds_figure(rows: Sequence[Mapping[str, float]], method: str) -> bytes:
    """Dice over the rounds, of all and of each site, as a PNG."""
    from zoo.figure import plots

    names = sorted({name for row in rows for name in row if name.startswith("global/dice")})
    some = []
    for name in names:
        known = [(int(row["round"]), float(row[name])) for row in rows if name in row]
        site = name.removeprefix("global/dice").removeprefix("-")
        some.append(plots.Line(f"site {site}" if site else "all", [r for r, _ in known], [v for _, v in known]))
    drawing, axes = plots.canvas("the figures of a training", size=(7.2, 4.0))
    plots.lines(axes[0, 0], some, title=f"{method}: Dice of the student", x="round", y="subject-wise Dice", whole=True,
                ylim=(0, 1), legend="outside" if len(some) <= 16 else "")  # fmt: skip
    return plots.png(drawing)
