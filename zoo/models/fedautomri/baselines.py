"""What the paper compares with: fastMRI's U-Net without data consistency, and cells that nobody searched."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn

from zoo.models.fedautomri.cell import OPERATIONS, Genotype
from zoo.models.fedautomri.network import FedAutoMRIConfig, Unrolled


class UNet(nn.Module):
    """Two 3x3 convolutions a level, instance normalisation, 7.76 M parameters at the paper's widths; residual."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.down = nn.ModuleList(_block(a, b) for a, b in zip((2, *widths[:-1]), widths, strict=True))
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(a, b, 2, 2, bias=False), nn.InstanceNorm2d(b), nn.LeakyReLU(0.2))
            for a, b in pairs
        )
        self.merge = nn.ModuleList(_block(2 * b, b) for _, b in pairs)
        self.head = nn.Conv2d(widths[0], 2, 1)

    def forward(
        self, x0: Float[Tensor, "b 2 h w"], mask: Tensor, maps: Complex[Tensor, "b c h w"] | None = None,
        steps: list[Tensor] | None = None,
    ) -> Float[Tensor, "b 2 h w"]:  # fmt: skip
        """``mask`` and ``maps`` aren't used: it sees the zero-filled image alone."""
        multiple, (h, w) = 2 ** len(self.up), x0.shape[-2:]
        x = F.pad(x0, (0, -w % multiple, 0, -h % multiple))
        skips = []
        for place, block in enumerate(self.down):
            x = block(F.avg_pool2d(x, 2) if place else x)
            skips.append(x)
        for up, merge, skip in zip(self.up, self.merge, skips[-2::-1], strict=True):
            x = merge(torch.cat([up(x), skip], 1))
        return x0 + self.head(x)[..., :h, :w]


def _block(a: int, b: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for entering in (a, b):
        layers += [nn.Conv2d(entering, b, 3, padding=1, bias=False), nn.InstanceNorm2d(b), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers)


def build_network(config: FedAutoMRIConfig, search: bool = False) -> Unrolled | UNet:
    """The network of a configuration; with ``search`` all candidates are on every edge."""
    return UNet(config.unet) if config.denoiser == "u-net" else Unrolled(config, search)


def random_genotype(rng: np.random.Generator, keep: int = 2, edges: int = 3) -> Genotype:
    """``keep`` operations on each of the edges, drawn."""
    names = list(OPERATIONS)
    return tuple(tuple(names[i] for i in sorted(rng.permutation(len(names))[:keep])) for _ in range(edges))


def size_of(genotype: Genotype, channels: int) -> int:
    """Weights of a cell's operations."""
    kinds = [OPERATIONS[name] for edge in genotype for name in edge]
    return sum(channels**2 * k * k if kind == "std" else channels * k * k + channels**2 for kind, k, _ in kinds)


def matched_genotype(like: Genotype, channels: int, rng: np.random.Generator, draws: int = 400) -> Genotype:
    """Of ``draws`` random cells with other operations than ``like``, the one whose size is nearest."""
    wanted = size_of(like, channels)
    drawn = [one for one in (random_genotype(rng, len(like[0]), len(like)) for _ in range(draws)) if one != like]
    return min(drawn, key=lambda one: abs(size_of(one, channels) - wanted))
