"""Random changes of images, and of masks with them, all drawn from the numpy generator that is given.

Pieces for one image (``turned``, ``random_square``) and for a batch (``flipped``, ``warped``, ``recoloured``,
``blurred``), and three recipes made of them: ``cropped_views``, ``turned_views`` and ``big_aug``. Batches are floats in
[0, 1] unless said otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from zoo.data.images import pad_to

# ---- one image, its planes and masks alike ---------------------------------------------------------------------------


def turned(
    array: Shaped[np.ndarray, "*shape"], turns: int, mirror: bool, axes: tuple[int, int] = (0, 1)
) -> Shaped[np.ndarray, "*shape"]:
    """Turned by so many quarters in the plane of ``axes`` (rows, columns), then mirrored left to right; a view."""
    array = np.rot90(array, turns, axes)
    return np.flip(array, axes[1]) if mirror else array


def random_turn(rng: np.random.Generator) -> tuple[int, bool]:
    """Quarters, and whether to mirror, for :func:`turned`."""
    return int(rng.integers(4)), bool(rng.random() < 0.5)


def random_square(
    planes: Shaped[np.ndarray, "c h w"], size: int, rng: np.random.Generator, *, turn: bool = True
) -> Shaped[np.ndarray, "c size size"]:
    """A random square window of all planes, turned and mirrored at random. Smaller images are padded with 0."""
    planes = pad_to(planes, size, (1, 2))
    top, left = (rng.integers(side - size + 1) for side in planes.shape[1:])
    window = planes[:, top : top + size, left : left + size]
    return turned(window, *random_turn(rng), (1, 2)) if turn else window


# ---- a batch ---------------------------------------------------------------------------------------------------------


def flipped(
    x: Shaped[Tensor, "b ..."], rng: np.random.Generator, axes: Sequence[int] = (2, 3), *, transpose: bool = False
) -> Shaped[Tensor, "b ..."]:
    """Each image mirrored along every one of ``axes``, or not; with ``transpose`` also along the diagonal, first.

    All eight orientations of a square are then equally frequent. Values of any type.
    """

    def where_chosen(other: Tensor) -> Tensor:
        chosen = torch.from_numpy(rng.random(len(x)) < 0.5).to(x.device)
        return torch.where(chosen.view(-1, *[1] * (x.ndim - 1)), other, x)

    if transpose:
        x = where_chosen(x.transpose(axes[0], axes[1]))
    for axis in axes:
        x = where_chosen(x.flip(axis))
    return x


def warped(x: Float[Tensor, "b c h w"], matrix: Float[np.ndarray, "b 2 3"]) -> Float[Tensor, "b c h w"]:
    """Each image looked up at ``matrix @ (x, y, 1)``, all from -1 to 1; reflected beyond the border."""
    grid = F.affine_grid(torch.from_numpy(matrix).to(x), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def recoloured(
    x: Float[Tensor, "b c h w"],
    gains: Sequence[Float[np.ndarray, "b _"]],
    contrast: Float[np.ndarray, "b 1"],
    *,
    contrast_first: bool = False,
) -> Float[Tensor, "b c h w"]:
    """Each channel times its gains, and all distances to the image's mean times ``contrast``; in [0, 1]."""

    def factor(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(x)[..., None, None]

    def contrasted(x: Tensor) -> Tensor:
        mean = x.mean((1, 2, 3), keepdim=True)
        return (x - mean) * factor(contrast) + mean

    if contrast_first:
        x = contrasted(x)
    for gain in gains:
        x = x * factor(gain)
    return (x if contrast_first else contrasted(x)).clamp(0, 1)


def blurred(x: Float[Tensor, "b c h w"], sigma: float, radius: int = 3) -> Float[Tensor, "b c h w"]:
    """By a Gaussian of ``sigma`` px, cut off at ``radius``; the border is reflected."""
    offsets = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    padded = F.pad(x, (radius,) * 4, mode="reflect").flatten(0, 1)[:, None]
    return F.conv2d(padded, kernel.outer(kernel)[None, None])[:, 0].view_as(x)


# ---- recipes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Crops:
    """``area``: share that stays; ``jitter``: of brightness and of contrast; ``tint``: of each channel. Either way."""

    area: tuple[float, float] = (0.6, 1.0)
    jitter: float = 0.2
    tint: float = 0.1


def cropped_views(
    x: Float[Tensor, "b 3 s s"], rng: np.random.Generator, how: Crops = Crops()
) -> Float[Tensor, "b 3 s s"]:
    """Each image cropped (aspect 3/4 to 4/3), mirrored both ways at random, and recoloured."""
    b = len(x)
    side = np.sqrt(rng.uniform(*how.area, b))
    aspect = np.sqrt(np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), b)))
    scale = np.stack([side * aspect, side / aspect], 1).clip(max=1)
    shift = rng.uniform(-1, 1, (b, 2)) * (1 - scale)
    scale = scale * rng.choice([-1.0, 1.0], (b, 2))
    zero = np.zeros(b)
    matrix = np.stack([scale[:, 0], zero, shift[:, 0], zero, scale[:, 1], shift[:, 1]], 1).reshape(b, 2, 3)
    gain, tint = _around_one(rng, how.jitter, (b, 1)), _around_one(rng, how.tint, (b, 3))
    return recoloured(warped(x, matrix), [gain, tint], _around_one(rng, how.jitter, (b, 1)))


def cropped_squares(x: Float[Tensor, "b 3 s s"], rng: np.random.Generator, share: float) -> Float[Tensor, "b 3 s s"]:
    """Each image cut to a square of this share of its side, anywhere, and mirrored both ways at random."""
    b = len(x)
    mirror, shift = share * rng.choice([-1.0, 1.0], (b, 2)), rng.uniform(-1, 1, (b, 2)) * (1 - share)
    zero = np.zeros(b)
    matrix = np.stack([mirror[:, 0], zero, shift[:, 0], zero, mirror[:, 1], shift[:, 1]], 1).reshape(b, 2, 3)
    return warped(x, matrix)


def turned_views(
    x: Float[Tensor, "b 3 s s"],
    rng: np.random.Generator,
    *,
    area: tuple[float, float] = (0.8, 1.0),
    jitter: float = 0.1,
    tint: float = 0.05,
) -> Float[Tensor, "b 3 s s"]:
    """Each image turned by any angle, mirrored, cut to a share of its area, and recoloured (see ``Crops``)."""
    b = len(x)
    angle, scale = rng.uniform(0, 2 * np.pi, b), np.sqrt(rng.uniform(*area, b))
    mirror, shift = rng.choice([-1.0, 1.0], b), rng.uniform(-1, 1, (b, 2)) * (1 - scale)[:, None]
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    matrix = np.stack([mirror * cos, -sin, shift[:, 0], mirror * sin, cos, shift[:, 1]], 1).reshape(b, 2, 3)
    gain, contrast = _around_one(rng, jitter, (b, 1)), _around_one(rng, jitter, (b, 1))
    tints = _around_one(rng, tint, (b, 3))
    return recoloured(warped(x, matrix), [gain * tints], contrast, contrast_first=True)


def blurred_views(
    x: Float[Tensor, "b 3 s s"], rng: np.random.Generator, *, sigma: tuple[float, float] = (0.1, 5.0), wide: int = 1024
) -> Float[Tensor, "b 3 s s"]:
    """Each image mirrored both ways at random, blurred, and turned by up to 10 degrees onto black.

    The blur is that of 5 x 9 px of a Gaussian, ``sigma`` px, on the photograph before it was scaled down, which was
    ``wide`` px; here it has the same spread.
    """
    b = len(x)
    x, drawn = flipped(x, rng), rng.uniform(*sigma, b)
    for axis, reach in ((3, 2), (2, 4)):
        offsets = np.arange(-reach, reach + 1) ** 2
        weights = np.exp(-offsets / (2 * drawn[:, None] ** 2))
        variance = (weights * offsets).sum(1) / weights.sum(1)  # of the kernel as it is cut off
        x = _spread(x, variance * (x.shape[axis] / wide) ** 2, axis)
    angle = np.deg2rad(rng.uniform(-10, 10, b))
    cos, sin, zero = np.cos(angle), np.sin(angle), np.zeros(b)
    matrix = torch.from_numpy(np.stack([cos, -sin, zero, sin, cos, zero], 1).reshape(b, 2, 3)).to(x)
    return F.grid_sample(x, F.affine_grid(matrix, list(x.shape), align_corners=False), align_corners=False)


def big_aug(x: Float[Tensor, "b 1 h w"], rng: np.random.Generator) -> Float[Tensor, "b 1 h w"]:
    """Stacked changes of intensity: gamma, contrast and brightness, blur, noise.

    Source: L. Zhang et al., Generalizing Deep Learning for Medical Image Segmentation to Unseen Domains via Deep
    Stacked Transformation, 2020, without its geometric changes.
    """
    out = []
    for image in x:
        gamma, contrast, shift = 2.0 ** rng.uniform(-1, 1), rng.uniform(0.5, 1.5), rng.uniform(-0.2, 0.2)
        image = (image.clamp(0, 1) ** gamma - 0.5) * contrast + 0.5 + shift
        image = blurred(image[None], rng.uniform(0.05, 1.2))[0]
        noise = torch.from_numpy(rng.standard_normal(image.shape)).to(x)
        out.append(image + rng.uniform(0, 0.1) * noise)
    return torch.stack(out).clamp(0, 1)


def _spread(x: Float[Tensor, "b c h w"], variance: Float[np.ndarray, " b"], axis: int) -> Float[Tensor, "b c h w"]:
    """Each image blurred along an axis, by steps of three pixels whose variances (px^2) add up to its own."""
    steps = max(1, math.ceil(2 * variance.max()))
    side = torch.from_numpy(variance / steps / 2).to(x).view(-1, 1, 1, 1)
    for _ in range(steps):
        padded = F.pad(x, (1, 1, 0, 0) if axis == 3 else (0, 0, 1, 1), mode="reflect")
        x = x + side * (padded.narrow(axis, 0, x.shape[axis]) + padded.narrow(axis, 2, x.shape[axis]) - 2 * x)
    return x


def _around_one(rng: np.random.Generator, amount: float, shape: tuple[int, ...]) -> Float[np.ndarray, "b c"]:
    return rng.uniform(1 - amount, 1 + amount, shape)
