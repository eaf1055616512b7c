"""The attacks that DISBELIEVE is compared with, as functions of the controlled clients' honest updates.

Sources: LIE, G. Baruch et al., A Little Is Enough, 2019; Min-Max, V. Shejwalkar and A. Houmansadr, Manipulating the
Byzantine, 2021.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from zoo.models.disbelieve.screening import squared_distances

Direction = Literal["std", "sign", "unit"]


def lie_z(clients: int, attackers: int) -> float:
    """How many standard deviations LIE may move: the share of honest clients it must win over, as a normal quantile."""
    s = clients // 2 + 1 - attackers
    honest = clients - attackers
    return NormalDist().inv_cdf((honest - s) / honest)


def lie(updates: Float[Tensor, "f d"], clients: int) -> Float[Tensor, " d"]:
    """LIE: every coordinate z standard deviations below the mean of the controlled clients."""
    return updates.mean(0) - lie_z(clients, len(updates)) * updates.std(0, correction=0)


def min_max(updates: Float[Tensor, "f d"], direction: Direction = "std") -> Float[Tensor, " d"]:
    r"""Min-Max: as far from the mean along ``direction`` as the farthest pair of controlled clients allows.

    The largest :math:`\gamma` with :math:`\max_i \|\mu + \gamma p - g_i\| \le \max_{ik} \|g_i - g_k\|`; each client
    bounds it by the root of a quadratic, so no search is needed. ``direction``: ``p`` is minus the standard deviation,
    minus the sign of the mean, or minus the mean at unit length.
    """
    mean = updates.mean(0)
    p = {
        "std": lambda: -updates.std(0, correction=0),
        "sign": lambda: -mean.sign(),
        "unit": lambda: -mean / mean.norm().clamp_min(torch.finfo(mean.dtype).tiny),
    }[direction]()
    square = p.square().sum()
    if square == 0:  # the clients agree, or sent nothing: there is nowhere to go
        return mean
    offsets = mean - updates
    along = offsets @ p
    slack = squared_distances(updates).max() - offsets.square().sum(1)
    gamma = ((-along + (along.square() + square * slack).clamp_min(0).sqrt()) / square).min()
    return mean + gamma.clamp_min(0) * p
