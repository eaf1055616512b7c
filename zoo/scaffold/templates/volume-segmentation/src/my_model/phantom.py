"""A bright organ among noise of its own brightness: a pure function of its seed, with the exact mask."""

from __future__ import annotations

import numpy as np

from zoo.data.case import Case


def draw(seed: int, *, size: int = 32, slices: int = 12) -> Case:
    """A float32 volume ``[slices size size]`` with one ellipsoid, and its mask; voxels of 4 x 2 x 2 mm."""
    rng = np.random.default_rng(seed)
    z, y, x = np.mgrid[:slices, :size, :size]
    z, y, x = z / slices, y / size, x / size
    centre, radius = rng.uniform(0.35, 0.65, 3), rng.uniform(0.15, 0.3, 3)
    inside = sum(((at - c) / r) ** 2 for at, c, r in zip((z, y, x), centre, radius, strict=True)) < 1
    volume = 100 + 60 * inside + 60 * rng.standard_normal(inside.shape)
    return Case(
        volume.astype(np.float32),
        f"my-model-{seed}",
        masks={"mask": inside.astype(np.uint8)},
        attributes={"spacing": (4.0, 2.0, 2.0)},
    )
