"""The classifier: ResNet-9 without batch statistics, and predictions with the privacy statement of the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image as PILImage
from torch import Tensor, nn

from zoo import figure, media
from zoo.model import Model
from zoo.models.grad_align import plugin
from zoo.prediction import Classification

Filter = Literal["none", "cs", "magnitude", "std", "cov", "random"]


@dataclass(frozen=True)
class Privacy:
    """What the training of these weights guarantees for each image it used."""

    accounting: Literal["untrained", "nonprivate", "paper", "strict"] = "untrained"
    epsilon: float = field(default=math.inf, metadata={"min": 0.0})  # at the end of the training
    delta: float = field(default=0.0, metadata={"min": 0.0, "max": 1.0})
    filter: Filter = "none"
    sigma: float = 0.0  # noise multiplier of the gradients
    tau: float | None = None  # noise multiplier of the similarities; none: they were not private, or not used
    cs_clip: float | None = None  # lambda
    threshold: float | None = None  # psi
    sample_rate: float = 0.0  # of the Poisson sampling
    steps: int = 0
    batch_cap: int | None = None

    @property
    def guaranteed(self) -> bool:
        """Whether there is an epsilon to state."""
        return self.accounting in ("paper", "strict") and math.isfinite(self.epsilon)

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """What each step released."""
        if self.accounting == "untrained":
            return ()
        gradient = f"Gaussian on the sum of clipped gradients, noise multiplier {self.sigma:g}"
        if self.filter == "none":
            return (gradient,)
        if self.tau is None:
            return (gradient, "selection of samples without noise")
        cap = f", batches of at most {self.batch_cap}" if self.batch_cap else ""
        return (gradient, f"Gaussian on the clipped cosine similarities, noise multiplier {self.tau:g}{cap}")

    def sentence(self) -> str:
        """The statement in words; an epsilon appears only where there is one."""
        if self.accounting == "untrained":
            return "untrained weights: there is nothing to protect"
        if not self.guaranteed:
            why = "the samples were selected without noise" if self.filter != "none" else "trained without accounting"
            return f"no privacy guarantee: {why}, so no epsilon is stated"
        told = f"({self.epsilon:.2f}, {self.delta:g})-differentially private"
        if self.accounting == "paper" and self.filter != "none":
            return f"{told} only by the paper's accounting, whose sensitivity argument is not proven"
        return f"{told} for each training image, if the seed stays secret"

    def to_dict(self) -> dict[str, Any]:
        """Plain data; ``epsilon`` is ``None`` where nothing is guaranteed."""
        return {
            "epsilon": round(self.epsilon, 6) if self.guaranteed else None,
            "delta": self.delta if self.guaranteed else None,
            "accounting": self.accounting,
            "mechanisms": list(self.mechanisms),
            "filter": self.filter,
            "sigma": self.sigma,
            "tau": self.tau,
            "lambda": self.cs_clip,
            "psi": self.threshold,
            "sample_rate": self.sample_rate,
            "steps": self.steps,
            "statement": self.sentence(),
        }


@dataclass(frozen=True)
class GradAlignConfig:
    """The network, and the ledger of its training."""

    channels: tuple[int, int, int] = (64, 128, 256)  # Sec. 4.1
    groups: int = field(default=32, metadata={"min": 1})  # at most, of the group norms; not in the paper
    side: int = field(default=224, metadata={"min": 16, "max": 1024})
    """Images are scaled to squares of this side, px. The paper leaves it open for radiographs."""
    privacy: Privacy = field(default_factory=Privacy)

    def __post_init__(self) -> None:
        if min(self.channels) < 1:
            raise ValueError("channels must be at least 1 each")


@dataclass(kw_only=True)
class PrivateClassification(Classification):
    """Class probabilities, and what the training of the weights guarantees."""

    privacy: Privacy

    def summary(self) -> str:
        return f"{super().summary()}; {self.privacy.sentence()}"

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "privacy": self.privacy.to_dict()}

    def panels(self) -> list[figure.Panel]:
        return [*super().panels(), figure.Panel("privacy of the weights", badge(self.privacy))]


class GradAlign(Model[PrivateClassification]):
    """ResNet-9 on a grey chest radiograph of a child: normal, bacterial or viral pneumonia."""

    plugin: ClassVar = plugin
    config_class: ClassVar[type] = GradAlignConfig

    def __init__(self, config: GradAlignConfig | None = None) -> None:
        super().__init__(config)
        self.network = ResNet9(1, len(plugin.labels), self.config.channels, self.config.groups)

    def forward(self, x: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b classes"]:
        """Logits; ``x`` as ``prepare`` gives it."""
        return self.network(x)

    def _predict(self, images: Sequence[media.Image]) -> list[PrivateClassification]:
        """Classify radiographs; all go through the network together."""
        x = torch.from_numpy(np.stack([prepare(image, self.config.side) for image in images]))
        probabilities = self(x.to(self.device)).float().softmax(1).cpu().tolist()
        return [
            PrivateClassification(
                image=image,
                probabilities=dict(zip(plugin.labels, p, strict=True)),
                privacy=self.config.privacy,
            )
            for image, p in zip(images, probabilities, strict=True)
        ]


def prepare(picture: media.Image, side: int) -> Float[np.ndarray, "1 side side"]:
    """Grey, square, of mean 0 and deviation 1. Each image by itself: statistics of a training set would leak it."""
    small = PILImage.fromarray(picture.grey()).resize((side, side), PILImage.Resampling.BILINEAR)
    x = np.asarray(small, np.float32)
    return ((x - x.mean()) / max(float(x.std()), 1e-3))[None]


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


def badge(privacy: Privacy) -> PILImage.Image:
    """The privacy statement as a picture: green with an epsilon, orange without a guarantee."""
    proven = privacy.guaranteed and (privacy.accounting == "strict" or privacy.filter == "none")
    headline = f"epsilon {privacy.epsilon:.2f}" if privacy.guaranteed else "no guarantee"
    under = f"delta {privacy.delta:g}" if privacy.guaranteed else "no epsilon is stated"
    if privacy.guaranteed and not proven:
        under += ", not proven"
    names = {"none": "none (plain DP-SGD)", "cs": "cosine similarity", "random": "random share"}
    facts = {
        "accounting": privacy.accounting,
        "filter": names.get(privacy.filter, f"cosine similarity, {privacy.filter}"),
        "noise on gradients": f"sigma {privacy.sigma:g}",
        "noise on similarities": "none" if privacy.tau is None else f"tau {privacy.tau:g}",
        "threshold": "none" if privacy.threshold is None else f"psi {privacy.threshold:g}",
        "sampling rate": f"{privacy.sample_rate:.4f}",
        "steps": f"{privacy.steps}",
    }
    if privacy.accounting == "untrained":
        headline, under, facts = "untrained", "nothing to protect", {}
    fill, ink = (figure.colour(3), (255, 255, 255)) if proven else (figure.colour(1), (0, 0, 0))
    return figure.statement(headline, under, facts, fill=fill, ink=ink)
