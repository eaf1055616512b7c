"""A procedural microscope image of a human embryo at the blastocyst stage, with its components.

From outside in: zona pellucida, a bright glassy shell; trophectoderm, a thin layer of cells along its inside; the fluid
of the blastocoel; and the inner cell mass, a clump of small cells that sits on the trophectoderm. Light comes from one
side, as in Hoffman modulation contrast.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.ndimage import gaussian_filter

from zoo.data.case import Case
from zoo.data.phantoms.texture import Map, as_bytes, blob, check_size, edge, grid, noise

BACKGROUND, ZP, TE, BL, ICM = range(5)


def embryo(seed: int, *, size: int = 128) -> Case:
    """Blastocyst under the microscope, with zona pellucida, trophectoderm, blastocoel and inner cell mass.

    Args:
        seed: the phantom is a pure function of it and the options.
        size: width and height of the square image, px (32 to 1024).

    Returns:
        A case with a uint8 [h w] image and the uint8 [h w] mask: 0 background, 1 zona pellucida, 2 trophectoderm,
        3 blastocoel, 4 inner cell mass.

    Raises:
        DataError: the size is out of its range.
    """
    check_size("embryo", size)
    rng = np.random.default_rng([0xE3B210, seed])
    x, y = grid(size)
    mask, relief = _components(x, y, rng)
    grey = _light(mask, relief, x, y, rng)
    return Case(as_bytes(grey), f"embryo-{seed}", masks={"mask": mask})


def _components(x: Map, y: Map, rng: np.random.Generator) -> tuple[np.ndarray, Map]:
    """The classes, and a smooth height of the surface that the light falls on."""
    centre = (rng.uniform(-0.14, 0.14), rng.uniform(-0.14, 0.14))
    radius = rng.uniform(0.66, 0.82)
    radii, angle = (radius * rng.uniform(0.92, 1.08), radius), rng.uniform(0, math.pi)
    outside = blob(x, y, centre, radii, angle, 0.012, rng, (2, 5)) * radius  # distance inwards
    shell, layer = rng.uniform(0.10, 0.17), rng.uniform(0.085, 0.13)
    bumps = 0.018 * np.cos(rng.integers(9, 16) * np.arctan2(y - centre[1], x - centre[0]) + rng.uniform(0, 6))
    theta = rng.uniform(0, 2 * math.pi)
    depth = radius - shell - layer
    clump = rng.uniform(0.24, 0.36)
    place = (depth - 0.62 * clump) * np.array([math.cos(theta), math.sin(theta)]) + centre
    inner = blob(x, y, (place[0], place[1]), (clump, clump * rng.uniform(0.75, 1.0)), theta + math.pi / 2, 0.05, rng)
    mask = np.zeros(x.shape, np.uint8)
    mask[outside > 0] = ZP
    mask[outside > shell] = TE
    mask[outside > shell + layer + bumps] = BL
    mask[(inner > 0) & (mask == BL)] = ICM
    cells = noise(len(x), 0.05, rng)
    relief = 0.5 * np.clip(outside, 0, None) ** 0.5 + 0.25 * edge(inner, 0.1)
    return mask, relief + 0.012 * cells * np.isin(mask, (TE, ICM))


def _light(mask: np.ndarray, relief: Map, x: Map, y: Map, rng: np.random.Generator) -> Map:
    size = len(x)
    levels = np.array([0.42, 0.62, 0.47, 0.50, 0.55]) + rng.normal(0, 0.025, 5)
    grain = np.array([0.010, 0.012, 0.055, 0.015, 0.075])  # how much the cells of a component differ
    coarse = noise(size, 0.045, rng)
    grey = gaussian_filter(levels[mask] + grain[mask] * coarse, 0.004 * size)
    direction = rng.uniform(0, 2 * math.pi)
    dy, dx = np.gradient(gaussian_filter(relief, 0.012 * size), 2 / size)
    slope = dx * math.cos(direction) + dy * math.sin(direction)
    grey = grey + 0.16 * np.tanh(1.2 * slope)
    grey = grey + rng.uniform(0.02, 0.10) * (x * math.cos(direction) + y * math.sin(direction))
    for _ in range(int(rng.integers(0, 4))):  # debris beside it
        u, v = rng.uniform(-1, 1, 2)
        spot = np.exp(-((x - u) ** 2 + (y - v) ** 2) / rng.uniform(0.02, 0.05) ** 2)
        grey = grey + 0.2 * spot * (mask == BACKGROUND)
    return (grey - 0.5) * rng.uniform(0.85, 1.15) + 0.5 + rng.normal(0, 0.03) + rng.normal(0, 0.022, mask.shape)
