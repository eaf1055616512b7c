"""The network, and the way from a user's volume through it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zoo import Model, VolumeSegmentation, media

from . import plugin


@dataclass(frozen=True)
class MyModelConfig:
    """What the network is built from; it travels with the weights."""

    channels: int = field(default=8, metadata={"min": 1, "max": 512})
    kernel_size: int = field(default=3, metadata={"choices": (1, 3)})
    """1 looks at every voxel alone: the baseline of the claim."""
    grid: tuple[int, int, int] = (12, 32, 32)
    """Volumes are scaled to so many slices, rows and columns."""


class MyModel(Model[VolumeSegmentation]):
    """Dilated convolutions in three dimensions."""

    plugin: ClassVar = plugin
    config_class: ClassVar[type] = MyModelConfig

    def __init__(self, config: MyModelConfig | None = None) -> None:
        super().__init__(config)
        c, k = self.config.channels, self.config.kernel_size
        layers: list[nn.Module] = []
        for before, dilation in zip((1, c, c), (1, 2, 4), strict=True):
            layers += [nn.Conv3d(before, c, k, dilation=dilation, padding=dilation * (k // 2)), nn.LeakyReLU(0.1)]
        self.network = nn.Sequential(*layers, nn.Conv3d(c, 1, 1))

    def forward(self, x: Float[Tensor, "b 1 z h w"]) -> Float[Tensor, "b 1 z h w"]:
        """Logits of organ; the light of each volume is taken out first."""
        mean, std = x.mean((2, 3, 4), keepdim=True), x.std((2, 3, 4), correction=0, keepdim=True)
        return self.network((x - mean) / (std + 1e-6))

    def _predict(self, volumes: Sequence[media.Image], *, threshold: float) -> list[VolumeSegmentation]:
        """What `predict` calls, with volumes that are read and options that are checked against the card."""
        return [self._segmented(volume, threshold) for volume in volumes]

    def _segmented(self, volume: media.Image, threshold: float) -> VolumeSegmentation:
        x = scaled(volume.array.reshape(volume.size), self.config.grid)[None, None].to(self.device)
        wide = F.interpolate(self(x).sigmoid(), volume.size, mode="trilinear", align_corners=False)
        probability = wide[0, 0].clamp(0, 1).cpu().numpy()
        return VolumeSegmentation(
            image=volume,
            mask=(probability >= max(threshold, 1e-6)).astype(np.uint8),
            probability=probability,
            labels=self.plugin.labels,
        )


def scaled(array: np.ndarray, grid: Sequence[int]) -> Float[Tensor, "z h w"]:
    """Grey values on another grid, trilinear."""
    x = torch.from_numpy(np.ascontiguousarray(array, np.float32))[None, None]
    return F.interpolate(x, tuple(grid), mode="trilinear", align_corners=False)[0, 0]
