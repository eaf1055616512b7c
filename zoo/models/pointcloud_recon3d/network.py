"""The segmenter: gated axial attention in two branches, one over the whole patch and one over its sixteen parts.

The paper names a shallow global and a deep local branch of gated axial transformers with convolutional decoders and
gives no sizes; those here follow MedT (Valanarasu et al., MICCAI 2021), which it cites.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zoo.errors import MissingExtraError
from zoo.nn.axial import AxialBlock

PARTS = 4  # per axis: the local branch sees a patch as 4 x 4 parts


@dataclass(frozen=True)
class SegmenterConfig:
    """The network that tells tumour from other tissue on a patch. The paper states the patch only."""

    backbone: Literal["gated-axial", "unet"] = "gated-axial"
    """``unet``: a plain U-Net instead; what follows doesn't depend on which network made the masks."""
    patch: int = field(default=128, metadata={"min": 64, "max": 1024})  # px, Sec. 3; a multiple of 64
    heads: int = field(default=8, metadata={"min": 1, "max": 64})
    stem: tuple[int, int, int] = field(default=(8, 128, 8), metadata={"min": 1, "max": 4096})
    global_planes: tuple[int, ...] = field(default=(16, 32), metadata={"min": 1, "max": 4096})
    global_blocks: tuple[int, ...] = field(default=(1, 2), metadata={"min": 1, "max": 64})
    local_planes: tuple[int, ...] = field(default=(16, 32, 64, 128), metadata={"min": 1, "max": 4096})
    local_blocks: tuple[int, ...] = field(default=(1, 2, 4, 1), metadata={"min": 1, "max": 64})

    def __post_init__(self) -> None:
        if self.patch % 64:
            raise ValueError("patch must be a multiple of 64")
        planes = (*self.global_planes, *self.local_planes)
        if any(width < 2 * self.heads or width % self.heads for width in planes):
            raise ValueError("global_planes and local_planes must be multiples of heads, and at least twice as many")
        if (len(self.global_planes), len(self.local_planes)) != (2, 4):
            raise ValueError("the global branch has two levels and the local branch four")
        blocks = self.global_blocks + self.local_blocks
        if (len(self.global_blocks), len(self.local_blocks)) != (2, 4) or min(blocks) < 1:
            raise ValueError("every level of a branch needs a number of blocks, at least 1")
        if min(self.stem) < 1:
            raise ValueError("stem needs channels")


def segmenter(config: SegmenterConfig) -> nn.Module:
    """``[b 3 patch patch]`` in [0, 1] to logits ``[b 2 patch patch]`` of other and tumour."""
    if config.backbone == "gated-axial":
        return GatedAxialNetwork(config)
    try:
        from monai.networks.nets import UNet
    except ImportError as error:
        raise MissingExtraError("a segmenter with backbone=unet", "monai", "volumes") from error
    width = config.global_planes[0]
    return UNet(2, 3, 2, channels=(width, 2 * width, 4 * width), strides=(2, 2), norm="batch")


class GatedAxialNetwork(nn.Module):
    """Global and local branch, added, and a head."""

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.globally = Branch(config, config.patch, config.global_planes, config.global_blocks)
        self.locally = Branch(config, config.patch // PARTS, config.local_planes, config.local_blocks, deepest=True)
        width = config.global_planes[0]
        self.join = nn.Conv2d(self.locally.out_channels, width, 1)
        self.refine = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: Float[Tensor, "b 3 p p"]) -> Float[Tensor, "b 2 p p"]:
        b, c, p, _ = x.shape
        side = p // PARTS
        parts = x.reshape(b, c, PARTS, side, PARTS, side).permute(0, 2, 4, 1, 3, 5).reshape(-1, c, side, side)
        local = self.join(self.locally(parts))
        local = local.reshape(b, PARTS, PARTS, -1, side, side).permute(0, 3, 1, 4, 2, 5).reshape(b, -1, p, p)
        return self.head(F.relu(self.refine(self.globally(x) + local)))


class Branch(nn.Module):
    """Stem, axial encoder, convolutional decoder with skips; the output has the size of the input."""

    def __init__(
        self, config: SegmenterConfig, side: int, planes: Sequence[int], blocks: Sequence[int], deepest: bool = False
    ) -> None:
        super().__init__()
        first, wide, last = config.stem
        self.stem = nn.Sequential(*_conv(3, first, 7, stride=2), *_conv(first, wide, 3), *_conv(wide, last, 3))
        side, channels = side // 2, last
        levels = []
        for level, (width, count) in enumerate(zip(planes, blocks, strict=True)):
            layers: list[nn.Module] = []
            for place in range(count):
                stride = 2 if level > 0 and place == 0 else 1
                layers.append(AxialBlock(channels, width, side, config.heads, stride))
                side, channels = side // stride, 2 * width
            levels.append(nn.Sequential(*layers))
        self.levels = nn.ModuleList(levels)
        # The local branch goes one step further down than its skips reach: five steps back up (MedT).
        self.bottom = nn.Conv2d(channels, channels, 3, stride=2, padding=1) if deepest else None
        widths = [2 * width for width in planes]
        into = [*reversed(widths)] if deepest else [*reversed(widths[:-1])]
        ups = []
        for width in into:
            ups.append(nn.Conv2d(channels, width, 3, padding=1))
            channels = width
        self.ups = nn.ModuleList(ups)
        self.out_channels = planes[0]
        self.last = nn.Conv2d(channels, self.out_channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b c s s"]:
        x = self.stem(x)
        skips = []
        for level in self.levels:
            x = level(x)
            skips.append(x)
        if self.bottom is None:
            skips.pop()
        else:
            x = F.relu(self.bottom(x))
        for up, skip in zip(self.ups, reversed(skips), strict=True):
            x = F.relu(_twice(up(x), skip.shape[-1])) + skip
        return F.relu(_twice(self.last(x), 2 * x.shape[-1]))


def _conv(before: int, after: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]


def _twice(x: Tensor, side: int) -> Tensor:
    return F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)
