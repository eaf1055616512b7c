"""The networks (classifier at the server, extractor at the clients) and ``predict``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from zoo import media
from zoo.data.images import normalise, resize, rgb_bytes, to_tensor
from zoo.model import Model
from zoo.models.gdd_fl import plugin
from zoo.models.gdd_fl.result import SyntheticClassification
from zoo.nn.backbones import torchvision_network

Architecture = Literal["resnet18", "resnet18-instance", "convnet"]
Shift = Callable[[Tensor], Tensor]
POOL = 4  # of the small-image ResNet, px


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


def check_size(architecture: str, size: int, depth: int) -> None:
    """Raises ``ValueError`` for images that are too small for a network."""
    if architecture == "convnet" and size < 2**depth:
        raise ValueError(f"a ConvNet of {depth} blocks needs images of at least {2**depth} px, not {size}")
    if architecture == "resnet18-instance" and size < 8 * POOL:
        raise ValueError(f"resnet18-instance needs images of at least {8 * POOL} px, not {size}")


def unchanged(x: Tensor) -> Tensor:
    return x


class ConvNet(nn.Module):
    """Blocks of 3 x 3 convolution, instance normalisation, ReLU and average pooling; a linear head ([5], Sec. 3.2)."""

    def __init__(self, classes: int, size: int, width: int = 128, depth: int = 3) -> None:
        super().__init__()
        ins = (3, *[width] * (depth - 1))
        self.convolutions = nn.ModuleList(nn.Conv2d(i, width, 3, padding=1) for i in ins)
        self.norms = nn.ModuleList(nn.GroupNorm(width, width) for _ in ins)
        self.head = nn.Linear(width * (size >> depth) ** 2, classes)

    def maps(
        self, x: Float[Tensor, "b 3 s s"], shift: Shift = unchanged, late: Shift = unchanged
    ) -> Float[Tensor, "b w t t"]:
        """``shift`` acts after every convolution, before its norm; ``late`` after every block."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = late(F.avg_pool2d(F.relu(norm(shift(convolution(x)))), 2))
        return x

    def features(
        self, x: Float[Tensor, "b 3 s s"], shift: Shift = unchanged, late: Shift = unchanged
    ) -> Float[Tensor, "b d"]:
        return self.maps(x, shift, late).flatten(1)

    def forward(self, x: Float[Tensor, "b 3 s s"], shift: Shift = unchanged) -> Float[Tensor, "b k"]:
        return self.head(self.features(x, shift))


class _Block(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.GroupNorm(after, after), nn.GroupNorm(after, after)
        projects = stride != 1 or before != after
        self.project = nn.Conv2d(before, after, 1, stride, bias=False) if projects else None
        self.norm = nn.GroupNorm(after, after) if projects else None

    def forward(self, x: Tensor, shift: Shift) -> Tensor:
        y = F.relu(self.norm1(shift(self.conv1(x))))
        y = self.norm2(shift(self.conv2(y)))
        if self.project is not None and self.norm is not None:
            x = self.norm(shift(self.project(x)))
        return F.relu(y + x)


class InstanceResNet(nn.Module):
    """ResNet-18 for small images with a norm of one channel per group, as released; ``width`` 64 there."""

    def __init__(self, classes: int, size: int, width: int = 64) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.GroupNorm(width, width)
        blocks, before = [], width
        for stage in range(4):
            for place in range(2):
                after = width << stage
                blocks.append(_Block(before, after, 2 if stage and not place else 1))
                before = after
        self.blocks = nn.ModuleList(blocks)
        side = size
        for _ in range(3):
            side = (side + 1) // 2
        self.head = nn.Linear(before * (side // POOL) ** 2, classes)

    def maps(
        self, x: Float[Tensor, "b 3 s s"], shift: Shift = unchanged, late: Shift = unchanged
    ) -> Float[Tensor, "b w t t"]:
        """``shift`` acts after every convolution, before its norm, in 20 places; ``late`` after every block."""
        x = F.relu(self.norm(shift(self.stem(x))))
        for block in self.blocks:
            x = late(block(x, shift))
        return F.avg_pool2d(x, POOL)

    def features(
        self, x: Float[Tensor, "b 3 s s"], shift: Shift = unchanged, late: Shift = unchanged
    ) -> Float[Tensor, "b d"]:
        return self.maps(x, shift, late).flatten(1)

    def forward(self, x: Float[Tensor, "b 3 s s"], shift: Shift = unchanged) -> Float[Tensor, "b k"]:
        return self.head(self.features(x, shift))


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
