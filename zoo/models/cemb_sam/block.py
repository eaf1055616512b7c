"""The condition-embedding block, as printed and as released."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

Reading = Literal["paper", "released"]


class ConditionEmbedding(nn.Module):
    """CEmb: two 3x3 convolutions, each followed by instance normalisation with scale and shift from the condition.

    Paper Sec. 2.2, Eqs. 1 to 4. ``channels`` is C, ``conditions`` m. ``gamma_offset`` belongs to the paper's reading.
    """

    def __init__(
        self,
        channels: int,
        conditions: int,
        *,
        reading: Reading = "paper",
        gamma_offset: float = 1.0,
        residual: bool = False,
    ) -> None:
        super().__init__()

        def layer() -> nn.Module:
            if reading == "released":
                return ReleasedLayer(channels, conditions)
            return ConditionalLayer(channels, conditions, gamma_offset)

        self.layers = nn.ModuleList(layer() for _ in range(2))
        self.residual = residual

    def forward(self, x: Float[Tensor, "b c h w"], condition: Int[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        z = x
        for layer in self.layers:  # F_mid, then z
            z = layer(z, condition)
        return x + z if self.residual else z


class ConditionalLayer(nn.Module):
    """sigma(CIN(Conv(x) | gamma, beta)), Eq. 3 and 4, with gamma and beta from one pair of matrices (Eq. 1)."""

    epsilon = 1e-5

    def __init__(self, channels: int, conditions: int, gamma_offset: float) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.w_gamma = nn.Embedding(conditions, channels)
        self.w_beta = nn.Embedding(conditions, channels)
        self.w1 = nn.Linear(channels, channels, bias=False)
        self.w2 = nn.Linear(channels, channels, bias=False)
        self.gamma_offset = gamma_offset
        if gamma_offset:
            with torch.no_grad():
                self.w2.weight.mul_(0.1)  # near to plain instance normalisation at first

    def forward(self, x: Float[Tensor, "b c h w"], condition: Int[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        gamma = self.gamma_offset + self.w2(F.relu(self.w1(self.w_gamma(condition))))
        beta = self.w2(F.relu(self.w1(self.w_beta(condition))))
        return F.relu(conditional_instance_norm(self.convolution(x), gamma, beta, self.epsilon))


class ReleasedLayer(nn.Module):
    """The same as released: one embedding of scale and shift together, through one pair of matrices with biases.

    So the two mix; nothing is added to the scale. It starts near 1 and 0 in the embedding, not after the matrices. At
    the commit that trains, the normalisation also has a scale and shift of its own, for all conditions.
    """

    def __init__(self, channels: int, conditions: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.normal = nn.InstanceNorm2d(channels, affine=True)  # epsilon 1e-5, inside the root
        self.embedding = nn.Embedding(conditions, 2 * channels)
        self.w1 = nn.Linear(2 * channels, 2 * channels)
        self.w2 = nn.Linear(2 * channels, 2 * channels)
        with torch.no_grad():
            self.embedding.weight[:, :channels].normal_(1, 0.02)
            self.embedding.weight[:, channels:].zero_()
        for matrix in (self.w1, self.w2):
            nn.init.xavier_uniform_(matrix.weight)
            nn.init.constant_(matrix.bias, 0.1)

    def forward(self, x: Float[Tensor, "b c h w"], condition: Int[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        gamma, beta = self.w2(F.relu(self.w1(self.embedding(condition)))).chunk(2, dim=1)
        return F.relu(gamma[..., None, None] * self.normal(self.convolution(x)) + beta[..., None, None])


def conditional_instance_norm(
    x: Float[Tensor, "b c h w"], gamma: Float[Tensor, "b c"], beta: Float[Tensor, "b c"], epsilon: float = 1e-5
) -> Float[Tensor, "b c h w"]:
    """CIN(F | gamma, beta), Eq. 2: statistics of each sample and channel; epsilon outside the root, as printed."""
    variance, mean = torch.var_mean(x, dim=(2, 3), keepdim=True, correction=0)
    return gamma[..., None, None] * (x - mean) / (variance.sqrt() + epsilon) + beta[..., None, None]
