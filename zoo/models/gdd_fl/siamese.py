"""Differentiable Siamese augmentation: one operation with one draw of its numbers, for real and synthetic images alike.

Source: B. Zhao, H. Bilen, Dataset Condensation with Differentiable Siamese Augmentation, ICML 2021 ([30] of the paper).
Images are normalised, so that 0, which fills what is empty, is the mean colour.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Change = Callable[[Tensor], Tensor]
OPERATIONS = ("colour", "crop", "cutout", "flip", "scale", "rotate")
SHIFT, HOLE, SCALE, ANGLE = 1 / 8, 1 / 2, 1.2, 15.0  # shares of the side, largest factor, degrees


def siamese(rng: np.random.Generator, operations: Sequence[str] = OPERATIONS) -> Change:
    """A_c: a function of a batch ``[b c h w]``, the same for every batch; no operations leave images alone."""
    if not operations:
        return lambda x: x
    name = operations[int(rng.integers(len(operations)))]
    if name == "colour":
        brightness, saturation, contrast = rng.uniform(-0.5, 0.5), rng.uniform(0, 2), rng.uniform(0.5, 1.5)
        return lambda x: coloured(x, brightness, saturation, contrast)
    if name == "crop":
        down, right = rng.uniform(-SHIFT, SHIFT, 2)
        return lambda x: moved(x, round(down * x.shape[2]), round(right * x.shape[3]))
    if name == "cutout":
        v, u = rng.random(2)
        return lambda x: cut_out(x, v, u)
    if name == "flip":
        mirror = rng.random() < 0.5
        return lambda x: x.flip(3) if mirror else x
    if name == "scale":
        wide, high = rng.uniform(1 / SCALE, SCALE, 2)
        return lambda x: looked_up(x, np.array([[wide, 0, 0], [0, high, 0]]))
    if name == "rotate":
        angle = math.radians(rng.uniform(-ANGLE, ANGLE))
        cos, sin = math.cos(angle), math.sin(angle)
        return lambda x: looked_up(x, np.array([[cos, -sin, 0], [sin, cos, 0]]))
    raise ValueError(f"{name!r} is none of {', '.join(OPERATIONS)}")


def coloured(
    x: Float[Tensor, "b c h w"], brightness: float, saturation: float, contrast: float
) -> Float[Tensor, "b c h w"]:
    """``brightness`` is added; differences from the pixel's grey and from the image's mean are scaled."""
    x = x + brightness
    grey = x.mean(1, keepdim=True)
    x = (x - grey) * saturation + grey
    mean = x.mean((1, 2, 3), keepdim=True)
    return (x - mean) * contrast + mean


def moved(x: Float[Tensor, "b c h w"], down: int, right: int) -> Float[Tensor, "b c h w"]:
    """By whole pixels; what comes in is 0."""
    h, w = x.shape[2:]
    return F.pad(x, (right, -right, down, -down)) if abs(down) < h and abs(right) < w else torch.zeros_like(x)


def cut_out(x: Float[Tensor, "b c h w"], v: float, u: float) -> Float[Tensor, "b c h w"]:
    """A square of half the side around the place (v, u), as shares of height and width, becomes 0."""
    h, w = x.shape[2:]
    half, row, column = HOLE * h / 2, v * h, u * w
    kept = torch.ones(h, w, device=x.device, dtype=x.dtype)
    top, left = max(0, round(row - half)), max(0, round(column - half))
    kept[top : round(row + half), left : round(column + half)] = 0
    return x * kept


def looked_up(x: Float[Tensor, "b c h w"], matrix: Float[np.ndarray, "2 3"]) -> Float[Tensor, "b c h w"]:
    """Each pixel from ``matrix @ (x, y, 1)``, all from -1 to 1; 0 beyond the border."""
    grid = F.affine_grid(torch.from_numpy(matrix).to(x).expand(len(x), 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="zeros", align_corners=False)
