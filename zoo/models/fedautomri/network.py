"""The unrolled reconstruction (Eq. 3) and the searched cell (Sec. 2.2, Fig. 1).

Every operation is a convolution without bias, so that all operations of an edge are one: their kernels, laid into the
largest one's, are summed with the edge's mixing weights (Eq. 5). No operation is run by itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn

OPERATIONS: dict[str, tuple[str, int, int]] = {
    "std_conv_3x3": ("std", 3, 1), "std_conv_5x5": ("std", 5, 1), "std_conv_7x7": ("std", 7, 1),
    "dil_2_conv_3x3": ("std", 3, 2), "dil_3_conv_3x3": ("std", 3, 3),
    "sep_conv_3x3": ("sep", 3, 1), "sep_conv_5x5": ("sep", 5, 1), "sep_conv_7x7": ("sep", 7, 1),
}  # fmt: skip
"""Kind, kernel and dilation of the candidates (Sec. 2.2)."""
EDGES = ((0, 1), (0, 2), (1, 2))
Genotype = tuple[tuple[str, ...], ...]
AVERAGE: Genotype = (
    ("std_conv_3x3", "sep_conv_5x5"), ("std_conv_5x5", "sep_conv_3x3"), ("std_conv_3x3", "dil_2_conv_3x3"),
)  # fmt: skip
"""A cell that nobody searched, for a network that is built without one."""


@dataclass(frozen=True)
class FedAutoMRIConfig:
    """The network; the genotype names the operations of the edges (0, 1), (0, 2) and (1, 2) that a search kept."""

    denoiser: Literal["cell", "hand-made", "u-net"] = "cell"
    """``hand-made``: MoDL's convolutions in the same unrolling. ``u-net``: image to image, without data consistency."""
    genotype: Genotype = AVERAGE
    unroll: int = field(default=5, metadata={"min": 1, "max": 64})  # J, deduced from the paper's operation count
    channels: int = field(default=8, metadata={"min": 1, "max": 512})  # open
    cells: int = field(default=3, metadata={"min": 1, "max": 64})  # open
    start: float = field(default=0.05, metadata={"min": 1e-6, "max": 100.0})  # lambda before training, MoDL's
    layers: int = field(default=9, metadata={"min": 2, "max": 64})  # of hand-made; deduced from 0.26 M parameters
    width: int = field(default=64, metadata={"min": 1, "max": 1024})  # of its layers
    normalise: bool = True  # its batch normalisation
    unet: tuple[int, ...] = field(default=(32, 64, 128, 256, 512), metadata={"min": 1, "max": 4096})
    clients: tuple[str, ...] = ()  # who have weights of their own

    def __post_init__(self) -> None:
        if len(self.genotype) != len(EDGES) or not all(self.genotype):
            raise ValueError(f"a genotype names the operations of {len(EDGES)} edges, not of {len(self.genotype)}")
        if unknown := [name for edge in self.genotype for name in edge if name not in OPERATIONS]:
            raise ValueError(f"{unknown[0]!r} is no operation; there are {', '.join(OPERATIONS)}")
        if any(len(set(edge)) < len(edge) for edge in self.genotype):
            raise ValueError("an edge keeps each operation once")
        if len(self.unet) < 2:
            raise ValueError("unet needs two levels or more, such as 24,48")


SEARCHED: Genotype = (tuple(OPERATIONS),) * len(EDGES)
"""All candidates on every edge: the network while it is searched."""


class Operation(nn.Module):
    """One candidate, c channels to c, as the weights of its kernel."""

    def __init__(self, name: str, channels: int) -> None:
        super().__init__()
        self.kind, self.kernel, self.dilation = OPERATIONS[name]
        fan = channels * self.kernel**2
        k = (self.kernel, self.kernel)
        if self.kind == "std":
            self.weight = nn.Parameter(torch.randn(channels, channels, *k) / math.sqrt(fan))
        else:
            self.depthwise = nn.Parameter(torch.randn(channels, *k) / self.kernel)
            self.pointwise = nn.Parameter(torch.randn(channels, channels) / math.sqrt(channels))

    @property
    def reach(self) -> int:
        """The side of the dense kernel."""
        return (self.kernel - 1) * self.dilation + 1

    def dense(self, side: int) -> Float[Tensor, "c c side side"]:
        """The kernel in the middle of one of ``side``: a dilated one with zeros, a separable one multiplied out."""
        separable = self.kind == "sep"
        kernel: Tensor = self.pointwise[:, :, None, None] * self.depthwise[None] if separable else self.weight
        if self.dilation > 1:
            wide = kernel.new_zeros(*kernel.shape[:2], self.reach, self.reach)
            wide[:, :, :: self.dilation, :: self.dilation] = kernel
            kernel = wide
        border = (side - self.reach) // 2
        return F.pad(kernel, (border,) * 4)


class Cell(nn.Module):
    """P0 = 1x1(s_{k-2}, s_{k-1}); P1 = o01(P0); P2 = o02(P0) + o12(P1), which goes to the two cells that follow."""

    def __init__(self, genotype: Genotype, channels: int) -> None:
        super().__init__()
        self.merge = nn.Conv2d(2 * channels, channels, 1, bias=False)
        self.edges = nn.ModuleList(nn.ModuleList(Operation(name, channels) for name in edge) for edge in genotype)

    def kernels(self, mix: Float[Tensor, "3 ops"] | None = None) -> tuple[Tensor, Tensor]:
        """What the edges out of P0 are together, and the edge out of P1; ``mix`` weighs operations, else each is 1."""
        o01, o02, o12 = (self._edge(place, mix) for place in range(len(EDGES)))
        side = max(o01.shape[-1], o02.shape[-1])
        both = [F.pad(one, ((side - one.shape[-1]) // 2,) * 4) for one in (o01, o02)]
        return torch.cat(both), o12

    def _edge(self, place: int, mix: Tensor | None) -> Float[Tensor, "c c side side"]:
        held: Any = self.edges[place]
        operations: list[Operation] = list(held)
        side = max(one.reach for one in operations)
        dense = torch.stack([one.dense(side) for one in operations])
        return dense.sum(0) if mix is None else torch.einsum("o,oabij->abij", mix[place], dense)

    def forward(
        self, before: Float[Tensor, "b c h w"], last: Float[Tensor, "b c h w"], kernels: tuple[Tensor, Tensor]
    ) -> Float[Tensor, "b c h w"]:
        p0 = self.merge(torch.cat([before, last], 1))
        p1, p2 = F.conv2d(p0.relu(), kernels[0], padding=kernels[0].shape[-1] // 2).chunk(2, 1)
        return p2 + F.conv2d(p1.relu(), kernels[1], padding=kernels[1].shape[-1] // 2)


class CellDenoiser(nn.Module):
    """D of Eq. 3: stem, cells of one structure, head, residual. With ``search`` it has architecture parameters."""

    def __init__(self, config: FedAutoMRIConfig, search: bool = False) -> None:
        super().__init__()
        c = config.channels
        genotype = SEARCHED if search else config.genotype
        self.stem = nn.Conv2d(2, c, 3, padding=1)
        self.cells = nn.ModuleList(Cell(genotype, c) for _ in range(config.cells))
        self.head = nn.Conv2d(c, 2, 3, padding=1)
        with torch.no_grad():
            self.head.weight *= 0.1  # nearly the identity at first
        self.alpha = nn.Parameter(1e-3 * torch.randn(len(EDGES), len(OPERATIONS))) if search else None

    def prepare(self) -> list[tuple[Tensor, Tensor]]:
        """Kernels of all cells, made once for all iterations."""
        mix = None if self.alpha is None else self.alpha.softmax(1)  # Eq. 5
        return [cell.kernels(mix) for cell in self.cells]  # type: ignore[operator]

    def forward(self, x: Float[Tensor, "b 2 h w"], kernels: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        before = last = self.stem(x)
        for cell, made in zip(self.cells, kernels, strict=True):
            before, last = last, cell(before, last, made)
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


def chosen(alpha: Float[Tensor, "3 ops"], keep: int = 2) -> Genotype:
    """The discrete cell: of each edge the ``keep`` operations of largest alpha (Sec. 2.2), in the order of the list."""
    names = list(OPERATIONS)
    return tuple(
        tuple(names[i] for i in sorted(torch.topk(row, keep).indices.tolist())) for row in alpha.detach().cpu()
    )
