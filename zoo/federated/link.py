"""A link that loses packets, between the two sides of a split network: a packet is one row of one feature map."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def lossy(z: Float[Tensor, "*maps w"], rate: float, rng: np.random.Generator) -> Float[Tensor, "*maps w"]:
    """``z`` at the other end: each row is lost, and 0, with probability ``rate``; so is each row of its gradient.

    The gradient's losses are drawn anew on its way back, independent of those on the way there.
    """
    return _Lossy.apply(z, rate, rng)


class _Lossy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, rate: float, rng: np.random.Generator) -> Tensor:
        ctx.rate, ctx.rng = rate, rng
        return z * arrived(z, rate, rng)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0] * arrived(gradients[0], ctx.rate, ctx.rng), None, None


def arrived(z: Float[Tensor, "*maps w"], rate: float, rng: np.random.Generator) -> Float[Tensor, "*maps 1"]:
    """For each row of ``z`` 1 or, with probability ``rate``, 0: which packets arrive."""
    return torch.from_numpy(rng.random((*z.shape[:-1], 1)) >= rate).to(z)
