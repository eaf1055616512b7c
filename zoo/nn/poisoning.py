"""Known attacks on federations, as functions of the controlled clients' honest updates, to audit rules with.

The attacker knows the updates of the clients that it controls and nothing else, and lets all of them send one and the
same vector. Everything here is for federations that are simulated to measure how robust an aggregator is.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from zoo.errors import DataError
from zoo.nn.robust import pair_distances, squared_distances

Direction = Literal["std", "sign", "unit"]


def spread(updates: Float[Tensor, "f d"], metric: Literal["max", "min", "mean"]) -> float:
    """The largest, smallest or mean squared distance of two different updates."""
    if len(updates) < 2:
        raise DataError(f"distances need at least 2 updates, not {len(updates)}; give those of 2 or more clients")
    pairs = pair_distances(updates)
    return float(pairs.max() if metric == "max" else pairs.min() if metric == "min" else pairs.mean())


def lie_z(clients: int, attackers: int) -> float:
    """How many standard deviations LIE may move: the share of honest clients it must win over, as a normal quantile."""
    s = clients // 2 + 1 - attackers
    honest = clients - attackers
    return NormalDist().inv_cdf((honest - s) / honest)


def lie(updates: Float[Tensor, "f d"], clients: int) -> Float[Tensor, " d"]:
    """LIE: every coordinate z standard deviations below the mean of the controlled clients.

    Source: G. Baruch et al., A Little Is Enough, 2019.
    """
    return updates.mean(0) - lie_z(clients, len(updates)) * updates.std(0, correction=0)


def min_max(updates: Float[Tensor, "f d"], direction: Direction = "std") -> Float[Tensor, " d"]:
    r"""Min-Max: as far from the mean along ``direction`` as the farthest pair of controlled clients allows.

    The largest :math:`\gamma` with :math:`\max_i \|\mu + \gamma p - g_i\| \le \max_{ik} \|g_i - g_k\|`; each client
    bounds it by the root of a quadratic, so no search is needed. ``direction``: ``p`` is minus the standard deviation,
    minus the sign of the mean, or minus the mean at unit length.

    Source: V. Shejwalkar and A. Houmansadr, Manipulating the Byzantine, 2021.
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
