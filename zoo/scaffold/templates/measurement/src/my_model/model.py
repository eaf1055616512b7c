"""The network, and the way from a user's image through it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zoo import Measurement, Model, media
from zoo.kinds import Quantity

from . import plugin
from .encoder import Encoder, MyModelConfig, square

__all__ = ["MyModel", "MyModelConfig"]


class MyModel(Model[Measurement]):
    """A mean and a spread from what the encoder found."""

    plugin: ClassVar = plugin
    config_class: ClassVar[type] = MyModelConfig

    def __init__(self, config: MyModelConfig | None = None) -> None:
        super().__init__(config)
        self.encoder = Encoder(self.config)
        self.head = nn.Linear(2 * self.encoder.width, 2)

    def forward(self, x: Float[Tensor, "b 1 side side"]) -> Float[Tensor, "b 2"]:
        """Diameter as a share of the side, and the logarithm of its standard deviation; ``x`` is in [0, 1]."""
        found = self.encoder(x)
        found = torch.cat([found.mean((2, 3)), found.amax((2, 3))], 1)
        return self.head(found) + torch.tensor([0.35, -2.0], device=x.device)

    def _predict(self, images: Sequence[media.Image]) -> list[Measurement]:
        """What `predict` calls, with images that are read and options that are checked against the card."""
        return [self._measured(image) for image in images]

    def _measured(self, image: media.Image) -> Measurement:
        x = torch.tensor(square(image.grey(), self.config.side), device=self.device)[None, None]
        share, spread = self(x)[0].tolist()
        scale = sum(image.size) / 2  # px of the image
        half = 1.96 * 2.718281828 ** min(spread, 3.0) * scale
        diameter = share * scale
        return Measurement(
            image=image, values={"diameter": Quantity(diameter, "px", (diameter - half, diameter + half))}
        )
