"""Which phrases become concepts: discriminability, coverage and the visual activation score (Sec. 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

LEAST = 1e-6  # similarities are cut here before they become shares
MI_SCALE = 1e7  # of LaBo's discriminability, as released


class Spread:
    """Mean and covariance of image features, added up batch by batch in double precision.

    The deviation of a phrase's similarities needs no more of the images than this, whatever their number.
    """

    def __init__(self, width: int) -> None:
        self.count = 0
        self.total = torch.zeros(width, dtype=torch.float64)
        self.products = torch.zeros(width, width, dtype=torch.float64)

    def update(self, features: Float[Tensor, "n d"]) -> Spread:
        x = features.detach().cpu().double()
        self.count += len(x)
        self.total += x.sum(0)
        self.products += x.T @ x
        return self

    def covariance(self) -> Float[Tensor, "d d"]:
        """Of the population. Raises ``ValueError`` for fewer than two images."""
        if self.count < 2:
            raise ValueError(f"{self.count} images have no deviation")
        mean = self.total / self.count
        return self.products / self.count - torch.outer(mean, mean)


def visual_activation(texts: Float[Tensor, "m d"], spread: Spread) -> Float[Tensor, " m"]:
    """V(c) of Eq. 7, the standard deviation over the images of ``T(c) . I(x)``: ``V^2 = T covariance T'``."""
    t = texts.detach().cpu().double()
    return ((t @ spread.covariance()) * t).sum(1).clamp(min=0).sqrt()


def class_means(features: Float[Tensor, "n d"], y: Int[Tensor, " n"], classes: int) -> Float[Tensor, "p d"]:
    """Mean feature of every class that has an image, in double precision: mean similarities follow from it (Eq. 3)."""
    x = features.detach().cpu().double()
    return torch.stack([x[y == label].mean(0) for label in range(classes) if bool((y == label).any())])


def discriminability(texts: Float[Tensor, "m d"], means: Float[Tensor, "p d"]) -> Float[Tensor, " m"]:
    """D(c) of Eq. 4: ``sum_y p log p`` with ``p(y|c) = sim(y, c) / sum_y' sim(y', c)`` (Eq. 3); 0 or less.

    The share is a plain ratio, as printed. Similarities below 1e-6 count as that.
    """
    similarity = (texts.detach().cpu().double() @ means.T).clamp(min=LEAST)
    p = similarity / similarity.sum(1, keepdim=True)
    return (p * p.log()).sum(1)


def mutual_information(texts: Float[Tensor, "m d"], means: Float[Tensor, "p d"]) -> Float[Tensor, " m"]:
    """LaBo's discriminability as its authors released it: a phrase's term of the mutual information with the class.

    ``q(c, y) = sim(c, y) / (Y sum_c' sim(c', y))``, normalised over all phrases within each class; with ``m = sum_y q``
    the term is ``sum_y q log(q / (m / Y))``, which is ``m (log Y - entropy of y given c)``.
    """
    similarity = (texts.detach().cpu().double() @ means.T).clamp(min=LEAST)
    q = similarity / similarity.sum(0, keepdim=True) / len(means)
    m = q.sum(1, keepdim=True)
    return (q * (q / (m / len(means))).log()).sum(1)


def greedy(phi: Float[Tensor, "n n"], modular: Float[Tensor, " n"], beta: float, k: int) -> list[int]:
    """``k`` of n places, in the order in which they raise ``sum modular + beta sum_c1 max_c2 phi(c1, c2)`` most.

    The second term is the facility location of the n phrases by those chosen. A constant added to ``modular`` changes
    nothing for a fixed k, so negative values do no harm. Of equal gains the first place wins.
    """
    phi, modular = phi.double(), modular.double()
    best = torch.zeros(len(phi), dtype=torch.float64)
    free = torch.ones(len(phi), dtype=torch.bool)
    chosen: list[int] = []
    for _ in range(min(k, len(phi))):
        gain = modular + beta * (phi - best[:, None]).clamp(min=0).sum(0)
        place = int(torch.where(free, gain, -torch.inf).argmax())
        chosen.append(place)
        free[place] = False
        best = torch.maximum(best, phi[:, place])
    return chosen


@dataclass(frozen=True)
class Objective:
    """F' of Eq. 8, and how its terms are brought to one scale; the paper prints none of the three weights."""

    alpha: float = field(default=1.0, metadata={"min": 0.0, "max": 1e6})  # of the discriminability D
    beta: float = field(default=1.0, metadata={"min": 0.0, "max": 1e6})  # of the coverage
    gamma: float = field(default=1.0, metadata={"min": 0.0, "max": 1e6})
    """Of V, standardised among a class's candidates; 0 is LaBo (Eq. 2)."""
    terms: Literal["standardised", "released"] = "standardised"
    """``standardised``: D with mean 0 and deviation 1 among a class's candidates, phi from 0 to 1, coverage times
    10 / n. ``released``: LaBo's own, 1e7 times the mutual information and the sum of cosines as they are."""


@dataclass(frozen=True)
class Candidates:
    """All phrases, each once, with what is known of them before the selection."""

    phrases: tuple[str, ...]
    origin: Bool[Tensor, "y m"]  # which classes a phrase is a candidate of
    texts: Float[Tensor, "m d"]  # T(c), as features are compared
    discriminability: Float[Tensor, " m"]
    visual: Float[Tensor, " m"]


def select(candidates: Candidates, objective: Objective, k: int) -> list[list[int]]:
    """For each class the places of its concepts, in the order in which they were chosen; all where it has at most k."""
    chosen = []
    for own in candidates.origin:
        places = torch.nonzero(own).flatten()
        texts = torch.nn.functional.normalize(candidates.texts[places].cpu().double(), dim=1)
        phi = texts @ texts.T
        n = len(places)
        d, v = candidates.discriminability[places], standardised(candidates.visual[places])
        beta = objective.beta
        if objective.terms == "standardised":
            d, phi, beta = standardised(d), scaled(phi), 10 / max(n, 1) * beta
        else:
            d = MI_SCALE * d
        # LaBo multiplies D by 1e7, which is its alpha: here alpha is relative to that
        order = greedy(phi, objective.alpha * d + objective.gamma * v, beta, k)
        chosen.append([int(places[i]) for i in order])
    return chosen


def standardised(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Mean 0 and deviation 1; zeros where all are equal."""
    centred = values.double() - values.double().mean()
    deviation = centred.square().mean().sqrt()
    return centred / deviation if float(deviation) > 0 else torch.zeros_like(centred)


def scaled(phi: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """From 0 to 1."""
    low, high = phi.min(), phi.max()
    return (phi - low) / (high - low) if float(high) > float(low) else torch.zeros_like(phi)


def union(chosen: Sequence[Sequence[int]]) -> list[int]:
    """C, the places of all concepts: those of the first class first, each once."""
    return list(dict.fromkeys(place for places in chosen for place in places))
