"""The networks (classifier at the server, extractor at the clients) and ``predict``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from zoo import media
from zoo.data.images import normalise, resize, rgb_bytes, to_tensor
from zoo.model import Model
from zoo.models.gdd_fl import plugin
from zoo.models.gdd_fl.result import SyntheticClassification
from zoo.nn.backbones import torchvision_network
from zoo.nn.instance_nets import ConvNet, InstanceResNet, check_size

Architecture = Literal["resnet18", "resnet18-instance", "convnet"]


@dataclass(frozen=True)
class GDDConfig:
    """The server's classifier, what an image looks like when it enters, and what it was trained from."""

    labels: tuple[str, ...] = plugin.labels
    architecture: Architecture = "resnet18"
    """``resnet18``: torchvision's, with batch normalisation; ``resnet18-instance``: as released, with instance
    normalisation and a stem for small images; ``convnet``: the extractor's form, for demos and claims."""
    image_size: int = field(default=224, metadata={"min": 8, "max": 1024})  # px; Sec. 3.2
    width: int = field(default=64, metadata={"min": 1, "max": 4096})  # of the first layers; not of ``resnet18``
    depth: int = field(default=3, metadata={"min": 1, "max": 9})  # of ``convnet``, blocks
    calibration: tuple[float, ...] = field(default=(), metadata={"min": -1e4, "max": 1e4})
    """Slope and offset of the difference of logits, fitted to validation images; () is none: probabilities then only
    rank, for the synthetic classes are balanced and real ones aren't."""
    shown_clients: tuple[int, ...] = field(default=(), metadata={"min": 0, "max": 100_000})
    shown_classes: tuple[int, ...] = field(default=(), metadata={"min": 0, "max": 1000})
    """Of the synthetic images that the weights hold, one for each client and class at most."""

    def __post_init__(self) -> None:
        if len(set(self.labels)) != len(self.labels) or len(self.labels) < 2:
            raise ValueError("labels must be two or more, each once")
        if len(self.calibration) not in (0, 2) or (self.calibration and len(self.labels) != 2):
            raise ValueError("calibration is a slope and an offset, of two classes")
        if len(self.shown_clients) != len(self.shown_classes):
            raise ValueError("shown_clients and shown_classes must have one number for each image")
        check_size(self.architecture, self.image_size, self.depth)


class PlainResNet(nn.Module):
    """torchvision's ResNet-18 with random weights (Sec. 2.3: "a brand-new model from scratch")."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        net: Any = torchvision_network("resnet18", num_classes=classes)
        *body, _, self.head = net.children()
        self.body = nn.Sequential(*body)

    def maps(self, x: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b 512 t t"]:
        return self.body(x)

    def forward(self, x: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b k"]:
        return self.head(self.maps(x).mean((2, 3)))


def build_network(config: GDDConfig) -> Any:
    """The server's classifier with random weights."""
    if config.architecture == "resnet18":
        return PlainResNet(len(config.labels))
    return build_extractor(config.architecture, len(config.labels), config.image_size, config.width, config.depth)


def build_extractor(architecture: str, classes: int, size: int, width: int, depth: int) -> ConvNet | InstanceResNet:
    """A network whose ``features`` can be shifted, with random weights from the global generator."""
    if architecture == "convnet":
        return ConvNet(classes, size, width, depth)
    return InstanceResNet(classes, size, width)


class GDDFL(Model[SyntheticClassification]):
    """Melanoma or benign, by a network that saw the clients' synthetic images only."""

    plugin: ClassVar = plugin
    config_class: ClassVar[type] = GDDConfig

    def __init__(self, config: GDDConfig | None = None) -> None:
        super().__init__(config)
        self.network = build_network(self.config)
        side, count = self.config.image_size, len(self.config.shown_clients)
        self.synthetic: Tensor
        self.register_buffer("synthetic", torch.zeros(count, 3, side, side, dtype=torch.uint8))

    def forward(self, x: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b k"]:
        """Logits; ``x`` is normalised."""
        return self.network(x)

    def _predict(self, images: Sequence[media.Image], *, distilled: bool) -> list[SyntheticClassification]:
        """Squeeze the image to a square and classify it. ``distilled``: also show the synthetic images."""
        logits = self.network(to_network(to_tensor([view(image, self.config) for image in images], self.device)))
        config, probabilities = self.config, self._probabilities(logits.double()).cpu().tolist()
        shown = self.synthetic.cpu().permute(0, 2, 3, 1).numpy() if distilled else np.zeros((0, 1, 1, 3), np.uint8)
        places = list(zip(config.shown_clients, config.shown_classes, strict=True))
        return [
            SyntheticClassification(
                image=image,
                probabilities=dict(zip(config.labels, row, strict=True)),
                calibrated=bool(config.calibration),
                synthetic={place: picture for place, picture in zip(places, shown, strict=False)},
            )
            for image, row in zip(images, probabilities, strict=True)
        ]

    def _probabilities(self, logits: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        if not self.config.calibration:
            return logits.softmax(1)
        slope, offset = self.config.calibration
        p = torch.sigmoid(slope * (logits[:, 1] - logits[:, 0]) + offset)
        return torch.stack([1 - p, p], 1)

    def _network_features(self, images: Sequence[media.Image]) -> Float[Tensor, "n w"]:
        x = to_network(to_tensor([view(image, self.config) for image in images], self.device))
        return self.network.maps(x).mean((2, 3))


def view(picture: media.Image, config: GDDConfig) -> UInt8[np.ndarray, "s s 3"]:
    """What the network sees: the whole image, squeezed to a square (Sec. 3.2)."""
    return resize(rgb_bytes(picture), config.image_size, "bilinear")


def to_network(x: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b 3 s s"]:
    """Normalised by ImageNet's mean and standard deviation, which the paper leaves open."""
    return normalise(x)
