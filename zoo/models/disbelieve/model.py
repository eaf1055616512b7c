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
from zoo.data.images import normalise, resize, rgb_bytes, to_tensor
from zoo.errors import OptionError
from zoo.model import Model
from zoo.models.disbelieve import plugin
from zoo.models.disbelieve.attacks import AttackSettings, craft
from zoo.models.disbelieve.result import AuditedClassification, Curve
from zoo.nn import classic
from zoo.nn.backbones import torchvision_network

Architecture = Literal["mlp", "lenet", "resnet18", "vgg11", "vgg11-released", "vgg11-imagenet"]


@dataclass(frozen=True)
class DisbelieveConfig:
    """The classifier that a federation trains, and what an image looks like when it enters."""

    labels: tuple[str, ...] = plugin.labels
    architecture: Architecture = "lenet"
    """``lenet``: two convolutions and three linear layers, for HAM10k (its widths are open in the paper); ``resnet18``
    for CheXpert; ``vgg11`` without batch normalisation at CIFAR's widths for BreakHis and CIFAR-10, ``vgg11-released``
    with three linear layers and dropout, ``vgg11-imagenet`` as torchvision has it; ``mlp``: one hidden layer."""
    multi_label: bool = False  # several labels may hold, as on CheXpert: sigmoid instead of softmax
    image_size: int = field(default=128, metadata={"min": 4, "max": 1024})  # px; Sec. 4.1 for HAM10k
    channels: int = field(default=3, metadata={"choices": (1, 3)})
    hidden: int = field(default=32, metadata={"min": 1, "max": 65536})  # of the MLP
    mean: tuple[float, ...] = field(default=(), metadata={"min": 0.0, "max": 1.0})  # of the training images, if known
    std: tuple[float, ...] = field(default=(), metadata={"min": 0.0, "max": 1.0})
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

    def _predict(self, images: Sequence[media.Image], *, compare: bool) -> list[AuditedClassification]:
        """Classify by the clean global model; ``compare`` also runs the poisoned copies that the weights have."""
        x = to_network(to_tensor([view(image, self.config) for image in images], self.device), self.config)
        clean = self._probabilities(self.network, x)
        curves = [curve for curve in self.config.curves if curve.stored] if compare else []
        attacked = [self._probabilities(cast(nn.Module, self.poisoned[curve.weights_name]), x) for curve in curves]

        aside = "poisoned copies are shown for comparison only" if curves else "poisoned copies were left out"
        aside = "these weights hold no poisoned copy to compare with" if compare and not curves else aside

        def named(row: np.ndarray) -> dict[str, float]:
            return dict(zip(self.config.labels, row.tolist(), strict=True))

        return [
            AuditedClassification(
                notes=(f"decided by the clean global model; {aside}",),
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

    def simulate(self, dataset: Any, n_clients: int = 10, n_attackers: int = 4, **options: Any) -> Any:
        """The ``Audit`` of a simulated federation that trains this model's network anew.

        ``dataset``: a specification such as ``phantom:skin-lesion?n=200``. ``options``: ``attack``, ``aggregator``,
        ``share``, ``rounds`` and further fields of the recipe; ``seed``, ``device``, ``progress``.
        """
        # by its name, as the registry finds it: training builds on this module, not this module on training
        training = import_module("zoo.models.disbelieve.training")
        return training.simulate(self.config, dataset, n_clients, n_attackers, **options)

    @staticmethod
    def craft(
        updates: Any, model: nn.Module, data: Any, mode: Any = "params", *, clients: int | None = None,
        attack: Any = "disbelieve", seed: int = 0, **settings: Any,
    ) -> Float[Tensor, " d"]:  # fmt: skip
        """What the controlled clients of a user's own simulation send, see :func:`zoo.models.disbelieve.attacks.craft`.

        ``updates``: what they would honestly send, one flat row each in the order of ``model.parameters()``.
        ``clients``: of the whole federation, by default the fewest that make f a minority. ``settings``: of
        :class:`AttackSettings`.
        """
        known = [name for name in AttackSettings.__dataclass_fields__ if name != "attack"]
        if wrong := [name for name in settings if name not in known]:
            raise OptionError(f"craft has no option {wrong[0]!r}; it has {', '.join(known)}")
        crafted = craft(
            torch.as_tensor(updates).double(), model, data, mode, clients=clients or 2 * len(updates) + 1,
            settings=AttackSettings(attack, **settings), rng=np.random.default_rng(seed),
        )  # fmt: skip
        return crafted.vector.to(updates.dtype)


def build_network(config: DisbelieveConfig) -> nn.Module:
    """Randomly initialised. Raises ``MissingExtraError`` where torchvision is needed and not installed."""
    classes, c, size = len(config.labels), config.channels, config.image_size
    if config.architecture == "mlp":
        return classic.mlp(c * size * size, config.hidden, classes)
    if config.architecture == "lenet":
        return classic.lenet(c, size, classes)
    if config.architecture in ("vgg11", "vgg11-released"):
        return classic.vgg11(c, classes, deep_head=config.architecture == "vgg11-released")
    network = torchvision_network(config.architecture.removesuffix("-imagenet"), num_classes=classes)
    return network if c == 3 else nn.Sequential(classic.GreyAsColour(), network)


def view(picture: media.Image, config: DisbelieveConfig) -> UInt8[np.ndarray, "s s c"]:
    """The whole picture, scaled to the network's square."""
    pixels = rgb_bytes(picture)
    if config.channels == 1:
        pixels = np.asarray(PILImage.fromarray(pixels).convert("L"))
    size = (config.image_size, config.image_size)
    return resize(pixels, size, "bilinear").reshape(*size, config.channels)


def to_network(x: Float[Tensor, "b c s s"], config: DisbelieveConfig) -> Float[Tensor, "b c s s"]:
    """By the mean and standard deviation of the training images (by 0.5 and 0.25 before any)."""
    return normalise(x, config.mean or (0.5,), config.std or (0.25,))
