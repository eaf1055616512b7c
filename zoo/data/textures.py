"""Small lesions that differ only in the texture of a patch inside them: a task whose answer is known and local."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from zoo.data.images import ImageSet

TEXTURES = ("plain", "stripes", "checker", "rings", "bar")
SIZE = 32  # px


def draw_lesion(texture: str, rng: np.random.Generator) -> Float[np.ndarray, "32 32 3"]:
    """A brown disc on skin; inside it a small disc carries the texture, turned and shifted at random; in [0, 1]."""
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    cx, cy = rng.uniform(-2, 2, 2)
    lesion = np.hypot(x - cx, y - cy) < rng.uniform(9, 13)
    dx, dy = rng.uniform(-3, 3, 2)
    u, v = x - cx - dx, y - cy - dy
    angle, phase, other, f = *rng.uniform(0, 2 * np.pi, 3), rng.uniform(1.2, 1.5)
    along, across = u * np.cos(angle) + v * np.sin(angle), v * np.cos(angle) - u * np.sin(angle)
    pattern = {
        "plain": np.zeros_like(u),
        "stripes": np.sin(f * along + phase),
        "checker": np.sin(f * along + phase) * np.sin(f * across + other),
        "rings": np.sin(f * np.hypot(u, v) + phase),
        "bar": along * np.exp(0.5 - along**2 / 4.5) / 1.5,  # one dark and one light band side by side
    }[texture]
    image = np.where(lesion[..., None], (0.45, 0.30, 0.25), (0.80, 0.60, 0.50))
    image = image + 0.18 * (pattern * (np.hypot(u, v) < 5.5) * lesion)[..., None]
    image = image * rng.uniform(0.9, 1.1) + 0.08 * rng.standard_normal(image.shape)
    return np.clip(image, 0, 1)


def draw_set(counts: Sequence[int], rng: np.random.Generator) -> ImageSet:
    """So many lesions of every texture, which is their class."""
    y = np.repeat(np.arange(len(counts)), counts)
    views = [np.round(255 * draw_lesion(TEXTURES[label], rng)).astype(np.uint8) for label in y]
    return ImageSet.of(views, y.tolist(), empty=(3, SIZE, SIZE), channels_last=True)
