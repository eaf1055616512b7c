"""What looks at the image: the heads of the model stand on its map of features."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn


@dataclass(frozen=True)
class ChangeFinderConfig:
    """What the network is built from; it travels with the weights."""

    channels: int = field(default=16, metadata={"min": 1, "max": 512})
    kernel_size: int = field(default=3, metadata={"choices": (1, 3)})
    """1 looks at every pixel alone: the baseline of the claim."""
    side: int = field(default=64, metadata={"min": 16, "max": 1024})
    """Images are scaled to squares of this side, px."""


class Encoder(nn.Module):
    """Three levels of convolutions, to a map of a quarter of the side with ``width`` channels."""

    def __init__(self, config: ChangeFinderConfig) -> None:
        super().__init__()
        c, k = config.channels, config.kernel_size
        self.width = 2 * c
        layers: list[nn.Module] = []
        for before, after, shrink in ((3, c, 1), (c, 2 * c, 2), (2 * c, 2 * c, 2)):
            layers += [nn.Conv2d(before, after, k, padding=k // 2), nn.LeakyReLU(0.1), nn.AvgPool2d(shrink)]
        self.network = nn.Sequential(*layers)

    def forward(self, x: Float[Tensor, "b 2 side side"]) -> Float[Tensor, "b width h w"]:
        """``x`` is the image of today and the one before, in [0, 1]; their difference is looked at, too."""
        mean, std = x.mean((2, 3), keepdim=True), x.std((2, 3), correction=0, keepdim=True)
        x = (x - mean) / (std + 0.05)
        return self.network(torch.cat([x, x[:, :1] - x[:, 1:]], 1))


def square(grey: Float[np.ndarray, "h w"], side: int) -> Float[np.ndarray, "side side"]:
    """Bilinear; averages where it reduces."""
    return np.asarray(Image.fromarray(grey).resize((side, side), Image.Resampling.BILINEAR))
