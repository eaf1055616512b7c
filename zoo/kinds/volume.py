"""A mask of a volume as radiologists read one: three planes, and volumes in ml."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from zoo import figure as fig
from zoo.prediction import Segmentation


@dataclass(kw_only=True)
class VolumeSegmentation(Segmentation):
    """``window``: lowest and highest grey value shown, such as -160 and 240 HU; None for all that the volume has."""

    window: tuple[float, float] | None = None

    def summary(self) -> str:
        sizes = self.sizes()
        if self.unlike or not sizes:
            return super().summary()
        return ", ".join(f"{self.spelled(name)} {size:.4g} ml" for name, size in sizes.items())

    def legend(self) -> list[fig.LegendEntry]:
        sizes = {} if self.unlike else self.sizes()
        if not sizes:
            return super().legend()
        return [
            fig.LegendEntry(f"{self.spelled(name)} ({size:.4g} ml)", fig.colour(i))
            for i, (name, size) in enumerate(sizes.items(), start=1)
        ]

    def panels(self) -> list[fig.Panel]:
        grey = self.image.array.reshape(self.image.size).astype(np.float32)
        low, high = self.window or (float(grey.min()), float(grey.max()))
        volume, mask = (
            self.image.axial(np.clip((grey - low) / max(high - low, 1e-12), 0, 1)),
            self.image.axial(self.mask),
        )
        return [*planes(volume, mask, self._plane_spacings()), *self.extra_panels]

    def _plane_spacings(self) -> tuple[float, float, float]:
        """Millimetres between slices, rows and columns; equal where they aren't known."""
        rows, columns = self.image.axial_spacing() or (1.0, 1.0)
        return float(np.prod(self.image.spacing or (1.0, 1.0, 1.0))) / (rows * columns), rows, columns


def planes(
    volume: np.ndarray, mask: np.ndarray, spacing: tuple[float, float, float], opacity: float = 0.55,
    at: tuple[int, ...] | None = None,
) -> list[fig.Panel]:  # fmt: skip
    """Axial, coronal and sagittal slice through ``at`` (z, y, x), else through the centre of the mask or the volume.

    ``volume``: in [0, 1], ``[z y x]`` with z from the foot, as ``Image.axial`` turns it; ``mask``: labels, same shape.
    ``spacing``: in mm, of z, y and x.
    """
    places = np.argwhere(mask)
    middle = places.mean(0).round() if len(places) else np.array(mask.shape) // 2
    z, y, x = (int(c) for c in (middle if at is None else at))
    deep, tall, wide = spacing
    cuts: list[tuple[str, tuple[Any, ...], tuple[float, float]]] = [
        (f"axial, slice {z}", (z,), (tall, wide)),
        ("coronal", (slice(None, None, -1), y), (deep, wide)),
        ("sagittal", (slice(None, None, -1), slice(None), x), (deep, tall)),
    ]
    panels = []
    for name, cut, (down, across) in cuts:
        inside = mask[cut]
        picture = fig.to_picture(volume[cut], aspect=inside.shape[1] * across / (inside.shape[0] * down))
        shown = fig.overlay(picture, inside.astype(np.int64), opacity)
        panels.append(fig.Panel(name, shown, spacing=across, pixels=inside.shape[1]))
    return panels
