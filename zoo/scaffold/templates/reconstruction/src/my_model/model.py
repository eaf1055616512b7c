"""The network, and the way from a user's image through it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zoo import MediaError, Model, Reconstruction, media

from . import plugin
from .encoder import Encoder, MyModelConfig, square

__all__ = ["MyModel", "MyModelConfig"]


class MyModel(Model[Reconstruction]):
    """What the encoder found says what to take off each pixel."""

    plugin: ClassVar = plugin
    config_class: ClassVar[type] = MyModelConfig

    def __init__(self, config: MyModelConfig | None = None) -> None:
        super().__init__(config)
        self.encoder = Encoder(self.config)
        w, k = self.encoder.width, self.config.kernel_size
        self.head = nn.Sequential(
            nn.Conv2d(1 + w, w, k, padding=k // 2), nn.LeakyReLU(0.1), nn.Conv2d(w, w, k, padding=k // 2),
            nn.LeakyReLU(0.1), nn.Conv2d(w, 1, k, padding=k // 2),
        )  # fmt: skip

    def forward(self, x: Float[Tensor, "b 1 side side"]) -> Float[Tensor, "b 1 side side"]:
        """The image without noise; ``x`` is in [0, 1]."""
        wide = F.interpolate(self.encoder(x), x.shape[2:], mode="bilinear", align_corners=False)
        return x + self.head(torch.cat([x, wide], 1))

    def _predict(self, images: Sequence[media.Image], *, reference: media.Image | None) -> list[Reconstruction]:
        """What `predict` calls, with images that are read and options that are checked against the card."""
        return [self._cleaned(image, reference) for image in images]

    def _cleaned(self, image: media.Image, reference: media.Image | None) -> Reconstruction:
        start = image.grey()
        truth = None if reference is None else reference.grey()
        if truth is not None and truth.shape != start.shape:
            raise MediaError(f"reference is {truth.shape}, the image {start.shape}; give one of the same size")
        x = torch.tensor(square(start, self.config.side), device=self.device)[None, None]
        change = F.interpolate(self(x) - x, start.shape, mode="bilinear", align_corners=False)
        output = np.clip(start + change[0, 0].cpu().numpy(), 0, 1).astype(np.float32)
        scores = {} if truth is None else {"rmse": float(np.sqrt(np.mean((output - truth) ** 2)))}
        return Reconstruction(image=image, output=output, start=start, reference=truth, scores=scores)
