"""The network, and the way from a user's image through it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zoo import Model, Report, media
from zoo.kinds import Token

from . import plugin
from .encoder import Encoder, MyModelConfig, square

__all__ = ["MyModel", "MyModelConfig"]


class MyModel(Model[Report]):
    """A word for each place of the sentence, from what the encoder found."""

    plugin: ClassVar = plugin
    config_class: ClassVar[type] = MyModelConfig

    def __init__(self, config: MyModelConfig | None = None) -> None:
        super().__init__(config)
        self.encoder = Encoder(self.config)
        self.head = nn.Linear(2 * self.encoder.width, sum(map(len, WORDS)))

    def forward(self, x: Float[Tensor, "b 1 side side"]) -> tuple[Float[Tensor, "b words"], ...]:
        """Logits of the words of each place; ``x`` is in [0, 1]."""
        found = self.encoder(x)
        found = torch.cat([found.mean((2, 3)), found.amax((2, 3))], 1)
        return self.head(found).split([len(words) for words in WORDS], 1)

    def _predict(self, images: Sequence[media.Image]) -> list[Report]:
        """What `predict` calls, with images that are read and options that are checked against the card."""
        return [self._told(image) for image in images]

    def _told(self, image: media.Image) -> Report:
        x = torch.tensor(square(image.grey(), self.config.side), device=self.device)[None, None]
        chances = [logits.softmax(1)[0].tolist() for logits in self(x)]
        size, outline = (
            Token(words[chance.index(max(chance))], max(chance)) for words, chance in zip(WORDS, chances, strict=True)
        )
        tokens = [Token("A ", 1.0), size, Token(", ", 1.0), outline, Token(" nodule.", 1.0)]
        findings = {words[1]: chance[1] for words, chance in zip(WORDS, chances, strict=True)}
        text = "".join(token.text for token in tokens)
        return Report(image=image, text=text, tokens=tokens, findings_by_name=findings)


WORDS = (("small", "large"), ("smooth", "spiculated"))
"""What may stand at each place of the sentence."""
