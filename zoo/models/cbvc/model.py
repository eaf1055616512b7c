"""The classifier: similarities of an image to phrases, and one layer of weights over the phrases (Sec. 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo import media
from zoo.errors import OptionError, WeightsError
from zoo.media.doubts import doubts
from zoo.model import Model
from zoo.models.cbvc import plugin
from zoo.models.cbvc.result import ConceptClassification, Influence, Scores
from zoo.nn.clip import Clip, load_clip

SCALE = 100.0  # of the logits: CLIP's own, and LaBo's code; the paper prints none, and without it nothing trains
NONE_YET = "no phrase was chosen yet"


@dataclass(frozen=True)
class CbvcConfig:
    """The concepts, and whose features they are compared with."""

    labels: tuple[str, ...] = plugin.labels
    concepts: tuple[str, ...] = (NONE_YET,)  # C, the phrases
    clip: str = "demo"
    """A Hub id, a folder, or the small CLIP that comes with the zoo. It stays frozen and is no part of the weights."""
    width: int = field(default=64, metadata={"min": 1, "max": 65_536})  # d, of its projected features
    normalised: bool = True  # features have length 1; False as LaBo's code has them
    candidates: int = field(default=1, metadata={"min": 1, "max": 1_000_000})  # phrases that there were to choose from
    shots: int = field(default=0, metadata={"min": 0, "max": 1_000_000})  # labelled images of each class; 0: all
    alpha: float = field(default=1.0, metadata={"min": 0.0, "max": 1e6})  # these three: as they were chosen by
    beta: float = field(default=1.0, metadata={"min": 0.0, "max": 1e6})
    gamma: float = field(default=1.0, metadata={"min": 0.0, "max": 1e6})
    most_frequent: str | None = None  # class of the training images; what a constant answer would say

    def __post_init__(self) -> None:
        if len(set(self.labels)) != len(self.labels) or len(self.labels) < 2:
            raise ValueError("labels must be two or more, each once")
        if len(set(self.concepts)) != len(self.concepts) or not self.concepts:
            raise ValueError("concepts must be one or more, each once")
        if self.most_frequent is not None and self.most_frequent not in self.labels:
            raise ValueError("most_frequent must be one of labels")


class Cbvc(Model[ConceptClassification]):
    """A class from how much an image resembles phrases; W is all that is trained."""

    plugin: ClassVar = plugin
    config_class: ClassVar[type] = CbvcConfig

    embeddings: Tensor  # E_C [m d]
    origin: Tensor  # [y m], whose candidate a concept was
    order: Tensor  # [y m], when a class chose it, from 1; 0: it didn't
    visual: Tensor  # V(c) [m]
    discriminability: Tensor  # D(c) [m]
    candidate_visual: Tensor  # V of all candidates [n]
    candidate_kept: Tensor  # [n]

    def __init__(self, config: CbvcConfig | None = None) -> None:
        super().__init__(config)
        classes, m, n = len(self.config.labels), len(self.config.concepts), self.config.candidates
        self.register_buffer("embeddings", F.normalize(torch.randn(m, self.config.width), dim=1))
        self.register_buffer("origin", torch.zeros(classes, m, dtype=torch.bool))
        self.register_buffer("order", torch.zeros(classes, m, dtype=torch.int32))
        self.register_buffer("visual", torch.zeros(m))
        self.register_buffer("discriminability", torch.zeros(m))
        self.register_buffer("candidate_visual", torch.zeros(n))
        self.register_buffer("candidate_kept", torch.zeros(n, dtype=torch.bool))
        self.weight = nn.Parameter(torch.zeros(classes, m))  # W
        self._clip: Clip | None = None

    @property
    def clip(self) -> Clip:
        """The encoders, loaded when first needed. Raises ``WeightsError`` where they can't be had, or are others."""
        if self._clip is None:
            self._clip = load_clip(self.config.clip, needed_by=plugin.name)
            if self._clip.width != self.config.width:
                raise WeightsError(
                    f"{self.config.clip} has features of {self._clip.width} numbers and the concepts of these weights "
                    f"{self.config.width}; set network.clip to the CLIP that they were chosen with"
                )
        return self._clip.to(self.device)

    @clip.setter
    def clip(self, clip: Clip) -> None:
        self._clip = clip

    @property
    def mixing(self) -> Float[Tensor, "y m"]:
        """sigma(W): softmax over the concepts, of each class by itself."""
        return self.weight.softmax(1)

    def similarity(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b m"]:
        """g of Eq. 5."""
        x = F.normalize(features, dim=1) if self.config.normalised else features
        return x @ self.embeddings.T

    def forward(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b y"]:
        """Logits: ``100 g sigma(W)'``. ``features``: of CLIP's image encoder, projected."""
        return SCALE * self.similarity(features) @ self.mixing.T

    def influence(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b y m"]:
        """P of Eq. 6: ``g * sigma(W_y)``; summed over the concepts it's the class's logit / 100."""
        return self.similarity(features)[:, None] * self.mixing

    # ---- prediction ---------------------------------------------------------------------------------------------

    def _predict(
        self, images: Sequence[media.Image], *, top_k: int, explain_class: str | None
    ) -> list[ConceptClassification]:
        """Classify images and say which phrases speak for the class, and for the runner-up or ``explain_class``.

        Raises ``OptionError`` for a class that the weights don't know.
        """
        labels = self.config.labels
        if explain_class is not None and explain_class not in labels:
            raise OptionError(f"explain_class must be one of {', '.join(labels)}, not {explain_class!r}")
        features = self._network_features(images)
        p = self(features).softmax(1).cpu().numpy()
        influence = self.influence(features).cpu().numpy()
        similarity = self.similarity(features).cpu().numpy()
        return [
            self._explained(image, p[i], influence[i], similarity[i], top_k, explain_class)
            for i, image in enumerate(images)
        ]

    def _explained(
        self,
        image: media.Image,
        p: Float[np.ndarray, " y"],
        influence: Float[np.ndarray, "y m"],
        similarity: Float[np.ndarray, " m"],
        top_k: int,
        explain_class: str | None,
    ) -> ConceptClassification:
        labels = self.config.labels
        ranked = np.argsort(-p, kind="stable").tolist()
        other = ranked[1] if explain_class in (None, labels[ranked[0]]) else labels.index(explain_class)
        above = influence - influence.mean(0)
        rank = self._visual_rank()
        origin = self.origin.cpu().numpy()

        def strongest(label: int) -> tuple[Influence, ...]:
            places = np.argsort(-influence[label], kind="stable")[:top_k].tolist()
            return tuple(
                Influence(
                    concept=self.config.concepts[c],
                    influence=round(float(influence[label, c]), 8),
                    above_mean=round(float(above[label, c]), 8),
                    similarity=round(float(similarity[c]), 6),
                    visual=round(float(self.visual[c]), 8),
                    visual_rank=round(float(rank[c]), 6),
                    origin=tuple(name for name, own in zip(labels, origin[:, c], strict=True) if own),
                )
                for c in places
            )

        ours = set(labels) <= set(plugin.labels)
        return ConceptClassification(
            image=image,
            probabilities={name: float(value) for name, value in zip(labels, p, strict=True)},
            concepts={labels[label]: strongest(label) for label in (ranked[0], other)},
            influence=influence,
            scores=Scores(self.candidate_visual.cpu().numpy(), self.candidate_kept.cpu().numpy()),
            notes=(
                *(doubts(image, "dermoscopic photographs", colour=True) if ours else ()),
                *(["the concepts aren't chosen yet: these weights are not trained"] if not origin.any() else []),
            ),
        )

    def _visual_rank(self) -> Float[np.ndarray, " m"]:
        """Share of the candidates whose V is lower, of every concept."""
        known = np.sort(self.candidate_visual.cpu().numpy())
        return np.searchsorted(known, self.visual.cpu().numpy(), side="left") / max(len(known) - 1, 1)

    def _network_features(self, images: Sequence[media.Image]) -> Float[Tensor, "n d"]:
        return self.clip.images(self.clip.view(image) for image in images)

    def store(
        self,
        embeddings: Float[Tensor, "m d"],
        origin: Bool[Tensor, "y m"],
        order: Int[Tensor, "y m"],
        visual: Float[Tensor, " m"],
        discriminability: Float[Tensor, " m"],
        init: float,
    ) -> None:
        """Take over the chosen concepts; W starts as ``init`` where a concept is a class's own, 0 elsewhere."""
        for name, value in (("embeddings", embeddings), ("origin", origin), ("order", order), ("visual", visual),
                            ("discriminability", discriminability)):  # fmt: skip
            getattr(self, name).copy_(value)
        with torch.no_grad():
            self.weight.copy_(init * (order > 0))
