"""LesionCutMix, the consistency of student and teachers, and the teachers' moving averages (Sec. 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


def lesion_boxes(
    shape: Sequence[int], boxes: tuple[int, int], edges: tuple[int, int], rng: np.random.Generator
) -> Bool[Tensor, "b 1 *grid"]:
    """For each crop of a batch ``(b, *grid)`` the union of some boxes of the size of lesions.

    How many, and each of their edges, are drawn evenly between the two ends, both included; an edge is no longer than
    the crop. Boxes lie anywhere in the crop.
    """
    batch, *grid = shape
    mask = torch.zeros(batch, 1, *grid, dtype=torch.bool)
    for place in range(batch):
        for _ in range(int(rng.integers(boxes[0], boxes[1] + 1))):
            sides = [min(int(rng.integers(edges[0], edges[1] + 1)), length) for length in grid]
            starts = [int(rng.integers(length - side + 1)) for side, length in zip(sides, grid, strict=True)]
            mask[place, 0][tuple(slice(a, a + side) for a, side in zip(starts, sides, strict=True))] = True
    return mask


def cut_mixed(u: Float[Tensor, "b c *grid"], mask: Bool[Tensor, "b 1 *grid"]) -> Float[Tensor, "b c *grid"]:
    """In the boxes what the next crop of the batch has at the same place; images and targets alike."""
    return torch.where(mask, u.roll(-1, 0), u)


def consistency(logits: Float[Tensor, "b 1 *grid"], targets: Sequence[Float[Tensor, "b 1 *grid"]]) -> Float[Tensor, ""]:
    """L_u: the mean over the teachers of the squared distance to each one's probabilities (Eq. 2).

    A mean over voxels: as a sum it would be a million times the cross-entropy.
    """
    p = logits.sigmoid()
    return torch.stack([(p - target).square().mean() for target in targets]).mean()


@torch.no_grad()
def ema_(teacher: nn.Module, student: nn.Module, alpha: float) -> None:
    """teacher = alpha teacher + (1 - alpha) student (Eq. 1), all parameters in one pass."""
    torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1 - alpha)


def alpha1(step: int, iters: int, first: float, later: float) -> float:
    """The decay of a step, from 0: in the first round the mean of all students so far, at most ``first``."""
    return min(first, 1 - 1 / (step + 1)) if step < iters else later


def ramp(step: int, steps: int) -> float:
    """The share of lambda at a step, from 0: exp(-5 (1 - s)^2), which is 1 after ``steps``."""
    return math.exp(-5 * (1 - min(1.0, step / steps)) ** 2) if steps else 1.0
