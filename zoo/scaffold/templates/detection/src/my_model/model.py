"""The network, and the way from a user's image through it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor, nn

from zoo import Detection, Model, media
from zoo.kinds import Box

from . import plugin
from .encoder import Encoder, MyModelConfig, square

__all__ = ["MyModel", "MyModelConfig"]


class MyModel(Model[Detection]):
    """A probability of each class at each place; connected places are a box."""

    plugin: ClassVar = plugin
    config_class: ClassVar[type] = MyModelConfig

    def __init__(self, config: MyModelConfig | None = None) -> None:
        super().__init__(config)
        self.encoder = Encoder(self.config)
        self.head = nn.Sequential(
            nn.Conv2d(self.encoder.width, self.encoder.width, 3, padding=1), nn.LeakyReLU(0.1),
            nn.Conv2d(self.encoder.width, 1 + len(self.plugin.labels), 1),
        )  # fmt: skip

    def forward(self, x: Float[Tensor, "b 1 side side"]) -> Float[Tensor, "b classes h w"]:
        """Logits of nothing and of each class at each place of the map; ``x`` is in [0, 1]."""
        return self.head(self.encoder(x))

    def _predict(self, images: Sequence[media.Image], *, threshold: float) -> list[Detection]:
        """What `predict` calls, with images that are read and options that are checked against the card."""
        return [self._found(image, threshold) for image in images]

    def _found(self, image: media.Image, threshold: float) -> Detection:
        x = torch.tensor(square(image.grey(), self.config.side), device=self.device)[None, None]
        chances = self(x).softmax(1)[0].cpu().numpy()
        down, across = (extent / places for extent, places in zip(image.size, chances.shape[1:], strict=True))
        boxes = []
        places, count = ndimage.label(chances[0] < 0.5)
        for number in range(1, count + 1):
            rows, columns = np.nonzero(places == number)
            of_class = chances[1:, rows, columns].mean(1)
            best = int(of_class.argmax())
            if of_class[best] >= threshold:
                corners = (
                    columns.min() * across,
                    rows.min() * down,
                    (columns.max() + 1) * across,
                    (rows.max() + 1) * down,
                )
                boxes.append(Box(self.plugin.labels[best], float(min(of_class[best], 1)), *map(float, corners)))
        return Detection(image=image, boxes=boxes, labels=self.plugin.labels)
