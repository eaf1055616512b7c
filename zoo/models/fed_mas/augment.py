"""Random views of photographs: crops, flips and mild changes of colour, a whole batch at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """``crop``: share of the area that stays; ``jitter``: of brightness and contrast; ``tint``: of each channel."""

    crop: tuple[float, float] = (0.6, 1.0)
    jitter: float = 0.2
    tint: float = 0.1


def augmented(
    x: Float[Tensor, "b 3 s s"],
    rng: np.random.Generator,
    how: Augmentation = Augmentation(),
) -> Float[Tensor, "b 3 s s"]:
    """Each image cropped (aspect 3/4 to 4/3), mirrored both ways at random, and recoloured; in [0, 1]."""
    b = len(x)
    side = np.sqrt(rng.uniform(*how.crop, b))
    aspect = np.sqrt(np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), b)))
    scale = np.stack([side * aspect, side / aspect], 1).clip(max=1)
    shift = rng.uniform(-1, 1, (b, 2)) * (1 - scale)
    scale = scale * rng.choice([-1.0, 1.0], (b, 2))
    zero = np.zeros(b)
    matrix = np.stack([scale[:, 0], zero, shift[:, 0], zero, scale[:, 1], shift[:, 1]], 1).reshape(b, 2, 3)
    grid = F.affine_grid(torch.from_numpy(matrix).to(x), list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)

    def strength(amount: float, channels: int) -> Tensor:
        return torch.from_numpy(rng.uniform(1 - amount, 1 + amount, (b, channels, 1, 1))).to(x)

    x = x * strength(how.jitter, 1) * strength(how.tint, 3)
    mean = x.mean((1, 2, 3), keepdim=True)
    return ((x - mean) * strength(how.jitter, 1) + mean).clamp(0, 1)
