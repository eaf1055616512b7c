"""One nodule, smooth or spiculated: a pure function of its seed, with the exact label and mask."""

from __future__ import annotations

import numpy as np

from zoo.data.case import Case
from zoo.errors import DataError

KINDS = ("smooth", "spiculated")


def draw(seed: int, *, size: int = 64, kind: str | None = None) -> Case:
    """A uint8 ``[size size]`` image of one nodule, its label and its mask.

    ``kind``: ``smooth`` or ``spiculated``; by turns when not given. Size, place, contrast and noise are drawn alike
    for both kinds, so that only the outline tells them apart.
    """
    if kind not in (None, *KINDS):
        raise DataError(f"there is no nodule of the kind {kind!r}; choose {' or '.join(KINDS)}")
    rng = np.random.default_rng(seed)
    label = kind or KINDS[seed % 2]
    y, x = np.mgrid[:size, :size] / size
    cy, cx = rng.uniform(0.4, 0.6, 2)
    angle, distance = np.arctan2(y - cy, x - cx), np.hypot(y - cy, x - cx)
    lobes = 0.08 * np.cos(2 * angle + rng.uniform(0, 2 * np.pi))
    spikes = 0.3 * np.cos(rng.integers(9, 15) * angle + rng.uniform(0, 2 * np.pi)) if label == "spiculated" else 0.0
    mask = distance < rng.uniform(0.16, 0.26) * (1 + lobes + spikes)
    image = rng.uniform(0.2, 0.4) + rng.uniform(0.2, 0.4) * mask + 0.05 * rng.standard_normal((size, size))
    pixels = np.uint8(255 * np.clip(image, 0, 1))
    return Case(pixels, f"my-model-{seed}", masks={"mask": mask.astype(np.uint8)}, label=label)
