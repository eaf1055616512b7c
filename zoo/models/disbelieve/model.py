"""The global model of a federation, with poisoned copies beside it that are shown and never decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image as PILImage
from torch import Tensor, nn

from zoo import media
from zoo.errors import MissingExtraError
from zoo.model import Model
from zoo.models.disbelieve import plugin
from zoo.models.disbelieve.attacks import craft_vector
from zoo.models.disbelieve.result import AuditedClassification, Curve

Architecture = Literal["mlp", "lenet", "resnet18", "vgg11", "vgg11-imagenet"]


@dataclass(frozen=True)
class DisbelieveConfig:
    """The classifier that a federation trains, and what an image looks like when it enters."""

    labels: tuple[str, ...] = plugin.labels
    architecture: Architecture = "lenet"
    """``lenet``: two convolutions and three linear layers, for HAM10k (its widths are open in the paper); ``resnet18``
    for CheXpert; ``vgg11`` without batch normalisation at CIFAR's widths for BreakHis and CIFAR-10, ``vgg11-imagenet``
    as torchvision has it; ``mlp``: one hidden layer, for the claim."""
    multi_label: bool = False  # several labels may hold, as on CheXpert: sigmoid instead of softmax
    image_size: int = field(default=128, metadata={"min": 4, "max": 1024})  # px; Sec. 3.1 for HAM10k
    channels: int = field(default=3, metadata={"choices": (1, 3)})
    hidden: int = field(default=32, metadata={"min": 1, "max": 65536})  # of the MLP
    mean: tuple[float, ...] = ()  # of the training images, in [0, 1]; measured by training where left empty
    std: tuple[float, ...] = ()
    curves: tuple[Curve, ...] = ()  # what the audit found, the clean model's own curve first

    def __post_init__(self) -> None:
        if len(set(self.labels)) != len(self.labels) or len(self.labels) < 2:
            raise ValueError("labels must be two or more, each once")
        stated = {len(self.mean), len(self.std)}
        if stated not in ({0}, {self.channels}) or any(value <= 0 for value in self.std):
            raise ValueError("mean and std must have one entry for each channel, std above 0, or none")
        if self.architecture == "lenet" and self.image_size < 16:
            raise ValueError("lenet needs images of at least 16 px")
        if self.architecture.startswith(("vgg11", "resnet18")) and self.image_size < 32:
            raise ValueError(f"{self.architecture} needs images of at least 32 px")


class Disbelieve(Model[AuditedClassification]):
    """Class probabilities of the clean global model; on request those of its poisoned copies beside them."""

    plugin: ClassVar = plugin
    config_class: ClassVar[type] = DisbelieveConfig

    def __init__(self, config: DisbelieveConfig | None = None) -> None:
        super().__init__(config)
        self.network = build_network(self.config)
        self.poisoned = nn.ModuleDict(
            {curve.weights_name: build_network(self.config) for curve in self.config.curves if curve.stored}
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Logits of the clean global model; ``x`` is normalised."""
        return self.network(x)

    # ---- prediction ---------------------------------------------------------------------------------------------

    def _predict(self, images: Sequence[media.Image], *, compare: bool) -> list[AuditedClassification]:
        """Classify by the clean global model; ``compare`` also runs the poisoned copies that the weights have."""
        views = np.stack([prepare(image, self.config) for image in images])
        x = normalise(torch.from_numpy(views).to(self.device), self.config)
        clean = self._probabilities(self.network, x)
        curves = [curve for curve in self.config.curves if curve.stored] if compare else []
        attacked = [self._probabilities(cast(nn.Module, self.poisoned[curve.weights_name]), x) for curve in curves]

        def named(row: np.ndarray) -> dict[str, float]:
            return {label: float(p) for label, p in zip(self.config.labels, row, strict=True)}

        return [
            AuditedClassification(
                notes=(_note(compare, len(curves)),),
                image=image,
                probabilities=named(clean[i]),
                attacked={curve.weights_name: named(found[i]) for curve, found in zip(curves, attacked, strict=True)},
                curves=self.config.curves if compare else (),
            )
            for i, image in enumerate(images)
        ]

    def _probabilities(self, network: nn.Module, x: Float[Tensor, "b c h w"]) -> Float[np.ndarray, "b k"]:
        """Where an attack drove a model to numbers that aren't finite it says nothing: all classes are alike."""
        logits = network(x)
        logits = torch.where(torch.isfinite(logits).all(1, keepdim=True), logits, torch.zeros_like(logits))
        return (logits.sigmoid() if self.config.multi_label else logits.softmax(1)).cpu().numpy()

    # ---- the audit ----------------------------------------------------------------------------------------------

    def simulate(self, dataset: Any, n_clients: int = 10, n_attackers: int = 4, **options: Any) -> Any:
        """Train this model's network anew in a simulated federation: ``zoo.models.disbelieve.training.simulate``.

        ``dataset``: a specification such as ``phantom:skin-lesion?n=200``. Returns the ``Audit`` of that federation.
        """
        # by its name, as the registry finds it: training builds on this module, not this module on training
        training = import_module("zoo.models.disbelieve.training")
        return training.simulate(self.config, dataset, n_clients, n_attackers, **options)

    @staticmethod
    def craft(updates: Any, model: nn.Module, data: Any, mode: Any = "params", **options: Any) -> Any:
        """What the controlled clients of a simulation send; see :func:`zoo.models.disbelieve.attacks.craft_vector`."""
        return craft_vector(updates, model, data, mode, **options)


def _note(compare: bool, copies: int) -> str:
    if not compare:
        return "decided by the clean global model; poisoned copies were left out"
    if not copies:
        return "decided by the clean global model; these weights hold no poisoned copy to compare with"
    return "decided by the clean global model; poisoned copies are shown for comparison only"


# ---- networks ------------------------------------------------------------------------------------------------------


def build_network(config: DisbelieveConfig) -> nn.Module:
    """Randomly initialised. Raises ``MissingExtraError`` where torchvision is needed and not installed."""
    classes, c, size = len(config.labels), config.channels, config.image_size
    if config.architecture == "mlp":
        return nn.Sequential(
            nn.Flatten(), nn.Linear(c * size * size, config.hidden), nn.ReLU(), nn.Linear(config.hidden, classes)
        )
    if config.architecture == "lenet":
        side = ((size - 4) // 2 - 4) // 2
        return nn.Sequential(
            nn.Conv2d(c, 6, 5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(16 * side * side, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, classes),
        )  # fmt: skip
    if config.architecture == "vgg11":
        return _vgg11(c, classes)
    try:
        import torchvision
    except ImportError:
        raise MissingExtraError(f"the architecture {config.architecture}", "torchvision", "sam") from None
    make = torchvision.models.resnet18 if config.architecture == "resnet18" else torchvision.models.vgg11
    network = make(weights=None, num_classes=classes)
    return network if c == 3 else nn.Sequential(_Replicate(), network)


def _vgg11(channels: int, classes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    before = channels
    for width in (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0):
        if width:
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
            before = width
        else:
            layers.append(nn.MaxPool2d(2))
    # from 32 px on one cell is left; larger images are pooled to it
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))


class _Replicate(nn.Module):
    """A grey image as three equal channels."""

    def forward(self, x: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 3 h w"]:
        return x.expand(-1, 3, -1, -1)


# ---- from a picture to the network ---------------------------------------------------------------------------------


def prepare(picture: media.Image, config: DisbelieveConfig) -> UInt8[np.ndarray, "s s c"]:
    """The whole picture, scaled to the network's square."""
    rgb = PILImage.fromarray(np.round(picture.rgb() * 255).astype(np.uint8))
    if config.channels == 1:
        rgb = rgb.convert("L")
    size = (config.image_size, config.image_size)
    return np.asarray(rgb.resize(size, PILImage.Resampling.BILINEAR)).reshape(*size, config.channels)


def normalise(views: UInt8[Tensor, "b s s c"], config: DisbelieveConfig) -> Float[Tensor, "b c s s"]:
    """To [0, 1], then by the mean and standard deviation of the training images (by 0.5 and 0.25 before any)."""
    x = views.permute(0, 3, 1, 2).float() / 255
    mean, std = (x.new_tensor(given or (default,)) for given, default in ((config.mean, 0.5), (config.std, 0.25)))
    return (x - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
