"""The network that travels (encoder, classifier, projector), the frozen prior that doesn't, and ``predict``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from zoo import media
from zoo.data.images import centre_crop, normalise, resize, rgb_bytes, to_tensor
from zoo.errors import OptionError
from zoo.model import Model
from zoo.models.fed_mas import plugin
from zoo.models.fed_mas.prior import PriorConfig, build_prior, load_prior, prior_distance, small_encoder
from zoo.models.fed_mas.result import LongTailClassification
from zoo.nn.backbones import Backbone, Small, build
from zoo.nn.long_tail import CosineClassifier, frequency_groups


@dataclass(frozen=True)
class FedMASConfig:
    """The global network, what an image looks like when it enters, and what is known of the training data."""

    labels: tuple[str, ...] = plugin.labels
    encoder: Literal["resnet18", "small"] = "resnet18"
    """``resnet18`` from timm (Sec. 3), or ``small``, a few convolutions for the demo weights."""
    small_channels: tuple[int, ...] = field(default=(24, 32, 48, 64), metadata={"min": 1, "max": 4096})
    cosine_classifier: bool = False  # scale times cosine, which the margins of LDAM are made for
    cosine_scale: float = field(default=30.0, metadata={"min": 1e-3, "max": 1e4})
    projector: Literal["plain", "normed"] = "plain"
    """The paper says "MLP": two layers with a ReLU between, or, as released, batch normalisation before it."""
    projector_width: int = field(default=2048, metadata={"min": 1, "max": 8192})  # of ``plain``; ``normed`` has g's
    second_head: bool = False  # as released: a classifier of the projection is trained too, and decides nothing
    prior: PriorConfig = field(default_factory=PriorConfig)
    image_size: int = field(default=224, metadata={"min": 16, "max": 1024})  # px; not in the paper
    squeeze: bool = False  # images become squares whatever their sides, as released; else the middle is cut out
    # training images of each class, all clients together; () is unknown
    class_counts: tuple[int, ...] = field(default=(), metadata={"min": 0, "max": 100_000_000})
    head_above: int = field(default=700, metadata={"min": 0, "max": 100_000_000})  # Sec. 3: head has more of them
    tail_below: int = field(default=70, metadata={"min": 0, "max": 100_000_000})  # Sec. 3: tail has fewer

    def __post_init__(self) -> None:
        if len(set(self.labels)) != len(self.labels) or len(self.labels) < 2:
            raise ValueError("labels must be two or more, each once")
        if self.class_counts and len(self.class_counts) != len(self.labels):
            raise ValueError("class_counts must have one number for each label")
        if self.tail_below > self.head_above:
            raise ValueError("tail_below must not exceed head_above")

    @property
    def groups(self) -> dict[str, str]:
        """``head``, ``medium`` or ``tail`` for each label; empty if the counts aren't known."""
        if not self.class_counts:
            return {}
        masks = frequency_groups(self.class_counts, self.head_above, self.tail_below)
        return {
            label: next(name for name, mask in zip(("head", "medium", "tail"), masks, strict=True) if mask[k])
            for k, label in enumerate(self.labels)
        }


class Seen(NamedTuple):
    """What the network makes of a batch."""

    logits: Float[Tensor, "b k"]
    z: Float[Tensor, "b w"]  # g(x), the pooled features
    y: Float[Tensor, "b d"]  # MLP(g(x)), not yet of unit length; empty without a projector
    second: Float[Tensor, "b k"] | None = None  # logits of the second head, in training


class Network(nn.Module):
    """theta: encoder g, classifier and projector, all of it trained, sent and averaged.

    ``projector`` is there only where a prior is. ``balanced`` is CReFF's second classifier: the server trains it, and
    it decides once training is over. ``second`` classifies the projection.
    """

    def __init__(
        self, encoder: nn.Module, classifier: nn.Linear, projector: nn.Module | None, balanced: nn.Linear | None = None,
        second: nn.Linear | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.encoder, self.classifier, self.projector, self.balanced = encoder, classifier, projector, balanced
        self.second = second

    def forward(self, x: Float[Tensor, "b ..."]) -> Seen:
        z = self.encoder(x)
        decide = self.classifier if self.balanced is None or self.training else self.balanced
        y = z[:, :0] if self.projector is None else self.projector(z)
        return Seen(decide(z), z, y, None if self.second is None or not self.training else self.second(y))


def build_network(config: FedMASConfig, *, pretrained: bool = False, balanced: bool = False) -> Network:
    """theta with random weights, or with ImageNet's in the encoder (``resnet18`` only).

    ``balanced``: with CReFF's second classifier, which starts as the first.
    """
    if config.encoder == "small":
        encoder: Small | Backbone = small_encoder(config.small_channels)
    else:
        encoder = build("resnet18.tv_in1k", needed_by=plugin.name, pretrained=pretrained, num_classes=0)
    width, classes = encoder.width, len(config.labels)
    classifier = (
        CosineClassifier(width, classes, config.cosine_scale) if config.cosine_classifier else nn.Linear(width, classes)
    )
    projector = head = None
    if config.prior.kind != "none":
        normed = config.projector == "normed"
        projector = projection(width, width if normed else config.projector_width, config.prior.width, normed)
        head = nn.Linear(config.prior.width, classes) if config.second_head else None
    second = nn.Linear(width, classes) if balanced else None
    if second is not None:
        second.load_state_dict(classifier.state_dict())
    return Network(encoder, classifier, projector, second, head)


def projection(width: int, hidden: int, out: int, normed: bool) -> nn.Sequential:
    """MLP_theta, from features to the prior's space."""
    norm = [nn.BatchNorm1d(hidden)] if normed else []
    return nn.Sequential(nn.Linear(width, hidden), *norm, nn.ReLU(), nn.Linear(hidden, out))


class FedMAS(Model[LongTailClassification]):
    """Class probabilities of the aggregated global network; the prior only serves ``ssl_distance``."""

    plugin: ClassVar = plugin
    config_class: ClassVar[type] = FedMASConfig

    def __init__(self, config: FedMASConfig | None = None) -> None:
        super().__init__(config)
        self.network = build_network(self.config)
        # A small prior travels with the weights; a public one is large, has its own licence, and is given by path.
        self.prior = build_prior(self.config.prior).requires_grad_(False) if self.config.prior.kind == "small" else None
        self._prior_from: tuple[str, nn.Module] | None = None

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Seen:
        return self.network(x)

    def _predict(
        self, images: Sequence[media.Image], *, ssl_distance: bool, saliency: bool, prior: str | Path | None
    ) -> list[LongTailClassification]:
        """Classify photographs: the short side is scaled, and the largest centred square is what the network sees.

        ``ssl_distance``: how far its view of an image is from the frozen prior's, 0 (alike) to 4. ``saliency``: where
        the evidence for the predicted class lies (Grad-CAM of the last feature map). Raises ``OptionError`` where the
        distance is asked for and the prior isn't at hand.
        """
        views = [view(image, self.config) for image in images]
        x = to_network(to_tensor(views, self.device))
        seen = self.network(x)
        probabilities = seen.logits.softmax(1).tolist()
        distances = prior_distance(seen.y, self._frozen(prior)(x)).tolist() if ssl_distance else None
        maps = self._cam(x, seen.logits.argmax(1)).cpu().numpy() if saliency else None
        return [
            LongTailClassification(
                measurements={} if distances is None else {"ssl_distance": distances[i]},
                image=image,
                probabilities=dict(zip(self.config.labels, probabilities[i], strict=True)),
                groups=self.config.groups,
                view=views[i],
                saliency=None if maps is None else maps[i],
            )
            for i, image in enumerate(images)
        ]

    def _network_features(self, images: Sequence[media.Image]) -> Float[Tensor, "n w"]:
        views = [view(image, self.config) for image in images]
        return self.network(to_network(to_tensor(views, self.device))).z

    def _cam(self, x: Float[Tensor, "b 3 h w"], chosen: Tensor) -> Float[Tensor, "b h2 w2"]:
        """Grad-CAM in [0, 1]: with a linear head on pooled features the gradients are the head's own weights."""
        features = self.network.encoder.features(x)  # type: ignore[operator]
        weight = self.network.classifier.weight[chosen]  # type: ignore[index]
        cam = torch.einsum("bc,bchw->bhw", weight, features).relu()
        return cam / cam.amax((1, 2), keepdim=True).clamp(min=1e-12)

    def _frozen(self, prior: Any) -> nn.Module:
        if self.prior is not None:
            return self.prior
        if self.config.prior.kind == "none":
            raise OptionError("these weights were trained without a prior, so there is no ssl_distance; leave it out")
        if prior is None:
            raise OptionError(
                f"ssl_distance needs the prior ({self.config.prior.kind}) that these weights were trained with; "
                "give its file or folder as prior=PATH"
            )
        if self._prior_from is None or self._prior_from[0] != str(prior):
            self._prior_from = (str(prior), load_prior(replace(self.config.prior, path=str(prior))).to(self.device))
        return self._prior_from[1]


def view(picture: media.Image, config: FedMASConfig) -> UInt8[np.ndarray, "s s 3"]:
    """What the network sees: the largest centred square after the short side became 256/224 of it, or all of it."""
    pixels, size = rgb_bytes(picture), config.image_size
    return resize(pixels, size, "bilinear") if config.squeeze else centre_crop(pixels, size)


def to_network(views: UInt8[Tensor, "b 3 s s"] | Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b 3 s s"]:
    """Normalised by ImageNet's mean and standard deviation; bytes count in 255ths."""
    return normalise(views.float() / 255 if views.dtype == torch.uint8 else views)
