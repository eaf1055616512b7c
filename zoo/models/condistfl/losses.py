"""The losses (Sec. 2.2 and 2.3): marginal Dice and cross-entropy, and the conditional distillation.

A client k has annotated the classes F (``foreground``); B are all others, the background among them. Everything works
on logits ``[b n *grid]`` of the n classes, whatever the number of axes of the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Losses:
    """Where the printed losses and the released ones differ.

    ``temperature``: tau of Eq. 3. ``cross_entropy``: ``exact``, or ``probabilities`` for what the authors' code does,
    whose cross-entropy takes the softmax of probabilities. ``smooth``: added to the numerator of a Dice; the
    denominator has 1e-5, so that an empty class costs nothing, or 1 with ``smooth=0``. ``conditional``: ``exact``, or
    ``divided`` as printed in Eq. 6, with 1e-5 in the denominator. ``squared``: squares in the denominator of the
    distilling Dice, which is then 0 between equal maps.
    """

    temperature: float = field(default=0.5, metadata={"min": 0.01, "max": 100.0})  # Sec. 2.3
    cross_entropy: Literal["exact", "probabilities"] = "exact"
    smooth: float = field(default=1e-5, metadata={"min": 0.0, "max": 1.0})
    conditional: Literal["exact", "divided"] = "exact"
    squared: bool = False


def organ_groups(classes: Sequence[str], foreground: Sequence[int]) -> list[list[int]]:
    """O_k = {G_0, G_1, ...}: the background by itself, then each organ that isn't annotated, with its tumours.

    ``classes``: names from 1 on; a tumour is called ``<organ> tumour``. ``foreground``: numbers of annotated classes.
    """
    groups: dict[str, list[int]] = {"": [0]}
    for number, name in enumerate(classes, start=1):
        if number not in foreground:
            groups.setdefault(name.removesuffix(" tumour"), []).append(number)
    return list(groups.values())


def merged_logits(logits: Float[Tensor, "b n *grid"], foreground: Sequence[int]) -> Float[Tensor, "b f *grid"]:
    """Logits of the merged background and of each annotated class: their softmax has the sums of Eq. 1.

    The background's is the log-sum-exp over B.
    """
    others = [k for k in range(logits.shape[1]) if k not in foreground]
    return torch.cat([logits[:, others].logsumexp(1, keepdim=True), logits[:, list(foreground)]], 1)


def local_labels(y: Int[Tensor, " b *grid"], foreground: Sequence[int]) -> Int[Tensor, " b *grid"]:
    """Labels as channels of the merged logits; a class that isn't annotated is background."""
    local = torch.zeros_like(y)
    for place, number in enumerate(foreground, start=1):
        local[y == number] = place
    return local


def soft_dice_loss(
    p: Float[Tensor, "b c *grid"], q: Float[Tensor, "b c *grid"], smooth: float = 1e-5, squared: bool = False
) -> Float[Tensor, ""]:
    """1 - Dice of each channel over all voxels of the batch, averaged over the channels."""
    axes = [axis for axis in range(p.ndim) if axis != 1]
    overlap = (p * q).sum(axes)
    size = (p.square() + q.square()).sum(axes) if squared else (p + q).sum(axes)
    return (1 - (2 * overlap + smooth) / (size + 1e-5)).mean()


def marginal_loss(
    logits: Float[Tensor, "b n *grid"], y: Int[Tensor, " b *grid"], foreground: Sequence[int], how: Losses = Losses()
) -> Float[Tensor, ""]:
    """L_sup = Dice + CE of merged probabilities (Eq. 2). With all classes as foreground it's the ordinary DiceCE."""
    merged, target = merged_logits(logits.float(), foreground), local_labels(y, foreground)
    p = merged.softmax(1)
    one_hot = F.one_hot(target, merged.shape[1]).movedim(-1, 1).to(p.dtype)
    entropy = F.cross_entropy(merged if how.cross_entropy == "exact" else p, target)
    return soft_dice_loss(p, one_hot, how.smooth) + entropy


def conditional_probabilities(
    logits: Float[Tensor, "b n *grid"], foreground: Sequence[int], groups: Sequence[Sequence[int]], how: Losses
) -> Float[Tensor, "b g *grid"]:
    """Of each group, given that the voxel isn't of the foreground (Eq. 4 to 7).

    Exactly that is the softmax over B alone, summed in groups: no division by a probability near 0, and no gradient on
    the logits of the foreground.
    """
    if how.conditional == "divided":
        p = (logits / how.temperature).softmax(1)
        rest = 1 - p[:, list(foreground)].sum(1, keepdim=True) + 1e-5
        return torch.cat([p[:, list(group)].sum(1, keepdim=True) for group in groups], 1) / rest
    order = [number for group in groups for number in group]
    p = (logits[:, order] / how.temperature).softmax(1)
    return torch.cat([part.sum(1, keepdim=True) for part in p.split([len(group) for group in groups], 1)], 1)


def foreground_filter(
    teacher: Float[Tensor, "b n *grid"], y: Int[Tensor, " b *grid"], foreground: Sequence[int]
) -> Bool[Tensor, "b 1 *grid"]:
    """M: the voxels of which neither the label nor the global model says that they are of the foreground."""
    numbers = torch.tensor(list(foreground), device=y.device)
    return ~(torch.isin(y, numbers) | torch.isin(teacher.argmax(1), numbers))[:, None]


def condist_loss(
    student: Float[Tensor, "b n *grid"], teacher: Float[Tensor, "b n *grid"], y: Int[Tensor, " b *grid"],
    foreground: Sequence[int], groups: Sequence[Sequence[int]], how: Losses = Losses(),
) -> Float[Tensor, ""]:  # fmt: skip
    """L_ConDist (Eq. 8): Dice between what the local and the global model say of the background; none to ``teacher``.

    With plain denominators two equal maps that aren't all 0 or 1 cost something, which sharpens the student, too.
    """
    teacher = teacher.detach().float()
    mask = foreground_filter(teacher, y, foreground)
    local, world = (conditional_probabilities(one, foreground, groups, how) for one in (student.float(), teacher))
    return soft_dice_loss(local * mask, world * mask, how.smooth, how.squared)
