"""A mask with those of other weights beside it, and the truth where it's given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from zoo import figure as fig
from zoo.figure.layout import RGB
from zoo.kinds.volume import VolumeSegmentation

WHITE = (255, 255, 255)


@dataclass(kw_only=True)
class ComparedSegmentation(VolumeSegmentation):
    """``scheme``: the weights that made ``mask``. ``masks``: those of others, by name. ``reference``: the truth."""

    scheme: str
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)
    reference: np.ndarray | None = None

    def summary(self) -> str:
        text = f"{super().summary()} by the weights {self.scheme}"
        score = self.measurements.get(f"dice {self.scheme}")
        return text if score is None or self.unlike else f"{text}, Dice {score:.3f}"

    def to_dict(self) -> dict[str, Any]:
        voxel = self._voxel()
        sizes = {name: round(float(mask.sum()) * voxel, 3) for name, mask in self.masks.items()} if voxel else {}
        return {**super().to_dict(), "scheme": self.scheme, "compared_ml": sizes}

    def _inks(self) -> dict[str, RGB]:
        names = [self.scheme, *self.masks]
        return {name: fig.colour(place) for place, name in enumerate(names, start=1)}

    def legend(self) -> list[fig.LegendEntry]:
        entries = []
        for name, ink in self._inks().items():
            score = self.measurements.get(f"dice {name}")
            which = f"{name} (decides)" if name == self.scheme and self.masks else name
            entries.append(fig.LegendEntry(which if score is None else f"{which}, Dice {score:.3f}", ink))
        if self.reference is not None:
            entries.append(fig.LegendEntry("reference", WHITE))
        return entries

    def panels(self) -> list[fig.Panel]:
        """Slices at a third, half and two thirds of the gland (of the volume where none was found), outlined."""
        grey = self.image.array.reshape(self.image.size).astype(np.float32)
        low, high = np.percentile(grey, (0.5, 99.5))
        volume = self.image.axial(np.clip((grey - low) / max(float(high - low), 1e-12), 0, 1))
        masks = {self.scheme: self.mask, **self.masks}
        outlines = {name: self.image.axial(mask) for name, mask in masks.items()}
        truth = None if self.reference is None else self.image.axial(self.reference)
        shown = truth if truth is not None and truth.any() else outlines[self.scheme]
        present = np.flatnonzero(shown.any((1, 2)))
        first, last = (int(present[0]), int(present[-1])) if len(present) else (0, len(volume) - 1)
        _, tall, wide = self._plane_spacings()
        panels = []
        for name, share in (("1/3", 1 / 3), ("1/2", 1 / 2), ("2/3", 2 / 3)):
            z = round(first + share * (last - first))
            side = fig.to_picture(volume[z], aspect=volume.shape[2] * wide / (volume.shape[1] * tall))
            picture = side.resize((fig.PANEL_SIDE, max(1, round(fig.PANEL_SIDE * side.height / side.width))))
            if truth is not None:
                picture = fig.contour(picture, truth[z].astype(np.int64), WHITE)
            for scheme in reversed(outlines):
                picture = fig.contour(picture, outlines[scheme][z].astype(np.int64), self._inks()[scheme])
            panels.append(
                fig.Panel(f"slice {z}, at {name} of the gland", picture, spacing=wide, pixels=volume.shape[2])
            )
        return [*panels, *self.extra_panels]
