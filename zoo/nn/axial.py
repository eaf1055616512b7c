"""Attention along one axis at a time, with gated relative positions: what medical transformers of small data use.

Source: J. Valanarasu et al., Medical Transformer: Gated Axial-Attention for Medical Image Segmentation, 2021.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class AxialBlock(nn.Module):
    """1x1, attention along columns, attention along rows, 1x1, and a shortcut; ``2 * planes`` channels come out."""

    def __init__(self, channels: int, planes: int, side: int, heads: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.down = nn.Conv2d(channels, planes, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(planes)
        self.columns = GatedAxialAttention(planes, side, heads)
        self.rows = GatedAxialAttention(planes, side, heads)
        self.up = nn.Conv2d(planes, 2 * planes, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(2 * planes)
        self.shortcut = nn.Identity()
        if stride > 1 or channels != 2 * planes:
            convolution = nn.Conv2d(channels, 2 * planes, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(2 * planes))  # type: ignore[assignment]

    def forward(self, x: Float[Tensor, "b c s s"]) -> Float[Tensor, "b d t t"]:
        y = F.relu(self.norm1(self.down(x)))
        y = self.columns(y.transpose(2, 3)).transpose(2, 3)
        y = F.relu(self.rows(y))
        if self.stride > 1:
            y = F.avg_pool2d(y, self.stride)
        return F.relu(self.norm2(self.up(y)) + self.shortcut(x))


class GatedAxialAttention(nn.Module):
    r"""Attention along the last axis with gated relative positions.

    .. math:: y_i = \sum_w \operatorname{softmax}_w(q_i^\top k_w + G_Q q_i^\top r^q_{iw} + G_K k_w^\top r^k_{iw})
              (G_{V1} v_w + G_{V2} r^v_{iw})

    One scalar gate each for Q, K, V2 (0.1 at first) and V1 (1 at first): with little data, positions are learnt badly,
    and the gates can close them off. The three parts of the logits go through one batch normalisation, as in MedT.
    """

    def __init__(self, planes: int, span: int, heads: int) -> None:
        super().__init__()
        self.heads, self.d_v = heads, planes // heads
        self.offset: Tensor
        self.d_k = max(1, self.d_v // 2)
        self.project = nn.Conv1d(planes, heads * (2 * self.d_k + self.d_v), 1, bias=False)
        self.norm_in = nn.BatchNorm1d(heads * (2 * self.d_k + self.d_v))
        self.norm_logits = nn.BatchNorm2d(3 * heads)
        self.norm_out = nn.BatchNorm1d(planes)
        channels = 2 * self.d_k + self.d_v
        self.relative = nn.Parameter(torch.randn(channels, 2 * span - 1) / channels**0.5)  # r, by w - i
        self.gates = nn.Parameter(torch.tensor([0.1, 0.1, 1.0, 0.1]))  # G_Q, G_K, G_V1, G_V2
        offset = torch.arange(span)[None, :] - torch.arange(span)[:, None] + span - 1
        self.register_buffer("offset", offset, persistent=False)

    def forward(self, x: Float[Tensor, "b c n s"]) -> Float[Tensor, "b c n s"]:
        b, c, n, s = x.shape
        lines = x.transpose(1, 2).reshape(b * n, c, s)
        qkv = self.norm_in(self.project(lines)).reshape(b * n, self.heads, -1, s)
        q, k, v = qkv.split([self.d_k, self.d_k, self.d_v], dim=2)
        r_q, r_k, r_v = self.relative[:, self.offset].split([self.d_k, self.d_k, self.d_v])
        g_q, g_k, g_v1, g_v2 = self.gates
        content = torch.einsum("bhci,bhcw->bhiw", q, k)
        by_query = g_q * torch.einsum("bhci,ciw->bhiw", q, r_q)
        by_key = g_k * torch.einsum("bhcw,ciw->bhiw", k, r_k)
        logits = self.norm_logits(torch.cat([content, by_query, by_key], 1))
        weight = logits.reshape(b * n, 3, self.heads, s, s).sum(1).softmax(-1)
        y = g_v1 * torch.einsum("bhiw,bhcw->bhci", weight, v) + g_v2 * torch.einsum("bhiw,ciw->bhci", weight, r_v)
        return self.norm_out(y.reshape(b * n, c, s)).reshape(b, n, c, s).transpose(1, 2)
