"""The paper's mathematics: distance to the frozen prior, its mean by class, and the rescue factor (Eq. 1 to 3).

The server's weights RF_c / sum RF (Eq. 5) are the aggregation rule ``metric:rescue-factor``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def prior_distance(y: Float[Tensor, "b d"], prior: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    """L_f = 2 - 2 <y, y'> of unit vectors, in [0, 4] (Eq. 1).

    ``y`` is the projection MLP(g(x)), ``prior`` the frozen network's feature; both are scaled to unit length here.
    """
    return 2 - 2 * (F.normalize(y, dim=1) * F.normalize(prior, dim=1)).sum(1)


class ClassMeans:
    """Running mean of a number by class (Eq. 2): L_k for the classes seen, 0 for the others."""

    def __init__(self, classes: int) -> None:
        self.sums, self.counts = torch.zeros(classes), torch.zeros(classes)

    def add(self, values: Float[Tensor, " b"], labels: Int[Tensor, " b"]) -> None:
        values, labels = values.detach().cpu().float(), labels.cpu()
        self.sums.index_add_(0, labels, values)
        self.counts.index_add_(0, labels, torch.ones_like(values))

    @property
    def means(self) -> Float[Tensor, " k"]:
        return self.sums / self.counts.clamp(min=1)


@torch.no_grad()
def class_distances(project: Callable[[Tensor], Float[Tensor, "b d"]], shard: Any, classes: int) -> Float[Tensor, " k"]:
    """w_k: mean distance to the prior by class, of images without augmentation; 0 for absent classes.

    ``project``: from images to MLP(g(x)). ``shard``: images ``x``, their labels ``y`` and ``prior`` features.
    """
    means = ClassMeans(classes)
    for places in torch.arange(len(shard.y)).split(128):
        projected = project(shard.x[places])
        means.add(prior_distance(projected, shard.prior[places].to(projected.device)), shard.y[places])
    return means.means


def rescue_factor(
    w: Float[Tensor, " k"], w_hat: Float[Tensor, " k"], present: Float[Tensor, " k"], norm: str = "sum"
) -> float:
    """RF = sum_k w_k w^_k (Eq. 3), at least 0.

    ``w``: class means of the received model, ``w_hat``: those seen during training, summed over epochs. ``norm``:
    ``sum`` as printed, by which clients with more classes count more, or ``mean`` over the classes ``present``.
    """
    total = float((w * w_hat).sum())
    return total / max(int((present > 0).sum()), 1) if norm == "mean" else total
