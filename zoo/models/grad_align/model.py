"""The classifier: ResNet-9 without batch statistics (Sec. 4.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from zoo import media
from zoo.data.images import resize
from zoo.media.doubts import doubts
from zoo.model import Model
from zoo.models.grad_align import plugin
from zoo.models.grad_align.result import Privacy, PrivateClassification


@dataclass(frozen=True)
class GradAlignConfig:
    """The network, and the ledger of its training."""

    labels: tuple[str, ...] = plugin.labels
    colour: bool = False  # three channels, as for CIFAR-10; else one, of grey values
    channels: tuple[int, int, int] = field(default=(64, 128, 256), metadata={"min": 1, "max": 4096})  # Sec. 4.1
    groups: int = field(default=32, metadata={"min": 1, "max": 4096})  # at most, of the group norms; not in the paper
    side: int = field(default=224, metadata={"min": 16, "max": 1024})
    """Images are scaled to squares of this side, px. The paper leaves it open for radiographs."""
    privacy: Privacy = field(default_factory=Privacy)

    def __post_init__(self) -> None:
        if len(set(self.labels)) != len(self.labels) or len(self.labels) < 2:
            raise ValueError("labels must be two or more, each once")
        if min(self.channels) < 1:
            raise ValueError("channels must be at least 1 each")


class ResNet9(nn.Module):
    """ResNet-9 with Mish, group norm after the activation, and scale norm after each residual (Sec. 4.1).

    Places of the pools and the number of groups are not in the paper; here as in Klause et al. 2022, whom it follows.
    The last pool leaves 2 x 2 positions whatever the size of the input, so that 256 channels make 1024 features.
    """

    def __init__(
        self, in_channels: int, classes: int, channels: tuple[int, int, int] = (64, 128, 256), groups: int = 32
    ) -> None:
        super().__init__()
        a, b, c = channels
        self.stem = nn.Sequential(conv_block(in_channels, a, groups), conv_block(a, b, groups), nn.MaxPool2d(2))
        self.residual1 = Residual(b, groups)
        self.middle = nn.Sequential(
            conv_block(b, c, groups), nn.MaxPool2d(2), conv_block(c, c, groups), nn.MaxPool2d(2)
        )
        self.residual2 = Residual(c, groups)
        self.head = nn.Sequential(nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(4 * c, classes))

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b classes"]:
        x = self.residual1(self.stem(x))
        return self.head(self.residual2(self.middle(x)))


class Residual(nn.Module):
    """Two convolution blocks around a shortcut, then scale norm."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(conv_block(channels, channels, groups), conv_block(channels, channels, groups))
        self.scale_norm = group_norm(channels, groups)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return self.scale_norm(x + self.blocks(x))


def conv_block(in_channels: int, out_channels: int, groups: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1)
    return nn.Sequential(convolution, nn.Mish(), group_norm(out_channels, groups))


def group_norm(channels: int, groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(groups, channels), channels)


class GradAlign(Model[PrivateClassification]):
    """ResNet-9 on a chest radiograph of a child: normal, bacterial or viral pneumonia; or on classes of your own."""

    plugin: ClassVar = plugin
    config_class: ClassVar[type] = GradAlignConfig

    def __init__(self, config: GradAlignConfig | None = None) -> None:
        super().__init__(config)
        self.network = ResNet9(
            3 if self.config.colour else 1, len(self.config.labels), self.config.channels, self.config.groups
        )

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b classes"]:
        """Logits; ``x`` as ``prepare`` gives it."""
        return self.network(x)

    def _predict(self, images: Sequence[media.Image]) -> list[PrivateClassification]:
        """Classify images; all go through the network together."""
        own = self.config.colour or self.config.labels != plugin.labels  # trained on something else than the card says
        probabilities = self(self._prepared(images)).float().softmax(1).cpu().tolist()
        return [
            PrivateClassification(
                image=image,
                probabilities=dict(zip(self.config.labels, p, strict=True)),
                privacy=self.config.privacy,
                notes=() if own else doubts(image, "frontal chest radiographs of children", colour=False),
            )
            for image, p in zip(images, probabilities, strict=True)
        ]

    def _prepared(self, images: Sequence[media.Image]) -> Float[Tensor, "n i s s"]:
        views = [prepare(image, self.config.side, self.config.colour) for image in images]
        return torch.from_numpy(np.stack(views)).to(self.device)

    def _network_features(self, images: Sequence[media.Image]) -> Float[Tensor, "n f"]:
        network = self.network
        x = network.residual2(network.middle(network.residual1(network.stem(self._prepared(images)))))
        return network.head[:-1](x)


def prepare(picture: media.Image, side: int, colour: bool = False) -> Float[np.ndarray, "i side side"]:
    """Square, of mean 0 and deviation 1. Each image by itself: statistics of a training set would leak it."""
    x = resize(picture.rgb() if colour else picture.grey(), side, "bilinear")
    x = (x - x.mean()) / max(float(x.std()), 1e-3)
    return x.transpose(2, 0, 1) if colour else x[None]
