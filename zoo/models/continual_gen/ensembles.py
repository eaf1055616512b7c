"""Ensembles of groups (Sec. 2, I): features clustered eight times over, and how far two such ensembles lie apart.

A group is a clustering: by the class, or by a Gaussian mixture of k components. Of every cluster mean and covariance
are kept, and no image or feature. Distances are Mahalanobis', so they need the covariance of one side alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo.nn.mixtures import Start, Whitened, dissolved, mahalanobis, mixture, principal_axes, shrunk, whitened

BY_CLASS = 0  # in place of a number of components
FEWEST = 5


@dataclass(frozen=True)
class EnsembleConfig:
    """The groups, and how scores become one distance. What the paper leaves open is said."""

    groups: tuple[int, ...] = field(default=(BY_CLASS, 1, 3, 5, 7, 10, 15, 20), metadata={"min": 0, "max": 1000})
    """Clusters of each group, Sec. 3; 0 is the grouping by class."""
    dimensions: int = field(default=64, metadata={"min": 1, "max": 4096})
    """Features are reduced to so many principal components, fewer where there are fewer features. Open; the authors'
    study of clusters takes 128."""
    unit_length: bool = False  # features divided by their length before; open, the authors' study does
    covariance: Literal["full", "diagonal"] = "full"  # open
    shrinkage: float = field(default=0.1, metadata={"min": 1e-3, "max": 1.0})  # towards the mean variance; open
    mixture_start: Start = "k-means++"  # open; the study: the second
    pairs: Literal["mirrored", "all"] = "mirrored"
    """Groups with as many clusters, in both directions, which are the 2 M scores of the text; or every group with every
    other, the M x M scores of its formula."""
    rule: Literal["average", "top", "bottom", "trimmed"] = "average"
    """Of the scores, Table 3: all, the smallest ``q`` percent, the largest, or without ``q`` percent at both ends."""
    q: float = field(default=20.0, metadata={"min": 1.0, "max": 49.0})
    fewest: int = field(default=FEWEST, metadata={"min": 2, "max": 1000})
    """Members of a cluster that is kept: fewer would come close to storing features."""
    floor: float = field(default=0.5, metadata={"min": 0.0, "max": 1e6})
    """The threshold ``selfess`` is at least this: it shrinks as domains grow."""

    def __post_init__(self) -> None:
        if not self.groups or len(set(self.groups)) != len(self.groups):
            raise ValueError("groups must be one or more numbers of clusters, each once")


class Ensemble(nn.Module):
    """What is kept of one domain's features: axes, clusters, and the distances that are usual inside it."""

    mean: Tensor
    axes: Tensor
    group: Tensor
    centre: Tensor
    spread: Tensor
    count: Tensor
    usual: Tensor
    selfess: Tensor

    def __init__(self, config: EnsembleConfig, features: int, clusters: int) -> None:
        super().__init__()
        self.config = config
        d = min(config.dimensions, features)
        square = (d, d) if config.covariance == "full" else (d,)
        for name, shape in (("mean", (features,)), ("axes", (d, features)), ("centre", (clusters, d)),
                            ("spread", (clusters, *square)), ("usual", ()), ("selfess", ())):  # fmt: skip
            self.register_buffer(name, torch.zeros(shape))
        self.register_buffer("group", torch.zeros(clusters, dtype=torch.int32))
        self.register_buffer("count", torch.zeros(clusters, dtype=torch.int32))

    @classmethod
    def of(
        cls,
        config: EnsembleConfig,
        z: Float[Tensor, "n f"],
        y: Int[Tensor, " n"],
        like: Ensemble | None = None,
    ) -> Ensemble:
        """Of features and classes, on the axes of ``like`` or on their own principal ones.

        A component with fewer than five images is dissolved, and they go to the nearest other one: left out, they would
        be far from their own domain. A class with fewer has no cluster.
        """
        z = _prepared(config, z).double()
        axes = principal_axes(z, config.dimensions) if like is None else (like.mean.cpu(), like.axes.cpu())
        x = ((z - axes[0].double()) @ axes[1].double().T).numpy()
        diagonal, found = config.covariance == "diagonal", list[tuple[int, np.ndarray]]()
        for place, k in enumerate(config.groups):
            members = y.numpy()
            if k != BY_CLASS:
                mixed = mixture(x, k, diagonal=diagonal, start=config.mixture_start)
                members = dissolved(x, mixed, config.fewest)
            found += [
                (place, x[members == one]) for one in np.unique(members) if (members == one).sum() >= config.fewest
            ]
        made = cls(config, z.shape[1], len(found))
        made.mean, made.axes = axes[0].float(), axes[1].float()
        for i, (place, some) in enumerate(found):
            made.group[i], made.count[i] = place, len(some)
            made.centre[i] = torch.from_numpy(some.mean(0))
            made.spread[i] = torch.from_numpy(shrunk(some, config.shrinkage, diagonal))
        return made

    def project(self, z: Float[Tensor, "n f"]) -> Float[Tensor, "n d"]:
        return (_prepared(self.config, z) - self.mean) @ self.axes.T

    def clusters(self) -> Whitened:
        return whitened(self.centre, self.spread)

    def distance(self, z: Float[Tensor, "n f"]) -> Float[Tensor, " n"]:
        """Of single images: in each group the nearest cluster, then the rule over groups (Domain-agnostic Inference).

        Infinite where there are no clusters.
        """
        apart = mahalanobis(self.project(z), self.clusters())
        scores = [apart[:, self.group == g].amin(1) for g in self.group.unique()]
        return combined(torch.stack(scores, 1), self.config) if scores else torch.full((len(z),), torch.inf)

    def set_thresholds(self, train: Float[Tensor, "n f"], unseen: Ensemble) -> None:
        """What is usual inside the domain: mean distance of its images, and ESS of validation images to it."""
        self.usual = self.distance(train).mean() if len(self.group) else torch.tensor(0.0)
        apart = ess(unseen, self)
        self.selfess = torch.tensor(apart if math.isfinite(apart) else 0.0)

    def gamma(self, threshold: Literal["selfess", "member"]) -> float:
        """The threshold of Sec. 2, III, by either reading of "twice the mean of all clusters"."""
        if threshold == "member":
            return 2 * float(self.usual)
        return max(2 * float(self.selfess), self.config.floor)


def _prepared(config: EnsembleConfig, z: Float[Tensor, "n f"]) -> Float[Tensor, "n f"]:
    return z / z.norm(dim=1, keepdim=True).clamp_min(1e-12) if config.unit_length else z


def ess(new: Ensemble, stored: Ensemble) -> float:
    """The ensemble similarity score of two ensembles on the same axes (Sec. 2, II). It is a distance: less is nearer.

    Of each pair of groups the smallest distance between a cluster of one and a cluster of the other. Infinite where no
    pair has clusters on both sides.
    """
    ahead = mahalanobis(new.centre, stored.clusters())  # [new stored]
    back = mahalanobis(stored.centre, new.clusters()).T
    scores = []
    for g in new.group.unique():
        for h in stored.group.unique():
            if stored.config.pairs == "mirrored" and g != h:
                continue
            rows, columns = new.group == g, stored.group == h
            some = (ahead, back) if stored.config.pairs == "mirrored" else (ahead,)
            scores += [apart[rows][:, columns].min() for apart in some]
    return float(combined(torch.stack(scores)[None], stored.config)) if scores else math.inf


def combined(scores: Float[Tensor, "n m"], config: EnsembleConfig) -> Float[Tensor, " n"]:
    """The ``ensemble`` module of Sec. 2, II: one score of many, by one of the rules of Table 3."""
    if config.rule == "average":
        return scores.mean(1)
    m = scores.shape[1]
    ranked = scores.sort(1).values
    some = max(1, math.ceil(config.q / 100 * m))
    if config.rule == "trimmed":
        some = min(some, (m - 1) // 2)
        return ranked[:, some : m - some].mean(1)
    return (ranked[:, :some] if config.rule == "top" else ranked[:, m - some :]).mean(1)
