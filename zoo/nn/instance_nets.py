"""Small networks of instance norms, as dataset distillation has them: a ConvNet, and ResNet-18 for small images.

Their feature maps can be shifted on the way, between a convolution and its norm or after a block.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Shift = Callable[[Tensor], Tensor]
POOL = 4  # of the ResNet's last map, px


def check_size(architecture: str, size: int, depth: int) -> None:
    """Raises ``ValueError`` for images that are too small for a network."""
    if architecture == "convnet" and size < 2**depth:
        raise ValueError(f"a ConvNet of {depth} blocks needs images of at least {2**depth} px, not {size}")
    if architecture == "resnet18-instance" and size < 8 * POOL:
        raise ValueError(f"resnet18-instance needs images of at least {8 * POOL} px, not {size}")


def unchanged(x: Tensor) -> Tensor:
    return x


class ConvNet(nn.Module):
    """Blocks of 3 x 3 convolution, instance normalisation, ReLU and average pooling; a linear head."""

    def __init__(self, classes: int, size: int, width: int = 128, depth: int = 3) -> None:
        super().__init__()
        ins = (3, *[width] * (depth - 1))
        self.convolutions = nn.ModuleList(nn.Conv2d(i, width, 3, padding=1) for i in ins)
        self.norms = nn.ModuleList(nn.GroupNorm(width, width) for _ in ins)
        self.head = nn.Linear(width * (size >> depth) ** 2, classes)

    def maps(
        self, x: Float[Tensor, "b 3 s s"], shift: Shift = unchanged, late: Shift = unchanged
    ) -> Float[Tensor, "b w t t"]:
        """``shift`` acts after every convolution, before its norm; ``late`` after every block."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = late(F.avg_pool2d(F.relu(norm(shift(convolution(x)))), 2))
        return x

    def features(
        self, x: Float[Tensor, "b 3 s s"], shift: Shift = unchanged, late: Shift = unchanged
    ) -> Float[Tensor, "b d"]:
        return self.maps(x, shift, late).flatten(1)

    def forward(self, x: Float[Tensor, "b 3 s s"], shift: Shift = unchanged) -> Float[Tensor, "b k"]:
        return self.head(self.features(x, shift))


class _Block(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.GroupNorm(after, after), nn.GroupNorm(after, after)
        projects = stride != 1 or before != after
        self.project = nn.Conv2d(before, after, 1, stride, bias=False) if projects else None
        self.norm = nn.GroupNorm(after, after) if projects else None

    def forward(self, x: Tensor, shift: Shift) -> Tensor:
        y = F.relu(self.norm1(shift(self.conv1(x))))
        y = self.norm2(shift(self.conv2(y)))
        if self.project is not None and self.norm is not None:
            x = self.norm(shift(self.project(x)))
        return F.relu(y + x)


class InstanceResNet(nn.Module):
    """ResNet-18 with a stem of 3 x 3 for small images, and norms of one channel per group."""

    def __init__(self, classes: int, size: int, width: int = 64) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.GroupNorm(width, width)
        blocks, before = [], width
        for stage in range(4):
            for place in range(2):
                after = width << stage
                blocks.append(_Block(before, after, 2 if stage and not place else 1))
                before = after
        self.blocks = nn.ModuleList(blocks)
        side = size
        for _ in range(3):
            side = (side + 1) // 2
        self.head = nn.Linear(before * (side // POOL) ** 2, classes)

    def maps(
        self, x: Float[Tensor, "b 3 s s"], shift: Shift = unchanged, late: Shift = unchanged
    ) -> Float[Tensor, "b w t t"]:
        """``shift`` acts after every convolution, before its norm, in 20 places; ``late`` after every block."""
        x = F.relu(self.norm(shift(self.stem(x))))
        for block in self.blocks:
            x = late(block(x, shift))
        return F.avg_pool2d(x, POOL)

    def features(
        self, x: Float[Tensor, "b 3 s s"], shift: Shift = unchanged, late: Shift = unchanged
    ) -> Float[Tensor, "b d"]:
        return self.maps(x, shift, late).flatten(1)

    def forward(self, x: Float[Tensor, "b 3 s s"], shift: Shift = unchanged) -> Float[Tensor, "b k"]:
        return self.head(self.features(x, shift))
