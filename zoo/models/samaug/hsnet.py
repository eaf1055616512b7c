"""HSNet (W. Zhang et al. 2022), which the paper augments for polyps, with the internals of its released code."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zoo.nn.backbones import timm_network


class HSNet(nn.Module):
    """PVTv2 encoder, three hybrid semantic steps, and one map of logits from each of four scales.

    ``forward`` gives the four maps at the size of the input, whose sides are multiples of 32. ``corners``: maps are
    enlarged from corner to corner, as in HSNet's code; in SAMAug's copy of it they aren't.
    """

    def __init__(self, backbone: str = "pvt_v2_b2", *, pretrained: bool = False, corners: bool = True) -> None:
        super().__init__()
        self.backbone = timm_network(
            backbone, needed_by="samaug", pretrained=pretrained, features_only=True, drop_path_rate=0.1
        )
        widths: list[int] = self.backbone.feature_info.channels()  # type: ignore[union-attr,operator]
        self.transfer = ConvNorm(widths[3], widths[3], 1)
        self.steps = nn.ModuleList(HybridStep(widths[i + 1], widths[i], corners) for i in (2, 1, 0))
        self.gates = nn.ModuleList(CrossGate(widths[i]) for i in (2, 1, 0))
        self.outs = nn.ModuleList(nn.Conv2d(width, 1, 1) for width in widths)
        self.seen = nn.ModuleList(ConvNorm(width, 64, 1, bias=True) for width in widths)
        self.weigh = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4), nn.Sigmoid())

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b 1 h w"], ...]:
        features: Sequence[Tensor] = self.backbone(x)
        maps = [self.transfer(features[3])]
        for step, gate, skip in zip(self.steps, self.gates, features[2::-1], strict=True):
            maps.insert(0, step(maps[0]) * gate(skip))
        pooled = sum(see(one).mean((2, 3)) for see, one in zip(self.seen, maps, strict=True))
        weights = self.weigh(pooled)
        return tuple(
            F.interpolate(out(one) * weights[:, i, None, None, None], x.shape[2:], mode="bilinear")
            for i, (out, one) in enumerate(zip(self.outs, maps, strict=True))
        )


class ConvNorm(nn.Sequential):
    """Convolution and batch normalisation, no activation."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, bias: bool = False) -> None:
        super().__init__(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias), nn.BatchNorm2d(outputs))


class ChannelGate(nn.Module):
    """One weight in (0, 1) for each channel, from the means of it and its four neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv1d(1, 1, 5, padding=2, bias=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 1 1"]:
        return self.mix(x.mean((2, 3))[:, None]).sigmoid()[:, 0, :, None, None]


class CrossGate(nn.Module):
    """Skip connection whose halves gate each other: one by place, the other by channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.channels = ChannelGate()
        self.convolution = ConvNorm(width // 2, width // 2, 3)
        self.place = ConvNorm(width // 2, 1, 3)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        first, second = x.chunk(2, 1)
        return torch.cat([first * self.place(second).sigmoid(), self.convolution(second) * self.channels(first)], dim=1)


class HybridStep(nn.Module):
    """Tokens, gated by channel and place, times convolutions; doubled in size."""

    def __init__(self, inputs: int, outputs: int, corners: bool) -> None:
        super().__init__()
        self.corners = corners
        self.embed = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.embed_norm = nn.LayerNorm(outputs)
        self.block = TokenBlock(outputs)
        self.norm = nn.LayerNorm(outputs)
        self.channels = ChannelGate()
        self.place = ConvNorm(outputs, 1, 3)
        self.convolutions = Bottleneck(inputs, outputs)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        embedded = self.embed(x)
        b, c, h, w = embedded.shape
        tokens, query = self.block(self.embed_norm(embedded.flatten(2).transpose(1, 2)), h, w)
        tokens = self.norm(tokens).transpose(1, 2).reshape(b, c, h, w)
        query = query.transpose(1, 2).reshape(b, c, h, w).contiguous()
        # The released code multiplies the query by itself read in another order, not by the key; its weights need it.
        other = query.view(b, h, w, c).permute(0, 3, 1, 2)
        attention = query * other
        gated = tokens * self.channels(attention) * self.place(attention).sigmoid()
        return F.interpolate(gated * self.convolutions(x), scale_factor=2, mode="bilinear", align_corners=self.corners)


class TokenBlock(nn.Module):
    """A transformer block of one head, whose MLP sees neighbours by a depth-wise convolution; gives its query too."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * width, bias=False)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.depthwise = nn.Conv2d(4 * width, 4 * width, 3, padding=1, groups=4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(
        self, x: Float[Tensor, "b n c"], h: int, w: int
    ) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "b n c"]]:
        normal = self.norm1(x)
        query, (key, value) = self.q(normal), self.kv(normal).chunk(2, -1)
        x = x + self.proj(F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])[:, 0])
        hidden = self.fc1(self.norm2(x)).transpose(1, 2).unflatten(2, (h, w))
        hidden = F.gelu(self.depthwise(hidden)).flatten(2).transpose(1, 2)
        return x + self.fc2(hidden), query


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with a quarter of the width inside, and a projected shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.shortcut = ConvNorm(inputs, outputs, 1)
        self.reduce = ConvNorm(inputs, outputs // 4, 1)
        self.convolve = ConvNorm(outputs // 4, outputs // 4, 3)
        self.expand = ConvNorm(outputs // 4, outputs, 1)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        inner = F.relu(self.convolve(F.relu(self.reduce(x))))
        return F.relu(self.shortcut(x) + self.expand(inner))
