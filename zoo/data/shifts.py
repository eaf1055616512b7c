"""Small lesions in several looks: one task whose images shift from domain to domain, for learners of many domains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from zoo.data.images import ImageSet

KINDS = ("plain", "stripes", "checker")
"""Textures of the lesion, which are the classes."""
SIDE = 16  # px
RGB = tuple[float, float, float]


@dataclass(frozen=True)
class Look:
    """Colours in [0, 1], contrast of the texture (negative: turned round), standard deviation of the noise."""

    skin: RGB
    lesion: RGB
    contrast: float = 0.2
    noise: float = 0.06


LOOKS = {
    "brown": Look((0.80, 0.60, 0.50), (0.45, 0.30, 0.25)),
    "brown, near copy": Look((0.82, 0.60, 0.48), (0.45, 0.32, 0.25)),
    "brown, noisier copy": Look((0.80, 0.58, 0.50), (0.43, 0.30, 0.27), noise=0.07),
    "inverted": Look((0.25, 0.20, 0.20), (0.70, 0.60, 0.55), -0.2),
    "blue": Look((0.40, 0.50, 0.90), (0.20, 0.25, 0.50), noise=0.10),
    "grey": Look((0.60, 0.60, 0.60), (0.30, 0.30, 0.30), 0.15, 0.15),
}
FOREIGN = Look((0.35, 0.75, 0.45), (0.60, 0.20, 0.40))


def draw_lesion(look: Look, kind: int, rng: np.random.Generator) -> Float[np.ndarray, "16 16 3"]:
    """A disc with one of the textures, turned and shifted at random; in [0, 1]."""
    rows, columns = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    angle, phase, other = rng.uniform(0, 2 * np.pi, 3)
    along = rows * np.cos(angle) + columns * np.sin(angle)
    across = columns * np.cos(angle) - rows * np.sin(angle)
    stripes = np.sin(1.9 * along + phase)
    pattern = (np.zeros_like(along), stripes, stripes * np.sin(1.9 * across + other))[kind]
    inside = (np.hypot(rows, columns) < rng.uniform(4.5, 6.5))[..., None]
    image = np.where(inside, np.array(look.lesion) + look.contrast * pattern[..., None], look.skin)
    return np.clip(image + look.noise * rng.standard_normal(image.shape), 0, 1)


def draw_set(look: Look, count: int, rng: np.random.Generator) -> ImageSet:
    """So many lesions in one look, all classes alike."""
    y = np.arange(count) % len(KINDS)
    views = [np.round(255 * draw_lesion(look, int(kind), rng)).astype(np.uint8) for kind in y]
    return ImageSet.of(views, y.tolist(), empty=(3, SIDE, SIDE))


@dataclass(frozen=True)
class Response:
    """What a device makes of colours: each channel times a gain, plus an offset."""

    gain: RGB
    offset: RGB

    @classmethod
    def drawn(cls, rng: np.random.Generator, gain: float = 0.25, offset: float = 0.08) -> Response:
        """Gains around 1 and offsets around 0 with these standard deviations."""
        return cls(tuple(1 + gain * rng.standard_normal(3)), tuple(offset * rng.standard_normal(3)))

    def __call__(self, image: Float[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w 3"]:
        return image * np.array(self.gain) + np.array(self.offset)
