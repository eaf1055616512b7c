"""The U-Net (Sec. 2, Fig. 1) and the two places where it is cut.

Client front-end, server and client back-end are parts of one network under one set of names: a cut decides who holds
what, and a process may hold some parts only. What crosses the link are features up and down, and their gradients back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

Split = Literal["deep", "shallow"]
Part = Literal["front", "server", "back"]
PARTS: tuple[Part, ...] = ("front", "server", "back")
LABELS = ("background", "ZP", "TE", "BL", "ICM")


@dataclass(frozen=True)
class SplitFedConfig:
    """The network, where it is cut, and the size of what enters it."""

    labels: tuple[str, ...] = LABELS
    split: Split = "deep"
    """``shallow``: one convolution at either end is the client's; ``deep``: the first block and the last one, with what
    comes after it (Sec. 2)."""
    widths: tuple[int, ...] = field(default=(32, 64, 128, 256), metadata={"min": 1, "max": 4096})  # Sec. 2
    bottleneck: int = field(default=512, metadata={"min": 1, "max": 8192})  # Sec. 2
    up: Literal["transposed", "upsampled"] = "transposed"
    """``transposed``: one transposed convolution of 2 x 2 and stride 2, as the same authors' later code; ``upsampled``:
    nearest neighbours, then a transposed convolution of 3 x 3, nearer to the text."""
    bias: bool = False  # of convolutions before batch normalisation
    image_size: int = field(default=256, metadata={"min": 16, "max": 2048})  # px; Sec. 3.1

    def __post_init__(self) -> None:
        if len(set(self.labels)) != len(self.labels) or len(self.labels) < 2:
            raise ValueError("labels must be two or more, each once")
        if len(self.widths) < 2:
            raise ValueError("widths must be two or more, one for each level")
        if self.image_size % 2 ** len(self.widths):
            raise ValueError(f"image_size must be a multiple of {2 ** len(self.widths)}, once halved by every level")


class Features(NamedTuple):
    """What the front-end makes of images: what goes up, and (deep cut) the skip connection that stays."""

    up: Float[Tensor, "b c h w"]
    skip: Float[Tensor, "b c2 h2 w2"] | None


class SplitUNet(nn.Module):
    """The whole network, or those ``parts`` of it that one side holds.

    Levels count from 0, the finest. ``enc0a`` and ``enc0b`` are the first two convolutions (C1 and C2 of the paper's
    Fig. 1), ``up0``, ``dec0a`` and ``dec0b`` the last up-sampling and the last two convolutions but ``out``.
    """

    def __init__(self, config: SplitFedConfig, parts: Sequence[Part] = PARTS) -> None:
        super().__init__()
        self.split, self.levels = config.split, len(config.widths)
        widths, below = config.widths, (*config.widths[1:], config.bottleneck)
        for name, part in owners(config).items():
            if part not in parts:
                continue
            if name == "out":
                self.add_module(name, nn.Conv2d(widths[0], len(config.labels), 1))
                continue
            kind, level, first = name.rstrip("0123456789ab"), int(name.strip("encdupab")), name.endswith("a")
            if kind == "up":
                self.add_module(name, up_sampling(below[level], widths[level], config.up))
            else:
                width = (*widths, config.bottleneck)[level]
                before = (3, *widths)[level] if kind == "enc" else 2 * width  # the first of a block takes
                self.add_module(name, convolution(before if first else width, width, config.bias))

    def front(self, x: Float[Tensor, "b 3 s s"]) -> Features:
        """On the client; images in [0, 1]."""
        z = self._through("enc0a", x)
        if self.split == "shallow":
            return Features(z, None)
        skip = self._through("enc0b", z)
        return Features(nn.functional.max_pool2d(skip, 2), skip)

    def server(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h w"]:
        """On the server: all that lies between."""
        skips: dict[int, Tensor] = {}
        if self.split == "shallow":
            skips[0] = self._through("enc0b", z)
            z = nn.functional.max_pool2d(skips[0], 2)
        for level in range(1, self.levels + 1):
            z = self._through(f"enc{level}b", self._through(f"enc{level}a", z))
            if level < self.levels:
                skips[level] = z
                z = nn.functional.max_pool2d(z, 2)
        for level in reversed(range(1, self.levels)):
            z = self._joined(level, z, skips[level])
            z = self._through(f"dec{level}b", self._through(f"dec{level}a", z))
        return self._through("dec0a", self._joined(0, z, skips[0])) if self.split == "shallow" else z

    def back(self, z: Float[Tensor, "b c h w"], skip: Float[Tensor, "b c2 h2 w2"] | None) -> Float[Tensor, "b k s s"]:
        """On the client: logits."""
        if self.split == "deep":
            assert skip is not None
            z = self._through("dec0a", self._joined(0, z, skip))
        return self._through("out", self._through("dec0b", z))

    def forward(self, x: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b k s s"]:
        """Logits over a link that loses nothing."""
        features = self.front(x)
        return self.back(self.server(features.up), features.skip)

    def _joined(self, level: int, z: Tensor, skip: Tensor) -> Tensor:
        return torch.cat([self._through(f"up{level}", z), skip], 1)

    def _through(self, name: str, z: Tensor) -> Tensor:
        return cast(Tensor, self.get_submodule(name)(z))

    def part_parameters(self, part: Part, owner: Mapping[str, Part]) -> list[nn.Parameter]:
        """Those of one part, by :func:`owners`."""
        return [p for name, p in self.named_parameters() if owner[name.partition(".")[0]] == part]


def owners(config: SplitFedConfig) -> dict[str, Part]:
    """Who holds which module, in the order in which images go through them."""
    last = len(config.widths)
    deep = config.split == "deep"
    found: dict[str, Part] = {"enc0a": "front", "enc0b": "front" if deep else "server"}
    for level in range(1, last + 1):
        found |= {f"enc{level}a": "server", f"enc{level}b": "server"}
    for level in reversed(range(1, last)):
        found |= {f"up{level}": "server", f"dec{level}a": "server", f"dec{level}b": "server"}
    found |= {"up0": "back" if deep else "server", "dec0a": "back" if deep else "server"}
    return {**found, "dec0b": "back", "out": "back"}


def part_of(state: Mapping[str, Tensor], config: SplitFedConfig, parts: Sequence[Part]) -> dict[str, Tensor]:
    """The tensors of a state dict that these parts hold."""
    owner = owners(config)
    return {name: tensor for name, tensor in state.items() if owner[name.partition(".")[0]] in parts}


def convolution(inside: int, out: int, bias: bool) -> nn.Sequential:
    """3 x 3, batch normalisation, ReLU."""
    return nn.Sequential(nn.Conv2d(inside, out, 3, padding=1, bias=bias), nn.BatchNorm2d(out), nn.ReLU())


def up_sampling(inside: int, out: int, how: Literal["transposed", "upsampled"]) -> nn.Module:
    """To twice the side."""
    if how == "transposed":
        return nn.ConvTranspose2d(inside, out, 2, stride=2)
    return nn.Sequential(nn.Upsample(scale_factor=2), nn.ConvTranspose2d(inside, out, 3, padding=1))
