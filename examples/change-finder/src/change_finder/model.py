"""The network, and the way from a user's image through it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor, nn

from zoo import Detection, MediaError, Model, media
from zoo.figure import Panel
from zoo.kinds import Box

from . import plugin
from .encoder import ChangeFinderConfig, Encoder, square

__all__ = ["ChangeFinder", "ChangeFinderConfig"]


class ChangeFinder(Model[Detection]):
    """A probability of each class at each place; connected places are a box."""

    plugin: ClassVar = plugin
    config_class: ClassVar[type] = ChangeFinderConfig

    def __init__(self, config: ChangeFinderConfig | None = None) -> None:
        super().__init__(config)
        self.encoder = Encoder(self.config)
        self.head = nn.Sequential(
            nn.Conv2d(self.encoder.width, self.encoder.width, 3, padding=1), nn.LeakyReLU(0.1),
            nn.Conv2d(self.encoder.width, 1 + len(self.plugin.labels), 1),
        )  # fmt: skip

    def forward(self, x: Float[Tensor, "b 2 side side"]) -> Float[Tensor, "b classes h w"]:
        """Logits of nothing and of each class at each place of the map; ``x`` is in [0, 1]."""
        return self.head(self.encoder(x))

    def _predict(self, images: Sequence[media.Image], *, prior: media.Image, threshold: float) -> list[Detection]:
        """What `predict` calls, with images that are read and options that are checked against the card."""
        return [self._found(image, prior, threshold) for image in images]

    def _found(self, image: media.Image, prior: media.Image, threshold: float) -> Detection:
        if prior.size != image.size:
            raise MediaError(
                f"prior is {prior.size}, the image of today {image.size}; give one of the same place and size"
            )
        pair = np.stack([square(one.grey(), self.config.side) for one in (image, prior)])
        x = torch.from_numpy(pair).to(self.device)[None]
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
        return Detection(
            image=image, boxes=boxes, labels=self.plugin.labels, extra_panels=[Panel("prior", prior.thumbnail())]
        )
