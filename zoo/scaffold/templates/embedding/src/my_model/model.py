"""The network, and the way from a user's image through it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zoo import Embedding, Model, media

from . import plugin
from .encoder import Encoder, MyModelConfig, square

__all__ = ["MyModel", "MyModelConfig"]


class MyModel(Model[Embedding]):
    """A direction for each image, near that of its class."""

    plugin: ClassVar = plugin
    config_class: ClassVar[type] = MyModelConfig

    def __init__(self, config: MyModelConfig | None = None) -> None:
        super().__init__(config)
        self.encoder = Encoder(self.config)
        self.head = nn.Linear(2 * self.encoder.width, 16)
        self.classes = nn.Parameter(torch.randn(len(self.plugin.labels), 16))

    def forward(self, x: Float[Tensor, "b 1 side side"]) -> Float[Tensor, "b classes"]:
        """Cosines to the direction of each class; ``x`` is in [0, 1]."""
        return self.directions(x) @ F.normalize(self.classes, dim=1).T

    def directions(self, x: Float[Tensor, "b 1 side side"]) -> Float[Tensor, "b 16"]:
        """Vectors of length 1."""
        found = self.encoder(x)
        found = torch.cat([found.mean((2, 3)), found.amax((2, 3))], 1)
        return F.normalize(self.head(found), dim=1)

    def _predict(self, images: Sequence[media.Image]) -> list[Embedding]:
        """What `predict` calls, with images that are read and options that are checked against the card."""
        return [self._embedded(image) for image in images]

    def _embedded(self, image: media.Image) -> Embedding:
        x = torch.tensor(square(image.grey(), self.config.side), device=self.device)[None, None]
        return Embedding(image=image, vector=self.directions(x)[0].cpu().numpy(), space="my-model")
