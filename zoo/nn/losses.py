"""Losses of segmentation, of rare classes and of contrast that torch and MONAI lack, and names for what they have.

Losses that know the class counts of a long tail, and those of federated learning: ``zoo.nn.long_tail``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from zoo.errors import MissingExtraError

# ---- segmentation ----------------------------------------------------------------------------------------------------


def dice_ce(logits: Float[Tensor, "b 2 h w"], y: Int[Tensor, "b h w"]) -> Float[Tensor, ""]:
    """Cross-entropy + Dice of the second class, both over all pixels of the batch, so that images may lack it."""
    p = logits.softmax(1)[:, 1]
    dice = (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)
    return F.cross_entropy(logits, y) + 1 - dice


def dice_bce(
    logits: Float[Tensor, "n k *grid"],
    target: Float[Tensor, "n k *grid"],
    *,
    squared: bool = False,
    smooth: float = 1.0,
) -> Float[Tensor, ""]:
    """Binary cross-entropy + the mean of every object's Dice loss; ``squared``: with squares in the denominator.

    ``smooth``: added to both parts of the Dice. Raises ``MissingExtraError`` without MONAI.
    """
    dice = dice_losses(logits, target, squared=squared, smooth=smooth).mean()
    return F.binary_cross_entropy_with_logits(logits, target) + dice


def dice_losses(
    logits: Float[Tensor, "n k *grid"],
    target: Float[Tensor, "n k *grid"],
    *,
    squared: bool = False,
    smooth: float = 1.0,
) -> Float[Tensor, "n k"]:
    """1 - Dice of every object by itself; ``smooth`` is added to both parts.

    Raises ``MissingExtraError`` without MONAI.
    """
    try:
        from monai.losses import DiceLoss
    except ImportError:
        raise MissingExtraError("a Dice loss", "monai", "volumes") from None
    loss = DiceLoss(sigmoid=True, squared_pred=squared, smooth_nr=smooth, smooth_dr=smooth, reduction="none")
    return loss(logits, target).flatten(2).mean(2)


def partial_dice(
    logits: Float[Tensor, "n k *grid"], target: Float[Tensor, "n k *grid"], known: Float[Tensor, "n k"]
) -> Float[Tensor, ""]:
    """Dice loss of the classes that somebody annotated, 1 in ``known``: mean over them in each sample, then over these.

    Raises ``MissingExtraError`` without MONAI.
    """
    losses = dice_losses(logits, target) * known
    return (losses.sum(1) / known.sum(1).clamp(min=1)).mean()


def normalised_focal_loss(
    logits: Float[Tensor, "n k h w"], target: Float[Tensor, "n k h w"], *, gamma: float = 2.0, alpha: float = 0.5
) -> Float[Tensor, ""]:
    """Focal loss whose weights ``(1 - p_t)^gamma`` have mean 1 over every sample; ``target`` is 0 or 1.

    The factor that makes it so is a constant to the gradient. With ``gamma=0`` it is ``alpha`` times cross-entropy.

    Source: K. Sofiuk et al., AdaptIS: Adaptive Instance Selection Network, 2019, as RITM (2022) uses it.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none").flatten(1)
    weight = (1 - torch.exp(-entropy)).clamp(min=1e-6) ** gamma
    scale = 1 / weight.detach().mean(1, keepdim=True)
    return (alpha * scale * weight * entropy).mean()


# ---- rare classes ----------------------------------------------------------------------------------------------------


def class_counts(y: Int[Tensor, " n"] | Float[Tensor, " n"], classes: int) -> Float[Tensor, " k"]:
    """How many of ``y`` are of each class; on the CPU."""
    return torch.bincount(y.cpu().long(), minlength=classes).float()


def balanced_weights(counts: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """n / (k n_c): every class weighs as much as all its images together; 1 for classes without any."""
    return torch.where(counts > 0, float(counts.sum()) / (len(counts) * counts.clamp(min=1)), 1.0)


def root_weights(counts: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """1 / sqrt(n_c), with mean 1 over the classes that are there; 0 for those that aren't."""
    weight = torch.where(counts > 0, counts.clamp(min=1).rsqrt(), 0)
    return weight / weight[counts > 0].mean()


def low_cross_entropy(logits: Float[Tensor, "b k"], y: Int[Tensor, " b"], rho: float) -> Float[Tensor, ""]:
    """Mean of w_i CE_i, where the weights favour samples of large loss gradient g_i and add up to the batch's size.

    They maximise ``sum w_i g_i^2 - rho ||w - 1||^2`` over w >= 0, sum w = b: the projection of ``1 + g^2 / (2 rho)`` on
    a simplex.

    Source: C. Santiago et al., LOW: Training Deep Neural Networks by Learning Optimal Sample Weights, 2021.
    """
    with torch.no_grad():
        g2 = (logits.softmax(1) - F.one_hot(y, logits.shape[1])).square().sum(1)
        w = project_on_simplex(1 + g2 / (2 * rho), float(len(y)))
    return (w * F.cross_entropy(logits, y, reduction="none")).mean()


Weighting = Literal["sqrt", "low", "low-by-sample", "none"]


def weighted_cross_entropy(
    kind: Weighting, counts: Float[Tensor, " k"], rho: float = 0.1
) -> Callable[[Tensor, Tensor], Tensor]:
    """Cross-entropy of logits [b k] and labels [b]; ``sqrt`` weighs classes by :func:`root_weights` of ``counts``.

    ``low-by-sample`` is :func:`low_cross_entropy`; ``low`` the same as its authors run it: of the batch's mean, a
    sample's gradient is 1 / b of its own, so that the weights stay near 1.
    """
    if kind == "low":
        return lambda logits, y: low_cross_entropy(logits, y, rho * len(y) ** 2)
    if kind == "low-by-sample":
        return lambda logits, y: low_cross_entropy(logits, y, rho)
    weight = root_weights(counts) if kind == "sqrt" else None
    return lambda logits, y: F.cross_entropy(logits, y, weight)


def project_on_simplex(v: Float[Tensor, " n"], total: float) -> Float[Tensor, " n"]:
    """The nearest point to ``v`` with entries >= 0 that add up to ``total``."""
    ordered = v.sort(descending=True).values
    excess = ordered.cumsum(0) - total
    place = torch.arange(1, len(v) + 1, device=v.device)
    last = int((ordered - excess / place > 0).sum())
    return (v - excess[last - 1] / last).clamp(min=0)


# ---- contrast --------------------------------------------------------------------------------------------------------


def contrastive_loss(z: Float[Tensor, "m d"], temperature: float) -> Float[Tensor, ""]:
    """NT-Xent: row i and row i + n are two views of one image, which should be alike and unlike all others.

    Source: T. Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, 2020.
    """
    n = len(z) // 2
    z = F.normalize(z, dim=1)
    similarity = (z @ z.T / temperature).masked_fill(torch.eye(2 * n, dtype=torch.bool, device=z.device), -math.inf)
    return F.cross_entropy(similarity, torch.arange(2 * n, device=z.device).roll(n))


def supervised_contrastive_loss(
    z: Float[Tensor, "n d"], y: Int[Tensor, " n"] | Float[Tensor, " n"], temperature: float = 0.1
) -> Float[Tensor, ""]:
    """Rows of one label should be alike and those of others unlike; 0 where no row has another one of its label.

    Source: P. Khosla et al., Supervised Contrastive Learning, 2020, Eq. 2.
    """
    z = F.normalize(z, dim=1)
    same = y[:, None] == y
    same.fill_diagonal_(False)
    scores = (z @ z.T / temperature).masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), -math.inf)
    log_p = (scores - scores.logsumexp(1, keepdim=True)).masked_fill(~same, 0)
    count = same.sum(1)
    return -(log_p.sum(1) / count.clamp(min=1)).sum() / (count > 0).sum().clamp(min=1)
