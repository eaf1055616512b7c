"""Bright lesions on tissue that is lit from one side: a pure function of its seed, with the exact mask."""

from __future__ import annotations

import numpy as np
from PIL import Image

from zoo.data.case import Case


def draw(seed: int, *, size: int = 64, light: float = 0.5) -> Case:
    """A uint8 ``[size size]`` image with one to three lesions, and their mask.

    ``light``: how much brighter the tissue is on one side than on the other, in [0, 1]. A lesion stands out from what
    lies around it, yet may be darker than healthy tissue elsewhere.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    angle = rng.uniform(0, 2 * np.pi)
    slope = np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5)
    coarse = Image.fromarray(rng.standard_normal((7, 7)).astype(np.float32))
    texture = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))
    image = 0.4 + light * slope + 0.03 * texture

    mask = np.zeros((size, size), bool)
    for _ in range(rng.integers(1, 4)):
        cy, cx = rng.uniform(0.15, 0.85, 2)
        ry, rx = rng.uniform(0.06, 0.13, 2)
        lesion = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1
        image[lesion & ~mask] += rng.uniform(0.12, 0.22)
        mask |= lesion
    image += 0.04 * rng.standard_normal((size, size))
    pixels = np.uint8(255 * np.clip(image, 0, 1))
    return Case(pixels, f"my-model-{seed}", masks={"mask": mask.astype(np.uint8)})
