"""The same place twice, with what came in between: a pure function of its seed, with the exact mask of the new."""

from __future__ import annotations

import numpy as np

from zoo.data.case import Case


def draw(seed: int, *, size: int = 64) -> Case:
    """Two uint8 ``[size size]`` images of one place: nodules that stay, in three of four one that is new, and its mask.

    The light differs from one image to the other, so that brightness by itself says nothing.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size

    def nodule() -> np.ndarray:
        (cy, cx), radius = rng.uniform(0.15, 0.85, 2), rng.uniform(0.05, 0.11)
        return np.hypot(y - cy, x - cx) < radius

    old = np.any([nodule() for _ in range(rng.integers(1, 4))], axis=0)
    new = nodule() & ~old if seed % 4 else np.zeros_like(old)
    images = []
    for there in (old | new, old):
        light = rng.uniform(0.3, 0.5) + rng.uniform(-0.2, 0.2) * (x - 0.5)
        image = light + 0.25 * there + 0.04 * rng.standard_normal((size, size))
        images.append(np.uint8(255 * np.clip(image, 0, 1)))
    current, prior = images
    return Case(current, f"change-finder-{seed}", masks={"mask": new.astype(np.uint8)}, inputs={"prior": prior})
