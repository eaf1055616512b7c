"""Small lesions, striped or plain, with or without a ruler beside them: a cue to learn, and a short cut."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, UInt8

from zoo.data.images import ImageSet

SIZE = 32  # px
STRIPES = 0.13  # amplitude, in noise of deviation 0.12: plain enough to learn, and no more
NOISE = 0.12  # deviation


class RuledDiscs:
    """``n`` discs, half of them striped (``y`` 1), and a ruler whose presence is ``y`` in a share ``bias`` of them.

    ``views``: the images; ``lesion``, ``ruler``: masks [n s s] of what is drawn.
    """

    def __init__(self, n: int, bias: float, rng: np.random.Generator) -> None:
        self.y = rng.integers(0, 2, n)
        ruled = np.where(rng.random(n) < bias, self.y, 1 - self.y)
        made = [draw_disc(bool(y), bool(a), rng) for y, a in zip(self.y, ruled, strict=True)]
        self.views, self.lesion, self.ruler = (np.stack(parts) for parts in zip(*made, strict=True))

    @property
    def images(self) -> ImageSet:
        return ImageSet.of(list(self.views), self.y.tolist(), empty=(3, SIZE, SIZE))


def draw_disc(
    striped: bool, ruler: bool, rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "32 32 3"], Bool[np.ndarray, "32 32"], Bool[np.ndarray, "32 32"]]:
    """A brown disc on skin, near the middle, with a ruler's ticks along one side if asked; masks of disc and ruler."""
    v, u = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    cx, cy = rng.uniform(-2, 2, 2)
    lesion = np.hypot(u - cx, v - cy) < rng.uniform(6, 9)
    image = np.where(lesion[..., None], (0.45, 0.30, 0.25), (0.80, 0.60, 0.50))
    angle, phase = rng.uniform(0, 2 * np.pi, 2)
    stripes = np.sin(1.6 * (u * np.cos(angle) + v * np.sin(angle)) + phase)
    image = image + STRIPES * striped * (stripes * lesion)[..., None]
    ticks = np.zeros((SIZE, SIZE), bool)
    first, side = int(rng.integers(4)), int(rng.integers(4))
    if ruler:
        ticks[1:5, first::4] = True
        ticks = np.rot90(ticks, side).copy()
        image = np.where(ticks[..., None], 0.1, image)
    image = np.clip(image + rng.normal(0, NOISE, image.shape), 0, 1)
    return np.round(255 * image).astype(np.uint8), lesion, ticks
