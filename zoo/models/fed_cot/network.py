"""The U-Net with group normalisation that student and both teachers are: MONAI's blocks, or the literal 3-D U-Net."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zoo.errors import MissingExtraError

Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class CoTConfig:
    """The network and how a volume comes to it; small by default, ``PAPER`` and ``CICEK`` are of the paper's scale.

    The paper names the 3-D U-Net of Çiçek 2016 with group normalisation (Sec. 4.2), and no width.
    """

    widths: tuple[int, ...] = field(default=(8, 16, 32), metadata={"min": 1, "max": 4096})  # of the levels; open
    last: int = field(default=8, metadata={"min": 1, "max": 4096})  # width of the last level on the way up; open
    groups: int = field(default=4, metadata={"min": 1, "max": 1024})  # open
    halved: bool = False  # as Çiçek 2016: the first convolution of a level has half its width, up-convolutions keep it
    flat: bool = False  # images instead of volumes
    bias: float = field(default=0.0, metadata={"min": -20.0, "max": 20.0})  # of the last layer, to begin with
    patch: tuple[int, ...] = field(default=(16, 16, 16), metadata={"min": 1, "max": 1024})  # x, y, z; open
    spacing: Spacing = field(default=(4.0, 4.0, 4.0), metadata={"min": 0.05, "max": 50.0})  # mm; open
    sync: bool = True  # whether there is a sync-teacher

    def __post_init__(self) -> None:
        if len(self.widths) < 2:
            raise ValueError("widths must be two numbers or more, one for each level")
        inner = [width // 2 for width in self.widths] if self.halved else []
        if wrong := [width for width in (*self.widths, *inner, self.last) if width % self.groups]:
            raise ValueError(f"a width of {wrong[0]} can't be normalised in {self.groups} groups")
        axes, deep = (2 if self.flat else 3), 2 ** (len(self.widths) - 1)
        if len(self.patch) != axes or any(side % deep for side in self.patch):
            raise ValueError(f"patch needs {axes} sides that are multiples of {deep}, not {self.patch}")


PAPER = CoTConfig((32, 32, 64, 128, 256), 32, 8, patch=(64, 64, 64), spacing=(1.0, 1.0, 1.0))
"""MONAI's BasicUNet in its usual widths: 5,749,377 parameters."""
CICEK: dict[str, Any] = {"widths": (64, 128, 256, 512), "last": 64, "groups": 8, "halved": True}
"""The literal cited network: 19.07 million parameters."""


class Network(nn.Module):
    """Two convolutions a level, each with group normalisation and ReLU; no buffers, so theta is all there is.

    Averaging parameters is then the whole of averaging models, and the teachers need no mode of their own.
    """

    def __init__(self, config: CoTConfig) -> None:
        super().__init__()
        try:
            from monai.networks.blocks import Convolution
            from monai.networks.nets.basic_unet import Down, TwoConv, UpCat
        except ImportError:
            raise MissingExtraError("the network of fed-cot", "monai", "volumes") from None
        axes = 2 if config.flat else 3
        norm = ("group", {"num_groups": config.groups})
        act = ("relu", {"inplace": True})
        down: list[nn.Module] = []
        before = 1
        for level, width in enumerate(config.widths):
            if config.halved:
                first, second = (
                    Convolution(axes, a, b, kernel_size=3, norm=norm, act=act, adn_ordering="NA")
                    for a, b in ((before, width // 2), (width // 2, width))
                )
                pool = [] if level == 0 else [nn.MaxPool2d(2) if config.flat else nn.MaxPool3d(2)]
                down.append(nn.Sequential(*pool, first, second))
            elif level == 0:
                down.append(TwoConv(axes, before, width, act, norm, True))
            else:
                down.append(Down(axes, before, width, act, norm, True))
            before = width
        self.down = nn.ModuleList(down)
        up: list[nn.Module] = []
        skips = list(config.widths[-2::-1])
        for place, skip in enumerate(skips):
            bottom = place == len(skips) - 1
            out = config.last if bottom else skip
            halves = not (config.halved or bottom)  # as in MONAI's: the last up-convolution keeps its width
            up.append(UpCat(axes, before, skip, out, act, norm, True, halves=halves))
            before = out
        self.up = nn.ModuleList(up)
        head: Any = (nn.Conv2d if config.flat else nn.Conv3d)(before, 1, 1)
        if config.bias:
            nn.init.constant_(head.bias, config.bias)
        self.head = head

    def forward(self, x: Float[Tensor, "b 1 *grid"]) -> Float[Tensor, "b 1 *grid"]:
        """Logits of a lesion; ``x``: mean 0 and deviation 1 over the brain, 0 outside of it."""
        skips: list[Tensor] = []
        for block in self.down:
            x = block(x)
            skips.append(x)
        for up, skip in zip(self.up, skips[-2::-1], strict=True):
            x = up(x, skip)
        return cast(Tensor, self.head(x))


def parameters_of(config: CoTConfig) -> int:
    """How many parameters one of the networks has; builds nothing."""
    with torch.device("meta"):
        return sum(p.numel() for p in Network(config).parameters())
