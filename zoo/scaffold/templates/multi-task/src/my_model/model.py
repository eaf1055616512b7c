"""The network, and the way from a user's image through it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zoo import Classification, Model, MultiTask, Segmentation, media

from . import plugin
from .encoder import Encoder, MyModelConfig, square

__all__ = ["MyModel", "MyModelConfig"]


class MyModel(Model[MultiTask]):
    """Two heads on one encoder."""

    plugin: ClassVar = plugin
    config_class: ClassVar[type] = MyModelConfig

    def __init__(self, config: MyModelConfig | None = None) -> None:
        super().__init__(config)
        self.encoder = Encoder(self.config)
        self.kind = nn.Linear(2 * self.encoder.width, 2)
        self.place = nn.Conv2d(1 + self.encoder.width, 1, 3, padding=1)

    def forward(self, x: Float[Tensor, "b 1 side side"]) -> tuple[Float[Tensor, "b 2"], Float[Tensor, "b 1 side side"]]:
        """Logits of the two kinds, and of the nodule at each pixel; ``x`` is in [0, 1]."""
        found = self.encoder(x)
        kind = self.kind(torch.cat([found.mean((2, 3)), found.amax((2, 3))], 1))
        wide = F.interpolate(found, x.shape[2:], mode="bilinear", align_corners=False)
        return kind, self.place(torch.cat([x, wide], 1))

    def _predict(self, images: Sequence[media.Image]) -> list[MultiTask]:
        """What `predict` calls, with images that are read and options that are checked against the card."""
        return [self._both(image) for image in images]

    def _both(self, image: media.Image) -> MultiTask:
        x = torch.tensor(square(image.grey(), self.config.side), device=self.device)[None, None]
        kind, place = self(x)
        inside = F.interpolate(place.sigmoid(), image.size, mode="bilinear", align_corners=False)[0, 0].cpu().numpy()
        chances = dict(zip(self.plugin.labels[:2], kind.softmax(1)[0].tolist(), strict=True))
        nodule = Segmentation(
            image=image, mask=(inside >= 0.5).astype(np.uint8), probability=inside, labels=self.plugin.labels[2:]
        )
        diagnosis = Classification(image=image, probabilities=chances)
        return MultiTask(image=image, parts={"diagnosis": diagnosis, "nodule": nodule})
