"""Networks without SAM that Table 1 compares with: U-Net, and TernausNet (A. Shvets et al., ICMLA 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zoo.nn.backbones import torchvision_network


def u_net(outputs: int, features: Sequence[int]) -> nn.Module:
    """MONAI's ``BasicUNet`` on colour frames."""
    from monai.networks.nets import BasicUNet

    return BasicUNet(spatial_dims=2, in_channels=3, out_channels=outputs, features=tuple(features))


class TernausNet(nn.Module):
    """A U-Net whose encoder is VGG-16; ``width`` is that of its finest decoder block. The side is a multiple of 32."""

    def __init__(self, outputs: int, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = list(torchvision_network("vgg16").features)  # type: ignore[arg-type]
        ends = [i for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
        starts = [0, *(end + 1 for end in ends[:-1])]
        self.encoder = nn.ModuleList(nn.Sequential(*layers[a:b]) for a, b in zip(starts, ends, strict=True))
        self.pool = nn.MaxPool2d(2)
        found = (64, 128, 256, 512, 512)  # channels of VGG-16's five blocks
        self.centre = _up(512, 16 * width, 8 * width)
        self.decoder = nn.ModuleList(
            _up(found[i] + given, middle, out)
            for i, given, middle, out in (
                (4, 8 * width, 16 * width, 8 * width),
                (3, 8 * width, 16 * width, 8 * width),
                (2, 8 * width, 8 * width, 2 * width),
                (1, 2 * width, 4 * width, width),
            )
        )
        self.last = nn.Sequential(nn.Conv2d(found[0] + width, width, 3, padding=1), nn.ReLU(inplace=True))
        self.head = nn.Conv2d(width, outputs, 1)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        seen = []
        for block in self.encoder:
            x = block(x)
            seen.append(x)
            x = self.pool(x)
        x = self.centre(x)
        for block, skip in zip(self.decoder, seen[:0:-1], strict=True):
            x = block(torch.cat([x, skip], dim=1))
        return self.head(self.last(torch.cat([x, seen[0]], dim=1)))


def _up(channels: int, middle: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, middle, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(middle, outputs, 4, stride=2, padding=1),
        nn.ReLU(inplace=True),
    )
