"""The unrolled reconstruction (Eq. 3), and the denoisers in it: cells (Sec. 2.2), or MoDL's by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn

from zoo.models.fedautomri.cell import EDGES, OPERATIONS, Cell, Genotype, Norm, Sends, Wiring

AVERAGE: Genotype = (
    ("std_conv_3x3", "sep_conv_5x5"), ("std_conv_5x5", "sep_conv_3x3"), ("std_conv_3x3", "dil_2_conv_3x3"),
)  # fmt: skip
"""A cell that nobody searched, for a network that is built without one."""


@dataclass(frozen=True)
class FedAutoMRIConfig:
    """The network; the genotype names the operations that a search kept on each edge of :data:`EDGES`."""

    denoiser: Literal["cell", "hand-made", "u-net"] = "cell"
    """``hand-made``: MoDL's convolutions in the same unrolling. ``u-net``: image to image, without data consistency."""
    wiring: Wiring = "three"
    """Two readings of "three nodes": all in all, or between two that enter, joined at the end (``darts3``)."""
    genotype: Genotype = ()  # empty: AVERAGE's edges, as often as they are needed
    norm: Norm = "none"
    """Of the cell's operations. DARTS has ``batch``; its statistics, shared over iterations and averaged over
    hospitals, differ from training to test, so that none is the default."""
    unroll: int = field(default=5, metadata={"min": 1, "max": 64})  # J, deduced from the paper's operation count
    channels: int = field(default=8, metadata={"min": 1, "max": 512})  # open
    cells: int = field(default=3, metadata={"min": 1, "max": 64})  # open
    start: float = field(default=0.05, metadata={"min": 1e-6, "max": 100.0})  # lambda before training, MoDL's
    layers: int = field(default=9, metadata={"min": 2, "max": 64})  # of hand-made; deduced from 0.26 M parameters
    width: int = field(default=64, metadata={"min": 1, "max": 1024})  # of its layers
    normalise: bool = True  # batch normalisation of hand-made
    unet: tuple[int, ...] = field(default=(32, 64, 128, 256, 512), metadata={"min": 1, "max": 4096})
    clients: tuple[str, ...] = ()  # who have weights of their own

    @property
    def kept(self) -> Genotype:
        """The operations of each edge."""
        return self.genotype or tuple(AVERAGE[place % len(AVERAGE)] for place in range(len(EDGES[self.wiring])))

    def __post_init__(self) -> None:
        edges = len(EDGES[self.wiring])
        if len(self.kept) != edges or not all(self.kept):
            raise ValueError(f"a genotype names the operations of {edges} edges, not of {len(self.genotype)}")
        if unknown := [name for edge in self.genotype for name in edge if name not in OPERATIONS]:
            raise ValueError(f"{unknown[0]!r} is no operation; there are {', '.join(OPERATIONS)}")
        if any(len(set(edge)) < len(edge) for edge in self.genotype):
            raise ValueError("an edge keeps each operation once")
        if len(self.unet) < 2:
            raise ValueError("unet needs two levels or more, such as 24,48")


class CellDenoiser(nn.Module):
    """D of Eq. 3: stem, cells of one structure, head, residual.

    With ``search`` all candidates are on every edge, weighed by architecture parameters, and norms have no weights.
    """

    def __init__(self, config: FedAutoMRIConfig, search: bool = False) -> None:
        super().__init__()
        c, edges = config.channels, len(EDGES[config.wiring])
        genotype = (tuple(OPERATIONS),) * edges if search else config.kept
        self.stem = nn.Conv2d(2, c, 3, padding=1)
        self.cells = nn.ModuleList(
            Cell(genotype, c, config.wiring, config.norm, affine=not search) for _ in range(config.cells)
        )
        self.head = nn.Conv2d(c, 2, 3, padding=1)
        with torch.no_grad():
            self.head.weight *= 0.1  # nearly the identity at first
        self.alpha = nn.Parameter(1e-3 * torch.randn(edges, len(OPERATIONS))) if search else None

    def prepare(self) -> list[list[Sends]]:
        """What the nodes of all cells send, made once for all iterations."""
        mix = None if self.alpha is None else self.alpha.softmax(1)  # Eq. 5
        return [cell.sends(mix) for cell in self.cells]  # type: ignore[operator]

    def forward(self, x: Float[Tensor, "b 2 h w"], prepared: Sequence[Sequence[Sends]]) -> Tensor:
        before = last = self.stem(x)
        for cell, sends in zip(self.cells, prepared, strict=True):
            before, last = last, cell(before, last, sends)
        return x + self.head(last)


class HandMade(nn.Module):
    """MoDL's denoiser: 3x3 convolutions without bias, batch normalisation after each, residual."""

    def __init__(self, config: FedAutoMRIConfig) -> None:
        super().__init__()
        widths = [2, *[config.width] * (config.layers - 1), 2]
        blocks: list[nn.Module] = []
        for place, (a, b) in enumerate(pairwise(widths)):
            blocks.append(nn.Conv2d(a, b, 3, padding=1, bias=False))
            blocks += [nn.BatchNorm2d(b)] if config.normalise else []
            blocks += [nn.ReLU()] if place < config.layers - 1 else []
        self.blocks = nn.Sequential(*blocks)

    def prepare(self) -> None:
        """Nothing to make."""

    def forward(self, x: Float[Tensor, "b 2 h w"], _: None) -> Float[Tensor, "b 2 h w"]:
        return x + self.blocks(x)


def to_complex(x: Float[Tensor, "b 2 h w"]) -> Complex[Tensor, "b h w"]:
    return torch.complex(x[:, 0], x[:, 1])


def to_parts(x: Complex[Tensor, "b h w"]) -> Float[Tensor, "b 2 h w"]:
    return torch.stack([x.real, x.imag], 1)


class Unrolled(nn.Module):
    """J times r = D(x), x = (A^H A + lambda I)^-1 (A^H k + lambda r), weights shared (Eq. 3).

    Frequencies are in torch's order, 0 in a corner, and images are not shifted: shifts change k-space by a phase, which
    the step, being pointwise, doesn't see. So x0 = A^H k and the mask are all that is needed.
    """

    def __init__(self, config: FedAutoMRIConfig, search: bool = False) -> None:
        super().__init__()
        self.unroll = config.unroll
        self.denoiser = HandMade(config) if config.denoiser == "hand-made" else CellDenoiser(config, search)
        self.raw = nn.Parameter(torch.tensor(math.log(math.expm1(config.start))))

    @property
    def weight(self) -> Float[Tensor, ""]:
        """lambda, above 0."""
        return F.softplus(self.raw)

    def forward(
        self, x0: Float[Tensor, "b 2 h w"], mask: Float[Tensor, "b _ w"],
        maps: Complex[Tensor, "b c h w"] | None = None, steps: list[Tensor] | None = None,
    ) -> Float[Tensor, "b 2 h w"]:  # fmt: skip
        """``x0``: A^H k, greatest magnitude about 1. ``mask``: 1 where sampled, frequency 0 in the corner. ``maps``:
        coils, for which the inverse is found by conjugate gradients. ``steps`` gets x of every iteration."""
        weight, prepared, x = self.weight, self.denoiser.prepare(), x0
        start = to_complex(x0)
        k = None if maps is not None else torch.fft.fft2(start, norm="ortho")
        for _ in range(self.unroll):
            r = to_complex(self.denoiser(x, prepared))
            if k is not None:
                found = consistent(r, k, mask, weight)
            else:
                assert maps is not None
                found = conjugate_gradients(start + weight * r, mask, maps, weight)
            x = to_parts(found)
            if steps is not None:
                steps.append(x)
        return x


def consistent(
    r: Complex[Tensor, "b h w"], k: Complex[Tensor, "b h w"], mask: Float[Tensor, "b _ w"], weight: Tensor
) -> Complex[Tensor, "b h w"]:
    """F^-1 [(M k + lambda F r) / (M + lambda)]: measured frequencies are drawn to k, others are r's."""
    return torch.fft.ifft2((k + weight * torch.fft.fft2(r, norm="ortho")) / (mask + weight), norm="ortho")


def normal_operator(
    x: Complex[Tensor, "b h w"], mask: Float[Tensor, "b _ w"], maps: Complex[Tensor, "b c h w"]
) -> Complex[Tensor, "b h w"]:
    """A^H A x for A = M F S."""
    coils = torch.fft.ifft2(mask[:, None] * torch.fft.fft2(maps * x[:, None], norm="ortho"), norm="ortho")
    return (maps.conj() * coils).sum(1)


def conjugate_gradients(
    b: Complex[Tensor, "b h w"], mask: Float[Tensor, "b _ w"], maps: Complex[Tensor, "b c h w"], weight: Tensor,
    iterations: int = 10, tolerance: float = 1e-10,
) -> Complex[Tensor, "b h w"]:  # fmt: skip
    """(A^H A + lambda I)^-1 b from zero, as MoDL has it: 10 iterations, or until the residual's square is small."""
    x, residual = torch.zeros_like(b), b
    direction, size = residual, residual.abs().square().sum((-2, -1), keepdim=True)
    for _ in range(iterations):
        if float(size.max()) <= tolerance:
            break
        along = normal_operator(direction, mask, maps) + weight * direction
        step = size / (direction.conj() * along).real.sum((-2, -1), keepdim=True).clamp_min(1e-30)
        x = x + step * direction
        residual = residual - step * along
        left = residual.abs().square().sum((-2, -1), keepdim=True)
        direction, size = residual + left / size.clamp_min(1e-30) * direction, left
    return x
