"""A procedural MR slice with its complex image: ellipses of one of three hospitals, with a linear phase."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Complex, Float

from zoo.data.case import Case
from zoo.errors import DataError

SiteName = Literal["any", "a", "b", "c"]
SITES = {"a": (0.3, 0.4, 10), "b": (0.5, 0.25, 6), "c": (0.2, 0.6, 14)}
"""Grey level of the body, greatest contrast of an ellipse in it, and how many there are."""


def k_space(seed: int, *, size: int = 64, site: SiteName = "any") -> Case:
    """MR slice with its fully sampled k-space: ellipses in a body, linear phase, three hospitals.

    Args:
        seed: the phantom is a pure function of it and the options.
        size: width and height, pixels (16 to 1,024).
        site: one of ``SITES``; ``any`` takes the one that the seed says.

    Returns:
        A case whose float32 ``image`` [h w] is the magnitude. Attributes: ``kspace`` (complex64, centred), ``site``.

    Raises:
        DataError: ``size`` is out of its range.
    """
    if not 16 <= size <= 1024:
        raise DataError(f"the k-space phantom draws 16 to 1,024 pixels, not {size}")
    rng = np.random.default_rng([0x6B5A, seed])
    drawn = "abc"[int(rng.integers(3))]
    name = drawn if site == "any" else site
    x = slice_of(rng, size, name)
    k = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(x), norm="ortho")).astype(np.complex64)
    return Case(np.abs(x), f"k-space-{seed}", attributes={"kspace": k, "site": name})


def slice_of(rng: np.random.Generator, size: int, site: str) -> Complex[np.ndarray, "h w"]:
    """The complex image, of magnitude 1 at most."""
    base, contrast, count = SITES[site]
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")
    image = base * _ellipse(x, y, (0.0, 0.0), tuple(rng.uniform(0.7, 0.9, 2)), 0.0)
    for _ in range(count):
        inside = _ellipse(x, y, tuple(rng.uniform(-0.6, 0.6, 2)), tuple(rng.uniform(0.1, 0.4, 2)),
                          float(rng.uniform(0, np.pi)))  # fmt: skip
        image = image + float(rng.uniform(-contrast, contrast)) * inside * (image > 0)
    image = np.clip(image, 0, 1)
    slope = rng.uniform(-0.5, 0.5, 2)
    turned = image * np.exp(1j * np.pi * (slope[0] * x + slope[1] * y))
    return (turned / max(float(image.max()), 1e-6)).astype(np.complex64)


def _ellipse(
    x: np.ndarray, y: np.ndarray, centre: tuple[float, ...], axes: tuple[float, ...], angle: float
) -> Float[np.ndarray, "h w"]:
    u, v = x - centre[0], y - centre[1]
    c, s = np.cos(angle), np.sin(angle)
    return (((c * u + s * v) / axes[0]) ** 2 + ((c * v - s * u) / axes[1]) ** 2 <= 1).astype(float)
