"""From sections to layers of points (Sec. 3, Point Clouds), and what is counted and filled in on them.

Coordinates are x to the right and y down, in pixels of the section as it was scanned, whatever it was reduced to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage
from skimage.filters import threshold_otsu

BAND_SHARE = 1 / 3  # of the points of a layer, Sec. 5
LEAST_SATURATION = 0.06  # below it everything is glass: Otsu would part its noise

BandMode = Literal["or", "and"]


def tissue_mask(rgb: UInt8[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"]:
    """Where a stained section is not glass: Otsu's threshold on the saturation. The paper leaves this step open."""
    high = rgb.max(-1).astype(np.float32)
    saturation = np.where(high > 0, (high - rgb.min(-1)) / np.maximum(high, 1), 0)
    return _above_otsu(ndimage.uniform_filter(saturation, 3))


def dense_mask(grey: UInt8[np.ndarray, "h w"], dark: bool = False) -> Bool[np.ndarray, "h w"]:
    """Where an image without stain differs from its background: Otsu's threshold on the grey level."""
    values = ndimage.uniform_filter(grey.astype(np.float32) / 255, 3)
    return _above_otsu(1 - values if dark else values)


def _above_otsu(values: Float[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    if float(values.max() - values.min()) < LEAST_SATURATION:
        return np.zeros(values.shape, bool)
    return values > max(float(threshold_otsu(values)), LEAST_SATURATION)


def grid_of(mask: Bool[np.ndarray, "h w"], step: int) -> Bool[np.ndarray, "gh gw"]:
    """The mask down-sampled: a cell of ``step`` x ``step`` pixels is positive if half of it is."""
    h, w = mask.shape
    padded = np.pad(mask, ((0, -h % step), (0, -w % step)))
    return padded.reshape(padded.shape[0] // step, step, -1, step).mean((1, 3)) >= 0.5


@dataclass(frozen=True)
class Cloud:
    """Points of one kind of tissue in one layer."""

    points: Float[np.ndarray, "n 2"]  # x, y in pixels of the scanned section
    density: Float[np.ndarray, " n"]  # in [0, 1]: share of the cells within two cells that are positive, too

    def __len__(self) -> int:
        return len(self.points)


def cloud_of(
    grid: Bool[np.ndarray, "gh gw"], cell: float, rng: np.random.Generator, most: int | None = None, jitter: bool = True
) -> Cloud:
    """A point for each positive cell of ``cell`` pixels, at most ``most`` of them, drawn at random.

    ``jitter`` moves every point within its cell: two layers of exact grids lock onto each other's rows and columns.
    """
    rows, columns = np.nonzero(grid)
    density = ndimage.convolve(grid.astype(np.float32), _disc(2), mode="constant")[rows, columns]
    places = np.column_stack([columns, rows]) + 0.5
    if jitter:
        places = places + rng.uniform(-0.5, 0.5, places.shape)
    points = places * cell - 0.5  # the centre of pixel 0 is 0
    if most is not None and len(points) > most:
        kept = np.sort(rng.choice(len(points), most, replace=False))
        points, density = points[kept], density[kept]
    return Cloud(points.astype(np.float32), density.astype(np.float32))


def _disc(radius: int) -> Float[np.ndarray, "k k"]:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disc = (x**2 + y**2 <= radius**2).astype(np.float32)
    return disc / disc.sum()


@dataclass(frozen=True)
class Layer:
    """One section as two clouds that share a frame."""

    tumour: Cloud
    tissue: Cloud
    centre: tuple[float, float]  # x, y of the middle of the section
    size: tuple[int, int]  # height, width of the scanned section in pixels


@dataclass(frozen=True)
class Band:
    """Two bands that cross: ``u_min < x < u_max`` or ``v_min < y < v_max``, in pixels (Sec. 3, Axial Registration)."""

    u_min: float
    u_max: float
    v_min: float
    v_max: float

    def select(self, points: Float[np.ndarray, "n 2"], mode: BandMode = "or") -> Bool[np.ndarray, " n"]:
        """Which points lie in the bands. ``and`` is what Algorithm 1 prints: only where both overlap."""
        vertical = (points[:, 0] > self.u_min) & (points[:, 0] < self.u_max)
        horizontal = (points[:, 1] > self.v_min) & (points[:, 1] < self.v_max)
        return vertical | horizontal if mode == "or" else vertical & horizontal


def densest_band(points: Float[np.ndarray, "n 2"], mode: BandMode = "or", share: float = BAND_SHARE) -> Band:
    """Bands through the densest columns and rows, just wide enough for ``share`` of the points.

    The paper says that density and position decide, not how: here both bands have one half-width and are centred on the
    peaks of the smoothed histograms of x and y.
    """
    u, v = (_peak(points[:, axis]) for axis in (0, 1))
    away = np.abs(points - np.array([u, v], points.dtype))
    needed = away.min(1) if mode == "or" else away.max(1)  # the half-width from which a point is in
    last = min(len(points), max(1, round(share * len(points)))) - 1
    half = float(np.nextafter(np.partition(needed, last)[last], np.float32(np.inf)))
    return Band(u - half, u + half, v - half, v + half)


def _peak(values: Float[np.ndarray, " n"]) -> float:
    counts, edges = np.histogram(values, bins=64)
    place = int(ndimage.gaussian_filter1d(counts.astype(np.float64), 3).argmax())
    return float(edges[place] + edges[place + 1]) / 2


def planes_between(heights: Sequence[float], copies: int) -> list[tuple[int, float]]:
    """The planes of a stack after interpolation: (layer, height), each layer ``copies`` times.

    An empty plane between two layers takes the points of the nearer one, the lower of equals.
    """
    planes = []
    for layer, height in enumerate(heights):
        planes.append((layer, height))
        if layer + 1 < len(heights):
            gap = heights[layer + 1] - height
            planes += [(layer + (2 * k > copies), height + gap * k / copies) for k in range(1, copies)]
    return planes
