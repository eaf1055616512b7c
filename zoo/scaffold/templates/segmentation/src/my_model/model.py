"""The network, and the way from a user's image through it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from zoo import Model, Segmentation, media

from . import plugin


@dataclass(frozen=True)
class MyModelConfig:
    """What the network is built from; it travels with the weights."""

    channels: int = field(default=16, metadata={"min": 1, "max": 512})
    kernel_size: int = field(default=3, metadata={"choices": (1, 3)})
    """1 looks at every pixel alone: the baseline of the claim."""
    longest_side: int = field(default=512, metadata={"min": 16, "max": 4096})
    """Larger images are reduced to this, px."""


class MyModel(Model[Segmentation]):
    """Dilated convolutions at full resolution: each pixel sees 31 x 31 around it."""

    plugin: ClassVar = plugin
    config_class: ClassVar[type] = MyModelConfig

    def __init__(self, config: MyModelConfig | None = None) -> None:
        super().__init__(config)
        c, k = self.config.channels, self.config.kernel_size
        layers: list[nn.Module] = []
        for before, dilation in zip((1, c, c, c), (1, 2, 4, 8), strict=True):
            layers += [nn.Conv2d(before, c, k, dilation=dilation, padding=dilation * (k // 2)), nn.LeakyReLU(0.1)]
        self.network = nn.Sequential(*layers, nn.Conv2d(c, 1, 1))

    def forward(self, x: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
        """Logits of lesion; ``x`` is in [0, 1]."""
        mean, std = x.mean((2, 3), keepdim=True), x.std((2, 3), correction=0, keepdim=True)
        return self.network((x - mean) / (std + 0.05))

    def _predict(self, images: Sequence[media.Image], *, threshold: float) -> list[Segmentation]:
        """What `predict` calls, with images that are read and options that are checked against the card."""
        return [self._segmented(image, threshold) for image in images]

    def _segmented(self, image: media.Image, threshold: float) -> Segmentation:
        grey = image.grey()
        scale = min(1.0, self.config.longest_side / max(grey.shape))
        small = resize(grey, (max(1, round(grey.shape[0] * scale)), max(1, round(grey.shape[1] * scale))))
        x = torch.tensor(small, device=self.device)[None, None]
        probability = np.clip(resize(self(x).sigmoid()[0, 0].cpu().numpy(), grey.shape), 0, 1)
        return Segmentation(
            image=image,
            mask=(probability >= max(threshold, 1e-6)).astype(np.uint8),
            probability=probability,
            labels=self.plugin.labels,
        )


def resize(array: Float[np.ndarray, "h w"], size: tuple[int, ...]) -> Float[np.ndarray, "H W"]:
    """Bilinear; averages where it reduces."""
    if array.shape == tuple(size):
        return array
    return np.asarray(Image.fromarray(array).resize((size[1], size[0]), Image.Resampling.BILINEAR))
