"""The network, and the way from a user's image through it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from zoo import Classification, Model, media

from . import plugin


@dataclass(frozen=True)
class MyModelConfig:
    """What the network is built from; it travels with the weights."""

    channels: int = field(default=16, metadata={"min": 1, "max": 512})
    kernel_size: int = field(default=3, metadata={"choices": (1, 3)})
    """1 looks at every pixel alone: the baseline of the claim."""
    side: int = field(default=64, metadata={"min": 16, "max": 1024})
    """Images are scaled to squares of this side, px."""


class MyModel(Model[Classification]):
    """Three levels of convolutions, and the mean over what they found."""

    plugin: ClassVar = plugin
    config_class: ClassVar[type] = MyModelConfig

    def __init__(self, config: MyModelConfig | None = None) -> None:
        super().__init__(config)
        c, k = self.config.channels, self.config.kernel_size
        layers: list[nn.Module] = []
        for before, after in ((1, c), (c, 2 * c), (2 * c, 2 * c)):
            layers += [nn.Conv2d(before, after, k, padding=k // 2), nn.LeakyReLU(0.1)]
            layers += [nn.AvgPool2d(2)] if k > 1 else []
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(4 * c, len(self.plugin.labels))

    def forward(self, x: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b classes"]:
        """Logits; ``x`` is in [0, 1]."""
        mean, std = x.mean((2, 3), keepdim=True), x.std((2, 3), correction=0, keepdim=True)
        found = self.features((x - mean) / (std + 0.05))
        return self.head(torch.cat([found.mean((2, 3)), found.amax((2, 3))], 1))

    def _predict(self, images: Sequence[media.Image], *, views: Literal["one", "four"]) -> list[Classification]:
        """What `predict` calls, with images that are read and options that are checked against the card."""
        return [self._classified(image, views) for image in images]

    def _classified(self, image: media.Image, views: str) -> Classification:
        x = torch.tensor(square(image.grey(), self.config.side), device=self.device)[None, None]
        turned = torch.cat([x.rot90(k, (2, 3)) for k in range(4 if views == "four" else 1)])
        probabilities = self(turned).softmax(1).mean(0).tolist()
        return Classification(image=image, probabilities=dict(zip(self.plugin.labels, probabilities, strict=True)))


def square(grey: Float[np.ndarray, "h w"], side: int) -> Float[np.ndarray, "side side"]:
    """Bilinear; averages where it reduces."""
    return np.asarray(Image.fromarray(grey).resize((side, side), Image.Resampling.BILINEAR))
