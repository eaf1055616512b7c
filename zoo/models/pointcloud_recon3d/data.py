"""From sections to layers of points (Sec. 3, Point Clouds), and the planes that are filled in between them.

Coordinates are x to the right and y down, in pixels of the section as it was scanned, whatever it was reduced to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage


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

    def mapped(self, move: Callable[[Float[np.ndarray, "n 2"]], Float[np.ndarray, "n 2"]]) -> Layer:
        """All points moved alike, tumour and tissue."""
        tumour, tissue = (replace(cloud, points=move(cloud.points)) for cloud in (self.tumour, self.tissue))
        return replace(self, tumour=tumour, tissue=tissue)


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
