"""The small heads that are trained on a frozen backbone, and what the authors' own backbone knows.

Volumes are ``[x y z]`` here, right to left, back to front, foot to head, as the authors' weights want them.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zoo.nn.volumetric import monai_blocks

Block = Literal["none", "residual3", "resblock", "up_block", "mlp", "last"]
Backbone = Literal["swinunetr", "unet"]
REACH = {"residual3": 3, "resblock": 2}  # voxels that a head sees beyond its own

# Channels of the authors' foundation head (official.md, 7).
RELEASED_CLASSES = (
    *("spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta"),
    *("inferior vena cava", "portal and splenic veins", "pancreas", "right adrenal gland", "left adrenal gland"),
    *("duodenum", "bladder", "prostate or uterus", "liver tumour", "kidney tumour", "kidney cyst", "coeliac trunk"),
    *("right lung", "left lung", "bone", "brain", "lung tumour", "pancreas tumour", "hepatic vessels"),
    *("hepatic vessels tumour", "colon tumour"),
)


# ---- heads: features to one logit ------------------------------------------------------------------------------------


class Residual3(nn.Module):
    """Three convolutions, batch normalisation and one skip connection (Sec. 3.2)."""

    def __init__(self, channels: int, kernel: tuple[int, int, int]) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv3d(channels, channels, kernel, padding="same", bias=False) for _ in range(3)
        )
        self.norms = nn.ModuleList(nn.BatchNorm3d(channels) for _ in range(3))
        self.act = nn.LeakyReLU(0.01)

    def forward(self, z: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b c x y z"]:
        y = z
        for place, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            y = norm(convolution(y))
            y = self.act(y + z if place == 2 else y)
        return y


class Head(nn.Module):
    """A block on frozen features and a convolution 1 x 1 x 1 to one logit.

    ``residual3``: the paper's adapter as it is described. ``resblock``: the released one. ``up_block``: a new last
    block of the decoder, with as many parameters as the paper states. ``mlp``: as deep, without
    neighbours (Fig. 2a). ``none``: linear probe. ``last``: starts as the backbone's own last block (FT-Last).
    """

    def __init__(self, block: Block, channels: tuple[int, int], flat: bool = False, bias: float | None = None) -> None:
        super().__init__()
        width, deep = channels  # of the features, and of those below
        kernel, two = (3, 3, 1) if flat else (3, 3, 3), (2, 2, 1) if flat else (2, 2, 2)
        self.kind = block
        self.block: nn.Module | None = None
        if block == "residual3":
            self.block = Residual3(width, kernel)
        elif block == "mlp":
            self.block = Residual3(width, (1, 1, 1))
        elif block == "resblock":
            self.block = monai_blocks().UnetResBlock(3, width, width, kernel, 1, "instance")
        elif block in ("up_block", "last"):
            norm = "instance" if block == "last" else "batch"
            self.block = monai_blocks().UnetrUpBlock(3, deep, width, kernel, two, norm, res_block=True)
        self.logit = nn.Conv3d(width, 1, 1)
        if bias is not None:
            nn.init.normal_(self.logit.weight, std=0.01)
            nn.init.constant_(self.logit.bias, bias)  # type: ignore[arg-type]

    @property
    def joins(self) -> bool:
        """Whether it takes what the last block of the decoder joins, rather than its result."""
        return self.kind in ("up_block", "last")

    def forward(self, *features: Tensor) -> Float[Tensor, "b 1 x y z"]:
        z = self.block(*features) if self.block is not None else features[0]
        return self.logit(z)


class Adapted(nn.Module):
    """A backbone and a head on it. Unless ``whole``, the backbone is frozen and stays in eval mode."""

    def __init__(self, backbone: nn.Module, head: Head, whole: bool = False) -> None:
        super().__init__()
        self.backbone, self.head, self.whole = backbone, head, whole
        backbone.requires_grad_(whole)

    def train(self, mode: bool = True) -> Adapted:
        super().train(mode)
        if not self.whole:
            self.backbone.eval()
        return self

    def features(self, x: Float[Tensor, "b 1 x y z"]) -> tuple[Tensor, ...]:
        """What the head is given."""
        with torch.set_grad_enabled(self.whole and torch.is_grad_enabled()):
            backbone: Any = self.backbone
            return backbone.joints(x) if self.head.joins else (backbone(x),)

    def forward(self, x: Float[Tensor, "b 1 x y z"]) -> Float[Tensor, "b 1 x y z"]:
        return self.head(*self.features(x))
