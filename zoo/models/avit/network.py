"""AViT's parts (Sec. 2.2): what is trained inside a frozen transformer, the prompt generator, the decoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock
from torchvision.models.segmentation.deeplabv3 import ASPP
from torchvision.ops import StochasticDepth

Method = Literal["avit", "no-prompt", "no-adapter", "base", "base-frozen", "adaptformer", "vpt"]
WITH_PROMPT = ("avit", "no-adapter")
WITH_ADAPTERS = ("avit", "no-prompt")
WITH_NORMS = ("avit", "no-prompt", "no-adapter")  # of which the transformer's layer norms are trained


@dataclass(frozen=True)
class Shape:
    """Sizes of the transformer: a ViT has one stage, a Swin several, each twice as wide as the one before."""

    depths: tuple[int, ...] = field(default=(12,), metadata={"min": 1, "max": 256})
    width: int = field(default=768, metadata={"min": 8, "max": 16_384})
    heads: int = field(default=12, metadata={"min": 1, "max": 1024})  # of a ViT
    patch: int = field(default=16, metadata={"min": 1, "max": 256})  # px

    @property
    def is_swin(self) -> bool:
        return len(self.depths) > 1

    @property
    def widths(self) -> list[int]:
        """Of every layer, first to last."""
        return [self.width * 2**stage for stage, depth in enumerate(self.depths) for _ in range(depth)]

    def norms(self) -> dict[str, int]:
        """The transformer's layer norms by timm's name, with their widths. A ViT's last one is trained but idle."""
        w = self.width
        if not self.is_swin:
            return {f"blocks.{i}.norm{k}": w for i in range(self.depths[0]) for k in (1, 2)} | {"norm": w}
        found = {"patch_embed.norm": w}
        for stage, depth in enumerate(self.depths):
            found |= {f"layers.{stage}.downsample.norm": 2 * w * 2**stage} if stage else {}
            found |= {f"layers.{stage}.blocks.{i}.norm{k}": w * 2**stage for i in range(depth) for k in (1, 2)}
        return found


TINY_SHAPE = Shape((4,), 64, 4, 8)  # of the demo's ViT, which is pretrained here


class Adapter(nn.Module):
    """GELU(u W_down) W_up (Fig. 1-d), with biases; ``skip``: added to u, so that training starts from u itself."""

    def __init__(self, width: int, reduction: int, skip: bool) -> None:
        super().__init__()
        self.skip = skip
        self.down = nn.Linear(width, width // reduction)
        self.up = nn.Linear(width // reduction, width)
        if skip:
            nn.init.trunc_normal_(self.down.weight, std=0.02)
            for silent in (self.down.bias, self.up.weight, self.up.bias):
                nn.init.zeros_(silent)

    def forward(self, u: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        change = self.up(F.gelu(self.down(u)))
        return u + change if self.skip else change


class Parallel(nn.Module):
    """AdaptFormer's adapter beside the MLP: 0.1 ReLU(z W_down) W_up of the residual stream, before its norm.

    Source: S. Chen et al., AdaptFormer, NeurIPS 2022, in the form that AViT's authors compare with.
    """

    def __init__(self, width: int, middle: int = 64) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, middle), nn.Linear(middle, width)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for silent in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(silent)

    def forward(self, z: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        return 0.1 * self.up(F.dropout(F.relu(self.down(z)), 0.1, self.training))


class Layer(nn.Module):
    """What one layer of the transformer gets; the layer itself, timm's ``block``, is given to ``forward``."""

    def __init__(
        self, width: int, method: Method, *, reduction: int, skip: bool, tokens: int, patch: int, drop: float
    ) -> None:
        super().__init__()
        adapted = method in WITH_ADAPTERS
        self.adapter1, self.adapter2 = (Adapter(width, reduction, skip) if adapted else nn.Identity() for _ in range(2))
        self.parallel = Parallel(width) if method == "adaptformer" else None
        self.prompts = None
        if method == "vpt":
            bound = math.sqrt(6 / (3 * patch**2 + width))
            self.prompts = nn.Parameter(torch.empty(1, tokens, width).uniform_(-bound, bound))
        self.drop = StochasticDepth(drop, "row")
        self.drop_prompts = StochasticDepth(0.1, "row")

    def forward(self, block: Any, z: Float[Tensor, "b *grid d"]) -> Float[Tensor, "b *grid d"]:
        """``z``: tokens of a ViT, the class token first, or the map of a Swin."""
        if self.prompts is not None:  # new ones for every layer; the last layer's are dropped
            own = self.drop_prompts(self.prompts.expand(len(z), -1, -1))
            z = torch.cat([z[:, :1], own, z[:, 1:]], 1)
        attention = getattr(block, "_attn", block.attn)  # Swin: within windows, shifted and back
        z = z + self.drop(self.adapter1(attention(block.norm1(z))))  # Eq. 3
        beside = 0 if self.parallel is None else self.parallel(z)
        z = z + self.drop(self.adapter2(block.mlp(block.norm2(z)))) + beside  # Eq. 4
        return z if self.prompts is None else torch.cat([z[:, :1], z[:, 1 + self.prompts.shape[1] :]], 1)


class Encoder(nn.Module):
    """Adapters by layer: all of the encoder that is trained, but for layer norms."""

    def __init__(
        self, shape: Shape, method: Method, *, reduction: int, skip: bool, tokens: int, drop_path: float
    ) -> None:
        super().__init__()
        self.shape = shape
        rates = np.linspace(0, drop_path, len(shape.widths)).tolist()
        self.layers = nn.ModuleList(
            Layer(width, method, reduction=reduction, skip=skip, tokens=tokens, patch=shape.patch, drop=rate)
            for width, rate in zip(shape.widths, rates, strict=True)
        )

    def forward(self, vit: Any, x: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b d g g"]:
        """V: the last layer's output as a map, without class token and without the transformer's last norm."""
        z = vit.patch_embed(x)
        if self.shape.is_swin:
            layers = iter(self.layers)
            for stage in vit.layers:
                z = stage.downsample(z)
                for block in stage.blocks:
                    z = next(layers)(block, z)
            return z.permute(0, 3, 1, 2)
        z = vit.norm_pre(vit._pos_embed(z))
        for layer, block in zip(self.layers, vit.blocks, strict=True):
            z = layer(block, z)
        return z[:, vit.num_prefix_tokens :].transpose(1, 2).unflatten(2, vit.patch_embed.grid_size)


class PromptGenerator(nn.Module):
    """T: stem and first stage of a ResNet-34, by timm's and torchvision's names, then dropout of whole channels."""

    def __init__(self, width: int, blocks: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = nn.Sequential(*(BasicBlock(width, width) for _ in range(blocks)))
        self.dropout = nn.Dropout2d(dropout)
        self.apply(initialise)

    def forward(self, x: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b c t t"]:
        return self.dropout(self.layer1(F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)))


class Decoder(nn.Module):
    """ASPP of V, brought to the size of T and joined with it, T first, then three convolutions.

    ``prompt``: channels of T. Without T a ViT's head is one 1 x 1 convolution (``plain``).
    """

    def __init__(self, width: int, rates: Sequence[int], channels: int, prompt: int, head: int, *, plain: bool) -> None:
        super().__init__()
        self.aspp = ASPP(width, list(rates), channels)
        self.aspp.project[3] = nn.Dropout(0.1)  # torchvision has 0.5
        for one, rate in zip(self.aspp.convs[1:4], rates, strict=True):
            one[0] = DilatedConv2d(width, channels, 3, padding=rate, dilation=rate, bias=False)
        self.head: nn.Module
        if plain:
            self.head = nn.Conv2d(channels, 1, 1)
        else:
            self.head = nn.Sequential(
                nn.Conv2d(prompt + channels, head, 3, padding=1), nn.BatchNorm2d(head), nn.ReLU(),
                nn.Conv2d(head, head, 3, padding=1), nn.BatchNorm2d(head), nn.ReLU(),
                nn.Conv2d(head, 1, 1),
            )  # fmt: skip
        self.apply(initialise)

    def forward(
        self, v: Float[Tensor, "b d g g"], t: Float[Tensor, "b c t t"] | None, size: Sequence[int]
    ) -> Float[Tensor, "b 1 h w"]:
        """Logits at ``size``, height and width in px."""
        out = self.aspp(v)
        if t is not None:
            out = torch.cat([t, F.interpolate(out, t.shape[-2:], mode="bilinear")], 1)
        return F.interpolate(self.head(out), list(size), mode="bilinear")


class DilatedConv2d(nn.Conv2d):
    """A 3 x 3 convolution whose taps are left out where all they see is padding.

    At rate 18 nothing but the middle tap reaches into a map of 14 x 14, and the convolution is one of 1 x 1.
    """

    def forward(self, x: Float[Tensor, "b d g g"]) -> Float[Tensor, "b c g g"]:
        if self.dilation[0] < max(x.shape[-2:]):
            return super().forward(x)
        return F.conv2d(x, self.weight[:, :, 1:2, 1:2])


def initialise(module: nn.Module) -> None:
    """Convolutions as the authors' code has them; batch norms as torch has them anyway."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
