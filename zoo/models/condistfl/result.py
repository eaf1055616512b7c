"""Organs and tumours in three planes and as surfaces, with their volumes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer
from PIL import Image as PILImage

from zoo import figure as fig
from zoo import media
from zoo.kinds import VolumeSegmentation

WINDOW = (-54.0, 258.0)
"""Hounsfield units that the network sees (Sec. 3)."""
COARSEST = 96  # cells along the longest side of the surface's grid


@dataclass(kw_only=True)
class OrgansAndTumours(VolumeSegmentation):
    """Labels on the grid of the input; volumes in ml where the size of a voxel is known."""

    def panels(self) -> list[fig.Panel]:
        tumours = [number for number, name in enumerate(self.labels) if name.endswith(" tumour")]
        shown = surfaces(self.image.axial(self.mask), self._plane_spacings(), tumours)
        if shown is None:
            return super().panels()
        return [*super().panels(), fig.Panel("surfaces, from the front", shown)]


def surfaces(
    mask: Integer[np.ndarray, "z y x"], spacing: tuple[float, float, float], through: Sequence[int] = (),
    side: int = fig.PANEL_SIDE,
) -> PILImage.Image | None:  # fmt: skip
    """Every label's surface (marching cubes), seen from the front and a little above; ``None`` for an empty mask.

    ``mask``: z from the foot, y from the front, as ``Image.axial`` turns it. A nearer surface hides a farther one, but
    the labels ``through``, such as tumours, are seen through whatever hides them.
    """
    from skimage.measure import marching_cubes

    step = max(1, -(-max(mask.shape[1:]) // COARSEST))
    coarse = mask[:, ::step, ::step]
    scale = np.array(spacing) * (1, step, step)
    points, normals, inks, owners = [], [], [], []
    for label in (int(value) for value in np.unique(coarse) if value):
        solid = np.pad(coarse == label, 1).astype(np.float32)
        vertices, _, normal, _ = marching_cubes(solid, 0.5)
        points.append((vertices - 1) * scale)
        normals.append(normal / scale / np.linalg.norm(normal / scale, axis=1, keepdims=True).clip(1e-9))
        inks.append(np.tile(np.array(fig.colour(label), np.float32), (len(vertices), 1)))
        owners.append(np.full(len(vertices), label))
    if not points:
        return None
    scene = np.concatenate(points), np.concatenate(normals), np.concatenate(inks), float(scale.max()), side
    inner = np.isin(np.concatenate(owners), list(through))
    picture, depth = _painted(*scene, np.ones_like(inner))
    if inner.any():
        seen, near = _painted(*scene, inner)
        hidden = np.isfinite(near) & (near > depth)
        picture[hidden] = (0.4 * picture[hidden] + 0.6 * seen[hidden]).astype(np.uint8)
    return PILImage.fromarray(picture)


def _painted(
    points: Float[np.ndarray, "n 3"], normals: Float[np.ndarray, "n 3"], inks: Float[np.ndarray, "n 3"],
    pitch: float, side: int, chosen: Bool[np.ndarray, " n"],
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Chosen vertices as discs as wide as their distance, lit from above and the front; and how far each pixel is.

    The frame is that of all vertices.
    """
    tilt = np.deg2rad(15)
    z, y, x = points.T
    up, away = z * np.cos(tilt) - y * np.sin(tilt), y * np.cos(tilt) + z * np.sin(tilt)
    reach = max(float(np.ptp(x)), float(np.ptp(up)), 1e-6)
    scale = 0.86 * side / reach
    u = side / 2 + (x - (x.max() + x.min()) / 2) * scale
    v = side / 2 - (up - (up.max() + up.min()) / 2) * scale
    light = np.array([0.55, -0.75, -0.35])
    bright = np.abs(normals @ (light / np.linalg.norm(light)))
    colours = inks * (0.45 + 0.55 * bright)[:, None]
    u, v, away, colours = (one[chosen] for one in (u, v, away, colours))
    depth = np.full((side, side), np.inf)
    canvas = np.full((side, side, 3), 255, np.uint8)
    radius = int(np.clip(np.ceil(0.6 * pitch * scale), 1, side // 30))
    for dv in range(-radius, radius + 1):
        for du in range(-radius, radius + 1):
            if du * du + dv * dv > radius * radius:
                continue
            row, column = (v + dv).round().astype(int), (u + du).round().astype(int)
            inside = (row >= 0) & (row < side) & (column >= 0) & (column < side)
            order = np.argsort(-away[inside], kind="stable")  # the nearest is written last
            row, column, near, ink = (one[inside][order] for one in (row, column, away, colours))
            flat = row * side + column
            last = len(flat) - 1 - np.unique(flat[::-1], return_index=True)[1]
            closer = near[last] < depth[row[last], column[last]]
            last = last[closer]
            depth[row[last], column[last]] = near[last]
            canvas[row[last], column[last]] = ink[last]
    return canvas, depth


def notes_on(image: media.Image, mask: Integer[np.ndarray, "*grid"], labels: tuple[str, ...]) -> tuple[str, ...]:
    """What a reader of the labels should know."""
    notes = []
    if float(image.array.min()) > -200:
        notes.append("no value is below -200, so these may be no Hounsfield units, which condistfl takes")
    if not mask.any():
        notes.append(f"none of {', '.join(labels[1:])} was found")
    return tuple(notes)
