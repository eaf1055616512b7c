"""What looks at the image: a public pretrained network, or a small one that trains in seconds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from zoo.hub import timm_backbone, transformers_backbone

BACKBONE = "timm:resnet18"
"""``timm:NAME``, or ``hf:ORG/NAME`` for a vision model of transformers; fetched from the Hub when it is built."""


@dataclass(frozen=True)
class MyModelConfig:
    """What the network is built from; it travels with the weights."""

    backbone: str = "small"
    """``small`` for the demo weights and the claim; ``BACKBONE`` by the preset ``paper``."""
    channels: int = field(default=16, metadata={"min": 1, "max": 512})  # of small
    kernel_size: int = field(default=3, metadata={"choices": (1, 3)})  # of small
    side: int = field(default=64, metadata={"min": 16, "max": 1024})
    """Images are scaled to squares of this side, px."""


class Encoder(nn.Module):
    """A map of features with ``width`` channels."""

    def __init__(self, config: MyModelConfig) -> None:
        super().__init__()
        self.pretrained = config.backbone != "small"
        self.network: Any = _pretrained(config.backbone) if self.pretrained else _small(config)
        self.width = _width(self.network) if self.pretrained else 2 * config.channels

    def forward(self, x: Float[Tensor, "b 1 side side"]) -> Float[Tensor, "b width h w"]:
        """``x`` is in [0, 1]; the light of each image is taken out first."""
        mean, std = x.mean((2, 3), keepdim=True), x.std((2, 3), correction=0, keepdim=True)
        x = (x - mean) / (std + 0.05)
        if not self.pretrained:
            return self.network(x)
        x = x.expand(-1, 3, -1, -1)
        found = self.network.forward_features(x) if hasattr(self.network, "forward_features") else self.network(x)
        return as_map(getattr(found, "last_hidden_state", found), self.width)


def as_map(found: Tensor, width: int) -> Float[Tensor, "b width h w"]:
    """Features of a convolutional network as they are; tokens of a transformer in rows, without those of no place."""
    if found.ndim == 4:
        return found if found.shape[1] == width else found.permute(0, 3, 1, 2)
    side = math.isqrt(found.shape[1])
    return found[:, found.shape[1] - side * side :].transpose(1, 2).unflatten(2, (side, side))


def _small(config: MyModelConfig) -> nn.Sequential:
    c, k = config.channels, config.kernel_size
    layers: list[nn.Module] = []
    for before, after, shrink in ((1, c, 1), (c, 2 * c, 2), (2 * c, 2 * c, 2)):
        layers += [nn.Conv2d(before, after, k, padding=k // 2), nn.LeakyReLU(0.1), nn.AvgPool2d(shrink)]
    return nn.Sequential(*layers)


def _pretrained(name: str) -> Any:
    kind, _, identity = name.partition(":")
    if kind == "timm":
        return timm_backbone(identity, needed_by="my-model", num_classes=0)
    from transformers import AutoModel

    return transformers_backbone(AutoModel, identity, needed_by="my-model")


def _width(network: Any) -> int:
    config = getattr(network, "config", None)
    sizes = getattr(config, "hidden_sizes", None)
    return int(getattr(network, "num_features", 0) or (sizes[-1] if sizes else config.hidden_size))


def square(grey: Float[np.ndarray, "h w"], side: int) -> Float[np.ndarray, "side side"]:
    """Bilinear; averages where it reduces."""
    return np.asarray(Image.fromarray(grey).resize((side, side), Image.Resampling.BILINEAR))
