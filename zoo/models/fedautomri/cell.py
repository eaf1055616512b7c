"""The searched cell (Sec. 2.2, Fig. 1): its operations, their mixture, and the choice among them.

Without normalisation every operation is a convolution without bias, so that all operations of an edge are one: their
kernels, laid into the largest one's, are summed with the edge's mixing weights (Eq. 5), and no operation is run by
itself. With it each operation is a convolution and a norm of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

OPERATIONS: dict[str, tuple[str, int, int]] = {
    "std_conv_3x3": ("std", 3, 1), "std_conv_5x5": ("std", 5, 1), "std_conv_7x7": ("std", 7, 1),
    "dil_2_conv_3x3": ("std", 3, 2), "dil_3_conv_3x3": ("std", 3, 3),
    "sep_conv_3x3": ("sep", 3, 1), "sep_conv_5x5": ("sep", 5, 1), "sep_conv_7x7": ("sep", 7, 1),
}  # fmt: skip
"""Kind, kernel and dilation of the candidates (Sec. 2.2)."""

Genotype = tuple[tuple[str, ...], ...]
Wiring = Literal["three", "darts3"]
Norm = Literal["none", "instance", "batch"]
Sends = Callable[[Tensor], Tensor]
"""What a node sends along all of its edges, their channels side by side, from its value after ReLU."""

EDGES: dict[Wiring, tuple[tuple[int, int], ...]] = {
    "three": ((0, 1), (0, 2), (1, 2)),
    "darts3": ((0, 2), (1, 2), (0, 3), (1, 3), (2, 3), (0, 4), (1, 4), (2, 4), (3, 4)),
}
"""From which node to which."""
NORMS: dict[Norm, type[nn.BatchNorm2d | nn.InstanceNorm2d] | None] = {
    "none": None, "instance": nn.InstanceNorm2d, "batch": nn.BatchNorm2d,
}  # fmt: skip


class Operation(nn.Module):
    """One candidate, c channels to c, as the weights of its kernel; ``affine``: of its norm, where it has one."""

    def __init__(self, name: str, channels: int, norm: Norm = "none", affine: bool = True) -> None:
        super().__init__()
        self.kind, self.kernel, self.dilation = OPERATIONS[name]
        fan = channels * self.kernel**2
        k = (self.kernel, self.kernel)
        if self.kind == "std":
            self.weight = nn.Parameter(torch.randn(channels, channels, *k) / math.sqrt(fan))
        else:
            self.depthwise = nn.Parameter(torch.randn(channels, *k) / self.kernel)
            self.pointwise = nn.Parameter(torch.randn(channels, channels) / math.sqrt(channels))
        made = NORMS[norm]
        self.norm = nn.Identity() if made is None else made(channels, affine=affine)

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

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """By itself, normalised; ``x`` after its ReLU."""
        if self.kind == "std":
            return self.norm(F.conv2d(x, self.weight, padding=self.reach // 2, dilation=self.dilation))
        deep = F.conv2d(x, self.depthwise[:, None], padding=self.kernel // 2, groups=x.shape[1])
        return self.norm(F.conv2d(deep, self.pointwise[:, :, None, None]))


class Cell(nn.Module):
    """Nodes are sums of what the edges into them bring; the cell's value goes to the two cells that follow.

    ``three``: P0 = 1x1(s_{k-2}, s_{k-1}); P1 = o01(P0); P2 = o02(P0) + o12(P1), which is the value. ``darts3``: P0 and
    P1 = 1x1 of s_{k-2} and of s_{k-1}; P2, P3, P4 each from all before it, and a 1x1 of these three is the value.
    """

    def __init__(
        self, genotype: Genotype, channels: int, wiring: Wiring = "three", norm: Norm = "none", affine: bool = True
    ) -> None:
        super().__init__()
        self.wiring, self.norm = wiring, norm
        self.entering = 2 if wiring == "darts3" else 1
        self.merge = nn.Conv2d(2 * channels, self.entering * channels, 1, groups=self.entering, bias=False)
        self.edges = nn.ModuleList(
            nn.ModuleList(Operation(name, channels, norm, affine) for name in edge) for edge in genotype
        )
        self.join = nn.Conv2d(3 * channels, channels, 1, bias=False) if wiring == "darts3" else None

    def sends(self, mix: Float[Tensor, "edges ops"] | None = None) -> list[Sends]:
        """Of each node but the last; ``mix`` weighs the operations of the edges, else each counts 1."""
        pairs = EDGES[self.wiring]
        out = [[place for place, pair in enumerate(pairs) if pair[0] == node] for node in range(pairs[-1][0] + 1)]
        if self.norm == "none":
            return [self._fused([self._kernel(place, mix) for place in places]) for places in out]
        return [partial(self._by_itself, places=places, mix=mix) for places in out]

    def _operations(self, place: int) -> list[Operation]:
        held: Any = self.edges[place]
        return list(held)

    def _kernel(self, place: int, mix: Tensor | None) -> Float[Tensor, "c c side side"]:
        operations = self._operations(place)
        side = max(one.reach for one in operations)
        dense = torch.stack([one.dense(side) for one in operations])
        return dense.sum(0) if mix is None else torch.einsum("o,oabij->abij", mix[place], dense)

    @staticmethod
    def _fused(kernels: Sequence[Tensor]) -> Sends:
        side = max(one.shape[-1] for one in kernels)
        weight = torch.cat([F.pad(one, ((side - one.shape[-1]) // 2,) * 4) for one in kernels])
        return partial(F.conv2d, weight=weight, padding=side // 2)

    def _by_itself(self, x: Tensor, places: Sequence[int], mix: Tensor | None) -> Tensor:
        brought = []
        for place in places:
            weights = [1.0] * len(OPERATIONS) if mix is None else mix[place]
            brought.append(sum(w * one(x) for w, one in zip(weights, self._operations(place), strict=False)))
        return torch.cat(brought, 1)

    def forward(
        self, before: Float[Tensor, "b c h w"], last: Float[Tensor, "b c h w"], sends: Sequence[Sends]
    ) -> Float[Tensor, "b c h w"]:
        nodes = list(self.merge(torch.cat([before, last], 1)).chunk(self.entering, 1))
        brought: dict[int, Tensor] = {}
        for node, send in enumerate(sends):
            if node >= self.entering:
                nodes.append(brought[node])
            targets = [target for source, target in EDGES[self.wiring] if source == node]
            for target, part in zip(targets, send(nodes[node].relu()).chunk(len(targets), 1), strict=True):
                brought[target] = brought[target] + part if target in brought else part
        return brought[len(sends)] if self.join is None else self.join(torch.cat([brought[i] for i in (2, 3, 4)], 1))


def chosen(alpha: Float[Tensor, "edges ops"], keep: int = 2) -> Genotype:
    """The discrete cell: of each edge the ``keep`` operations of largest alpha (Sec. 2.2), in the order of the list."""
    names = list(OPERATIONS)
    return tuple(
        tuple(names[i] for i in sorted(torch.topk(row, keep).indices.tolist())) for row in alpha.detach().cpu()
    )
