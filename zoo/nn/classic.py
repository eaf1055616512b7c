"""Small classifiers as the federated-learning literature has them: one hidden layer, LeNet, VGG-11 for 32 px."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor, nn


def mlp(inputs: int, hidden: int, classes: int) -> nn.Sequential:
    """Any input of so many numbers, flattened; one hidden layer."""
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes))


def lenet(channels: int, size: int, classes: int) -> nn.Sequential:
    """Two convolutions of 5 x 5 with 6 and 16 maps, and three linear layers; squares of at least 16 px."""
    side = ((size - 4) // 2 - 4) // 2
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(16 * side * side, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, classes),
    )  # fmt: skip


def vgg11(channels: int, classes: int, *, deep_head: bool = False) -> nn.Sequential:
    """Without batch normalisation, at the widths for CIFAR-10; images of at least 32 px.

    With one linear layer; or, with ``deep_head``, three of 512 with dropout before the first two, and convolutions that
    start at the standard deviation sqrt(2 / (9 maps out)).
    """
    layers: list[nn.Module] = []
    before = channels
    for width in (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0):
        if width:
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
            before = width
        else:
            layers.append(nn.MaxPool2d(2))
    head = [nn.Linear(512, classes)]
    if deep_head:
        deep = [part for _ in range(2) for part in (nn.Dropout(), nn.Linear(512, 512), nn.ReLU())]
        head = [*deep, *head]  # type: ignore[list-item]
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=math.sqrt(2 / (9 * layer.out_channels)))
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    # from 32 px on one cell is left; larger images are pooled to it
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head)


class GreyAsColour(nn.Module):
    """A grey image as three equal channels, in front of a network for colours."""

    def forward(self, x: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 3 h w"]:
        return x.expand(-1, 3, -1, -1)
