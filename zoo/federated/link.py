"""A link that loses packets, between the two sides of a split network: a packet is one row of one feature map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from zoo.seeds import derive_seed

Direction = Literal["features-up", "features-down", "gradients-up", "gradients-down"]
Kind = Literal["rows", "fixed", "dropout"]
Lost = Literal["both", "features", "gradients"]


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


@dataclass(frozen=True)
class Link:
    """One client's link in one round.

    ``rate``: P_L, of packets lost. ``kind``: ``rows``, each row of each channel and sample is lost by itself, drawn
    anew every time; ``fixed``, as the same authors' later code: exactly floor(P_L h) rows of each channel, never the
    first row, drawn once and the same for all samples and rounds; ``dropout``, the control: numbers instead of rows,
    the rest scaled by 1 / (1 - P_L), and of the gradient those of the features. ``lost``: in which of them.
    """

    rate: float
    seed: int
    client: int
    round: int
    kind: Kind = "rows"
    lost: Lost = "both"

    def across(self, z: Float[Tensor, "b c h w"], direction: Direction, step: int) -> Float[Tensor, "b c h w"]:
        """``z`` at the other end; what was lost is 0, and nothing makes up for it."""
        what, _, way = direction.partition("-")
        if self.rate == 0 or (self.lost != "both" and self.lost != what):
            return z
        if self.kind == "fixed":
            return z * kept_rows(z, self.rate, self._rng(direction)).to(z.device)
        if self.kind == "dropout":
            # the gradient comes back through the mask of its features
            forward = f"features-{way}" if what == "features" else f"features-{'up' if way == 'down' else 'down'}"
            kept = torch.from_numpy(self._rng(forward, self.round, step).random(z.shape) >= self.rate).to(z)
            return z * kept / (1 - self.rate)
        return z * arrived(z, self.rate, self._rng(direction, self.round, step))

    def _rng(self, *key: int | str) -> np.random.Generator:
        return np.random.default_rng(derive_seed(self.seed, "link", self.client, *key))


def kept_rows(z: Float[Tensor, "b c h w"], rate: float, rng: np.random.Generator) -> Float[Tensor, "1 c h 1"]:
    """1 for rows that arrive: floor(rate h) of rows 1 .. h - 1 are lost in each channel, and row 0 never is."""
    channels, height = z.shape[1:3]
    mask = torch.ones(1, channels, height, 1, dtype=z.dtype)
    for channel in range(channels):
        lost = 1 + rng.choice(height - 1, min(int(rate * height), height - 1), replace=False)
        mask[0, channel, torch.from_numpy(lost)] = 0
    return mask
