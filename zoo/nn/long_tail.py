"""Classification with long-tailed and divided data: losses that know the class counts, a classifier of cosines,
and federated penalties.

``counts`` are the training images of each class that the loss may assume: in federated learning, the client's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


def balanced_softmax_loss(
    logits: Float[Tensor, "b k"], y: Int[Tensor, " b"], counts: Float[Tensor, " k"], absent: float = 1e-9
) -> Float[Tensor, ""]:
    """Mean cross-entropy of ``logits + log counts``; a class without images counts as ``absent`` of one (> 0).

    Source: J. Ren et al., Balanced Meta-Softmax for Long-Tailed Visual Recognition, 2020.
    """
    return F.cross_entropy(logits + counts.to(logits).clamp(min=absent).log(), y)


def ldam_margins(counts: Float[Tensor, " k"], largest: float = 0.5) -> Float[Tensor, " k"]:
    """m_k proportional to n_k^(-1/4), scaled so that the rarest class that is there has ``largest``; 0 if absent.

    Source: K. Cao et al., Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss, 2019.
    """
    there = counts > 0
    margins = torch.where(there, counts.clamp(min=1).float().pow(-0.25), 0.0)
    return margins * (largest / margins.max()) if bool(there.any()) else margins


def ldam_loss(
    logits: Float[Tensor, "b k"],
    y: Int[Tensor, " b"],
    counts: Float[Tensor, " k"],
    *,
    largest: float = 0.5,
    scale: float = 30.0,
    weight: Float[Tensor, " k"] | None = None,
) -> Float[Tensor, ""]:
    """Mean cross-entropy after the margin of the true class is taken off its logit.

    ``logits`` are cosines times ``scale``, so the margin is m_k times ``scale``. ``weight``: of the classes, such as
    ``effective_number_weights`` in the deferred phase (LDAM-DRW).
    """
    margin = ldam_margins(counts, largest).to(logits)[y] * scale
    return F.cross_entropy(logits - F.one_hot(y, logits.shape[1]) * margin[:, None], y, weight)


def effective_number_weights(counts: Float[Tensor, " k"], beta: float = 0.9999) -> Float[Tensor, " k"]:
    """(1 - beta) / (1 - beta^n), with mean 1 over the classes that are there; 0 for those that aren't.

    Source: Y. Cui et al., Class-Balanced Loss Based on Effective Number of Samples, 2019.
    """
    n = counts.double()
    weight = torch.where(n > 0, (1 - beta) / (1 - torch.pow(beta, n.clamp(min=1))), 0.0)
    return (weight / weight[n > 0].mean()).float() if bool((n > 0).any()) else weight.float()


def logit_calibrated_loss(
    logits: Float[Tensor, "b k"], y: Int[Tensor, " b"], counts: Float[Tensor, " k"], tau: float = 1.0
) -> Float[Tensor, ""]:
    """Mean cross-entropy of ``logits - tau n^(-1/4)`` over the classes that are there (FedLC).

    Source: J. Zhang et al., Federated Learning with Label Distribution Skew via Logits Calibration, 2022.
    """
    counts = counts.to(logits)
    calibrated = logits - tau * counts.clamp(min=1).pow(-0.25)
    return F.cross_entropy(calibrated.masked_fill(counts == 0, -math.inf), y)


def proximal_term(parameters: Iterable[Tensor], start: Iterable[Tensor]) -> Float[Tensor, ""]:
    """Half the squared distance of a client's parameters to those that it received (FedProx, times mu).

    Source: T. Li et al., Federated Optimization in Heterogeneous Networks, 2020.
    """
    return 0.5 * torch.stack([(a - b.detach()).square().sum() for a, b in zip(parameters, start, strict=True)]).sum()


def model_contrastive_loss(
    z: Float[Tensor, "b d"], received: Float[Tensor, "b d"], previous: Float[Tensor, "b d"], tau: float = 0.5
) -> Float[Tensor, ""]:
    """Features should resemble the received model's and not those of the client's previous one (MOON, times mu).

    Source: Q. Li et al., Model-Contrastive Federated Learning, 2021.
    """
    alike = F.cosine_similarity(z, received.detach(), dim=1) / tau
    unlike = F.cosine_similarity(z, previous.detach(), dim=1) / tau
    return F.softplus(unlike - alike).mean()


def frequency_groups(
    counts: Sequence[int], head_above: int, tail_below: int
) -> tuple[Bool[Tensor, " k"], Bool[Tensor, " k"], Bool[Tensor, " k"]]:
    """Head classes (more than ``head_above`` training images), medium ones, and tail (fewer than ``tail_below``)."""
    n = torch.as_tensor(list(counts))
    head, tail = n > head_above, n < tail_below
    return head, ~head & ~tail, tail


class CosineClassifier(nn.Linear):
    """``scale`` times the cosine between features and class vectors, which the margins of LDAM are made for."""

    def __init__(self, width: int, classes: int, scale: float) -> None:
        super().__init__(width, classes, bias=False)
        self.scale = scale

    def forward(self, z: Float[Tensor, "b w"]) -> Float[Tensor, "b k"]:
        return self.scale * F.linear(F.normalize(z, dim=1), F.normalize(self.weight, dim=1))
