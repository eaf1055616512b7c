"""Random fields and outlines that several phantoms are made of. Coordinates span [-1, 1], y down."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import gaussian_filter

from zoo.errors import DataError

Map = Float[np.ndarray, "h w"]


def check_size(phantom: str, size: int, least: int = 32, most: int = 1024) -> None:
    """Raise ``DataError`` for a side that the phantom doesn't draw."""
    if not least <= size <= most:
        raise DataError(f"the {phantom} phantom draws {least} to {most} px, not {size}; choose size within that range")


def grid(size: int) -> tuple[Map, Map]:
    """x and y of every pixel."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    return x, y


def noise(size: int, scale: float, rng: np.random.Generator, stretch: tuple[float, float] = (1, 1)) -> Map:
    """A Gaussian field of mean 0 and deviation 1; ``scale`` is its grain, ``stretch`` that of y and x against it."""
    sigma = (scale * stretch[0] * size / 2, scale * stretch[1] * size / 2)
    field = gaussian_filter(rng.standard_normal((size, size)), sigma, mode="reflect")
    return (field - field.mean()) / max(float(field.std()), 1e-9)


def edge(distance: Map, width: float = 0.02) -> Map:
    """1 where ``distance`` is positive, 0 where negative, soft in between."""
    return 1 / (1 + np.exp(-np.clip(distance / width, -30, 30)))


def blob(
    x: Map,
    y: Map,
    centre: tuple[float, float],
    radii: tuple[float, float],
    angle: float,
    roughness: float,
    rng: np.random.Generator,
    waves: tuple[int, int] = (2, 7),
) -> Map:
    """How far inside a wavy ellipse a point lies: 1 at its centre, 0 on its outline, negative outside.

    ``roughness``: deviation of the outline's radius, as a share of it; ``waves``: fewest and most bumps around.
    """
    u, v = x - centre[0], y - centre[1]
    along = (u * math.cos(angle) + v * math.sin(angle)) / radii[0]
    across = (v * math.cos(angle) - u * math.sin(angle)) / radii[1]
    theta = np.arctan2(across, along)
    radius = np.ones_like(x)
    for k in range(waves[0], waves[1] + 1):
        radius += roughness / math.sqrt(k) * rng.normal() * np.cos(k * theta + rng.uniform(0, 2 * math.pi))
    return 1 - np.hypot(along, across) / np.clip(radius, 0.3, None)


def as_bytes(picture: Float[np.ndarray, "*axes"]) -> np.ndarray:
    """A picture in [0, 1] as uint8."""
    return (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)


def as_mask(inside: Bool[np.ndarray, "h w"]) -> np.ndarray:
    return inside.astype(np.uint8)
