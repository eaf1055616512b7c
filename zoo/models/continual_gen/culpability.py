"""Culpability: which units a subnetwork keeps, and which go back (Domain-specific Subnetwork Formation)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.data.images import ImageSet, over_images
from zoo.nn.units import Units, activations

PruneBy = Literal["culpability", "magnitude", "random"]

DEAD = 1e-6  # mean activation below which a unit does nothing


def kept(width: int, pruning: float) -> int:
    """Units of a space that a subnetwork keeps: so much of the FULL network's, rounded down, at least 1."""
    return max(1, int((1 - pruning) * width + 1e-9))


def prune(
    net: nn.Module,
    head: nn.Linear,
    images: ImageSet,
    counts: Mapping[str, int],
    by: PruneBy,
    rng: np.random.Generator,
    device: torch.device,
) -> Units:
    """Which units of a trained network to keep, so many of each space, by what they do on validation images."""
    logits: list[Tensor] = []
    seen = activations(net, lambda: logits.append(over_images(net, lambda x: head(net(x)), images, device)))
    right = logits[0].argmax(1) == images.y
    found: Units = {}
    for space, activation in seen.items():
        if by == "culpability":
            score = culpability(activation, images.y, right)
        elif by == "magnitude":
            score = -activation.mean(0)
        else:
            score = torch.from_numpy(rng.random(activation.shape[1])).float()
        found[space] = chosen(score, activation, counts[space])
    return found


def culpability(
    activation: Float[Tensor, "n u"], y: Int[Tensor, " n"], correct: Bool[Tensor, " n"], epsilon: float = 1e-6
) -> Float[Tensor, " u"]:
    """How much more a unit does where the network errs; units with the highest scores are removed.

    ``sum_c (mean(a | c, wrong) - mean(a | c, right)) / (std(a | c) + epsilon)``. The paper cites its score without
    giving it: this is a reconstruction. A class without errors, or with nothing else, says nothing; without any error
    at all the least active units are the culprits.
    """
    score = torch.zeros(activation.shape[1])
    told = False
    for label in y.unique().tolist():
        wrong, right = activation[(y == label) & ~correct], activation[(y == label) & correct]
        if len(wrong) and len(right):
            spread = activation[y == label].std(0, correction=0) + epsilon
            score, told = score + (wrong.mean(0) - right.mean(0)) / spread, True
    return score if told else -activation.mean(0)


def chosen(score: Float[Tensor, " u"], activation: Float[Tensor, "n u"], count: int) -> Int[Tensor, " k"]:
    """The ``count`` units with the smallest scores, in their order; units that do nothing go before all others."""
    ranked = torch.where(activation.mean(0) < DEAD, torch.inf, score)
    return torch.argsort(ranked, stable=True)[:count].sort().values
