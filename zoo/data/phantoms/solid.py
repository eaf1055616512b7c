"""Solid shapes and random fields that volume phantoms are made of.

Coordinates: x from the patient's right to the left and z from foot to head span [-1, 1]; y from front to back spans
[-1.25, 1.25], so that a trunk of depth 1 fits a square slice. Arrays are ``[z h w]``: a slice as a radiologist sees it.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from zoo import media
from zoo.data.volumes import Grid, resample

Field = Float[np.ndarray, "z h w"]
Point = tuple[float, float, float]


class Space:
    """The coordinates of every voxel, and shapes in them; ``wide`` is the slice's field of view."""

    def __init__(self, slices: int, size: int, rng: np.random.Generator, wide: float = 1.0) -> None:
        self.shape, self.rng = (slices, size, size), rng
        spans = (1, 1.25 * wide, wide)
        axes = [np.linspace(-span, span, n, dtype=np.float32) for span, n in zip(spans, self.shape, strict=True)]
        self.z, self.y, self.x = np.meshgrid(*axes, indexing="ij", sparse=True)

    def solid(self, centre: Point, radii: Point, tilt: float = 0.0, roughness: float = 0.03) -> Field:
        """How far inside a wavy ellipsoid a voxel lies: 1 at its centre, 0 on its surface, negative outside.

        Far away it is -1. Points and radii are ``(x, y, z)``; ``tilt``, radians, lifts the end at the patient's left.
        """
        waves = self.rng.normal(size=(4, 3))
        waves *= self.rng.uniform(2, 5, (4, 1)) / np.linalg.norm(waves, axis=1, keepdims=True)
        phases = self.rng.uniform(0, 2 * math.pi, 4)
        reach = (max(radii[0], radii[2]) * 1.3, radii[1] * 1.3, max(radii[0], radii[2]) * 1.3)
        box = tuple(
            _range(axis.ravel(), c, r) for axis, c, r in zip((self.z, self.y, self.x), centre[::-1], reach, strict=True)
        )
        x, y, z = self.x[:, :, box[2]] - centre[0], self.y[:, box[1]] - centre[1], self.z[box[0]] - centre[2]
        u = (x * math.cos(tilt) + z * math.sin(tilt)) / radii[0]
        v = y / radii[1]
        w = (z * math.cos(tilt) - x * math.sin(tilt)) / radii[2]
        distance = np.sqrt(u * u + v * v + w * w)
        steady = 1 / np.maximum(distance, 0.3)
        wave = sum(
            np.cos((a * u + b * v + c * w) * steady + phase) for (a, b, c), phase in zip(waves, phases, strict=True)
        )
        inside = np.full(self.shape, -1, np.float32)
        inside[box] = 1 - distance / (1 + roughness * wave)
        return inside

    def tube(self, centre: tuple[float, float], radii: tuple[float, float], sway: float = 0.02) -> Field:
        """How far inside a tube from foot to head a voxel lies, as :meth:`solid`; its middle sways by ``sway``."""
        phase, turns = self.rng.uniform(0, 2 * math.pi, 2), self.rng.uniform(1, 3)
        x = self.x - centre[0] - sway * np.sin(turns * self.z + phase[0])
        y = self.y - centre[1] - sway * np.sin(turns * self.z + phase[1])
        return 1 - np.sqrt((x / radii[0]) ** 2 + (y / radii[1]) ** 2)

    def noise(self, grain: float) -> Field:
        """A random field of mean 0 and deviation 1, drawn coarsely and enlarged; ``grain`` is the size of its blobs."""
        coarse = [max(4, min(n, round(3 / grain))) for n in self.shape]
        field = ndimage.gaussian_filter(self.rng.standard_normal(coarse), 0.8, mode="reflect")
        zoom = [n / m for n, m in zip(self.shape, coarse, strict=True)]
        field = ndimage.zoom(field, zoom, order=1, mode="nearest", grid_mode=True)
        return ((field - field.mean()) / max(float(field.std()), 1e-9)).astype(np.float32)

    def near(self, point: Point, deviation: float = 0.02) -> Point:
        """A point of this patient's own."""
        x, y, z = np.array(point) + self.rng.normal(0, deviation, 3)
        return float(x), float(y), float(z)

    def about(self, radii: Point, share: float = 0.1) -> Point:
        """Radii of this patient's own."""
        a, b, c = np.array(radii) * self.rng.uniform(1 - share, 1 + share, 3)
        return float(a), float(b), float(c)


def _range(axis: Float[np.ndarray, " n"], centre: float, reach: float) -> slice:
    low, high = np.searchsorted(axis, (centre - reach, centre + reach))
    return slice(int(low), int(high))


def stored(
    values: np.ndarray, masks: dict[str, np.ndarray], mm: Point, orientation: str, meta: dict[str, object]
) -> tuple[media.Image, dict[str, np.ndarray]]:
    """The volume as a scanner stores it, in ``orientation``; ``mm`` is how wide, deep and tall it is."""
    shape = values.shape
    affine = np.diag([-mm[0] / shape[2], -mm[1] / shape[1], mm[2] / shape[0], 1.0])
    affine[:3, 3] = mm[0] / 2, mm[1] / 2, -mm[2] / 2
    drawn = Grid((shape[0], shape[1], shape[2]), affine)
    grid = drawn.oriented(orientation)
    moved = {name: resample(mask, drawn, grid, mode="nearest") for name, mask in masks.items()}
    image = media.Image(
        resample(values, drawn, grid, mode="nearest"),
        format="phantom",
        spacing=grid.spacing,
        affine=grid.affine,
        meta={**meta, "orientation": grid.orientation},
        ndim_spatial=3,
    )
    return image, moved
