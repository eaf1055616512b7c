"""Pictures of nothing in particular: objects of any outline, texture and contrast on any ground, each with its mask.

A network that is to follow prompts on images of any kind must not learn what a phantom's objects look like. These have
nothing in common but that an object is of one kind within its outline (after B. Billot et al., SynthSeg, 2023, where
images of random contrast make a network that doesn't depend on it).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy.ndimage import binary_dilation, gaussian_filter

from zoo.data.phantoms.texture import Map, as_bytes, blob, edge, grid, noise

MOST = 9  # objects


def shapes(seed: int, size: int) -> tuple[UInt8[np.ndarray, "h w 3"], list[Bool[np.ndarray, "h w"]]]:
    """An image and what can be pointed at in it: objects as far as later ones leave them visible, and their cores."""
    rng = np.random.default_rng([0x5A9E5, seed])
    x, y = grid(size)
    colourful = rng.random() < 0.5
    picture = _fill(size, colourful, rng)
    objects: list[np.ndarray] = []
    scale = np.exp(rng.uniform(np.log(0.06), np.log(0.5)))  # objects of an image are of about one size
    look = _fill(size, colourful, rng)
    alike = rng.random() < 0.4  # and often of one look
    softness = float(rng.choice([0.005, 0.015, 0.04]))
    for _ in range(int(rng.integers(1, MOST + 1))):
        inside = _outline(x, y, scale, rng)
        if not alike:
            look = _fill(size, colourful, rng)
        picture, objects = _laid(picture, look, inside, softness, objects)
        if rng.random() < 0.3:  # a rim, which belongs to the object
            rim = edge(inside, softness) * (1 - edge(inside - rng.uniform(0.05, 0.2), softness))
            picture = picture + rng.uniform(-0.3, 0.3) * rim[..., None]
        if rng.random() < 0.25:  # a core, which can be meant instead
            deep = inside - rng.uniform(0.3, 0.6)
            core = deep > 0
            picture = picture + edge(deep, softness)[..., None] * (_fill(size, colourful, rng) - picture)
            objects.append(core)
    image = as_bytes(_taken(picture, rng))
    return image, [one for one in objects if one.any() and _seen(image, one)]


def _seen(image: UInt8[np.ndarray, "h w 3"], one: Bool[np.ndarray, "h w"]) -> bool:
    """Whether an object differs from what is around it: by its mean, or by how rough it is."""
    around = binary_dilation(one, iterations=max(2, len(image) // 32)) & ~one
    inside, outside = image[one].astype(float), image[around].astype(float)
    if not len(outside):
        return False
    rough = inside.std(0).mean() + 2, outside.std(0).mean() + 2
    return bool(np.abs(inside.mean(0) - outside.mean(0)).max() > 0.4 * min(rough) + 4 or max(rough) > 2 * min(rough))


def _laid(
    picture: np.ndarray, look: np.ndarray, inside: Map, softness: float, objects: list[np.ndarray]
) -> tuple[np.ndarray, list[np.ndarray]]:
    here = inside > 0
    picture = picture + edge(inside, softness)[..., None] * (look - picture)
    return picture, [*(one & ~here for one in objects), here]


def _outline(x: Map, y: Map, scale: float, rng: np.random.Generator) -> Map:
    centre = (rng.uniform(-0.85, 0.85), rng.uniform(-0.85, 0.85))
    long = scale * rng.uniform(0.6, 1.5)
    wide = long * rng.uniform(0.25, 1)
    found = blob(x, y, centre, (long, wide), rng.uniform(0, np.pi), float(rng.choice([0.02, 0.1, 0.25])), rng, (2, 7))
    if rng.random() < 0.15:  # cut straight, as instruments and borders are
        angle = rng.uniform(0, 2 * np.pi)
        along = (x - centre[0]) * np.cos(angle) + (y - centre[1]) * np.sin(angle)
        found = np.minimum(found, (0.4 * wide - along) / wide)
    return found


def _fill(size: int, colourful: bool, rng: np.random.Generator) -> Float[np.ndarray, "h w 3"]:
    """One look: a colour with grains and streaks of some size."""
    colour = rng.uniform(0.05, 0.95, 3) if colourful else np.full(3, rng.uniform(0.05, 0.95))
    grain = float(np.exp(rng.uniform(np.log(0.01), np.log(0.4))))
    stretch = (1.0, float(rng.choice([1, 1, 3])))
    strength = float(rng.choice([0.0, 0.03, 0.08, 0.15]))
    field = strength * noise(size, grain, rng, stretch if rng.random() < 0.5 else stretch[::-1])
    tint = 1 + (0.5 * rng.normal(size=3) if colourful else 0)
    return (colour + field[..., None] * tint).astype(np.float32)


def _taken(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As a device would: uneven light, blur, speckle or noise, shadows."""
    size = len(picture)
    picture = picture * (1 + rng.choice([0, 0.15, 0.3]) * noise(size, 0.6, rng))[..., None]
    if rng.random() < 0.3:
        grain = rng.uniform(0.5, 2.5) * size / 256
        parts = [gaussian_filter(rng.standard_normal((size, size)), (grain, grain * rng.uniform(1, 2))) for _ in "xy"]
        speckle = np.hypot(*parts)
        picture = picture * (speckle / speckle.mean())[..., None] ** rng.uniform(0.4, 1.0)
    if rng.random() < 0.2:  # shadows in the direction of a beam
        across = gaussian_filter(rng.standard_normal(size), size * rng.uniform(0.01, 0.06))
        depth = np.linspace(0, 1, size)[:, None]
        shadow = np.clip(across / max(across.std(), 1e-9), 0, 2) * depth
        picture = picture * (1 - 0.35 * shadow)[..., None]
    picture = gaussian_filter(picture, (*2 * [float(rng.choice([0, 0.6, 1.5])) * size / 256], 0))
    return picture + rng.choice([0, 0.02, 0.06]) * rng.standard_normal((size, size, 1))
