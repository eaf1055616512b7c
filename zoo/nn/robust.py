"""Rules that combine flat updates and screen clients by how far apart they lie, or don't.

A rule takes updates in double precision and how many cases are behind each. It's for ``aggregate`` functions that
flatten what clients send, such as audits of attacks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from zoo.errors import DataError, OptionError
from zoo.ops import prototype_similarity

RuleName = Literal["fedavg", "krum", "trimmed-mean", "dos", "krum-released", "dos-sum"]
"""``krum-released`` and ``dos-sum`` are what published code does where it isn't what the papers print."""


class Combined(NamedTuple):
    """What a rule makes of the updates."""

    vector: Float[Tensor, " d"]
    picked: int | None = None  # the row of the only update that counts, where a rule picks one
    weights: Sequence[float] = ()  # of the rows, where a rule weighs them by what they are


Rule = Callable[[Float[Tensor, "n d"], Sequence[float]], Combined]


def rule_of(name: RuleName, clients: int, attackers: int, trim: float | None = None) -> Rule:
    """The rule of that name, told the true number of attackers where it takes one.

    ``trim``: the share that the trimmed mean drops on either side, in place of the true one.

    Raises ``OptionError`` when so many attackers are beyond any rule. Krum's own guarantee needs n > 2 f + 2; fewer
    clients are taken all the same, as in the paper (n = 10, f = 4), but not by ``krum-released``.
    """
    refuse_majority(clients, attackers)
    if name == "krum-released":
        if clients <= 2 * attackers + 2:
            raise OptionError(
                f"Krum as released takes more than 2 f + 2 clients, and there are {clients} with {attackers} "
                "attackers; use fewer attackers or the rule krum"
            )
        return partial(krum, attackers=attackers, fewer=1)
    if name == "krum":
        return partial(krum, attackers=attackers)
    if name == "trimmed-mean":
        # of as many updates as there are; the quarter keeps rounding from dropping one less
        return partial(trimmed_mean, share=(attackers + 0.25) / clients if trim is None else trim)
    if name == "dos-sum":
        return partial(dos, sharpness=2)
    return dos if name == "dos" else fedavg


def refuse_majority(clients: int, attackers: int) -> None:
    """Raises ``OptionError`` for a federation of one, or attackers that are no minority."""
    if clients < 2:
        raise OptionError(f"a federation needs at least 2 clients, not {clients}; raise clients")
    if 2 * attackers >= clients:
        raise OptionError(
            f"{attackers} attackers of {clients} clients are a majority or half, which no aggregator tolerates; "
            f"use at most {(clients - 1) // 2}"
        )


def fedavg(updates: Float[Tensor, "n d"], cases: Sequence[float]) -> Combined:
    """The mean by cases."""
    shares = updates.new_tensor(cases) / sum(cases)
    return Combined(shares @ updates)


def krum(updates: Float[Tensor, "n d"], cases: Sequence[float], attackers: int, fewer: int = 0) -> Combined:
    """The one update whose n - f - 2 nearest others are nearest; the first of equal ones.

    ``fewer``: neighbours that don't count, one where code takes an update for a neighbour of its own.

    Source: P. Blanchard et al., Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent, 2017.
    """
    nearest = max(1, len(updates) - attackers - 2 - fewer)
    scores = squared_distances(updates).sort(1).values[:, 1 : nearest + 1].sum(1)  # the nearest of all is itself
    best = int((scores == scores.min()).nonzero()[0])
    return Combined(updates[best], picked=int((updates == updates[best]).all(1).nonzero()[0]))


def trimmed_mean(updates: Float[Tensor, "n d"], cases: Sequence[float], share: float) -> Combined:
    """The mean of each coordinate without that share of its largest and of its smallest values.

    Source: D. Yin et al., Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates, 2018.
    """
    cut = int(share * len(updates))
    return Combined(updates.sort(0).values[cut : len(updates) - cut].mean(0))


def dos(updates: Float[Tensor, "n d"], cases: Sequence[float], sharpness: float = 1) -> Combined:
    """Distance-based outlier suppression: updates far from the others, in length or in direction, count for less.

    No weight is ever 0, so that an update of enormous length still dominates the sum.
    """
    weights = dos_weights(updates, sharpness)
    return Combined(weights.to(updates) @ updates, weights=weights.tolist())


# ---- distances -------------------------------------------------------------------------------------------------------

BLOCK = 2**20  # coordinates at a time: models of any size need no second copy in double precision


def squared_distances(updates: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
    """Squared Euclidean distance of every two updates, float64; exactly 0 for equal ones.

    A sum over blocks of coordinates; each pair's differences are squared, so near copies keep their distance.
    Raises ``DataError`` for updates that are not finite.
    """
    if not torch.isfinite(updates).all():
        raise DataError("an update is not finite, so its distances mean nothing; leave its client out")
    total = updates.new_zeros(len(updates), len(updates), dtype=torch.float64)
    for block in updates.split(BLOCK, dim=1):
        wide = block.double()
        total -= prototype_similarity(wide.unsqueeze(1), wide, metric="l2")[0]  # one cell each: all pairs
    return total


def pair_distances(updates: Float[Tensor, "n d"]) -> Float[Tensor, " pairs"]:
    """Squared distance of every two different updates, each pair once."""
    return squared_distances(updates)[tuple(torch.triu_indices(len(updates), len(updates), 1))]


def distance_tables(updates: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n n"], Float[Tensor, "n n"]]:
    """Euclidean and cosine distances of every two updates, from one pass over them.

    1 - cos(x, y) = (|x - y|^2 - (|x| - |y|)^2) / (2 |x| |y|), which keeps its digits for nearly parallel vectors. The
    cosine distance to an update of length 0 is 1, and of two such 0.
    """
    squares = squared_distances(updates)
    length = torch.stack([block.double().square().sum(1) for block in updates.split(BLOCK, dim=1)]).sum(0).sqrt()
    product = length[:, None] * length
    cosine = (squares - (length[:, None] - length).square()) / (2 * product.clamp_min(1e-300))
    cosine = torch.where(product > 0, cosine, (squares > 0).double())
    return squares.sqrt(), cosine.clamp(0, 2)


def copod(table: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """COPOD outlier score of every row: large where its values lie in the tails of their columns.

    By column, minus the logarithm of the left and of the right empirical tail; the tail on the side to which the
    column is skewed, but at least the mean of both; summed over columns.

    Source: Z. Li et al., COPOD: Copula-Based Outlier Detection, 2020.
    """
    left = -torch.log((table[None] <= table[:, None]).double().mean(1))
    right = -torch.log((table[None] >= table[:, None]).double().mean(1))
    centred = table - table.mean(0)
    skew = centred.pow(3).mean(0)
    flat = centred.square().mean(0) <= 1e-30 * table.square().mean(0)  # a constant column has rounding, not skew
    skew = torch.where(flat, 0.0, skew)
    skewed = torch.where(skew > 0, right, torch.where(skew < 0, left, left + right))
    return torch.maximum(skewed, (left + right) / 2).sum(1)


def dos_weights(updates: Float[Tensor, "n d"], sharpness: float = 1) -> Float[Tensor, " n"]:
    """DOS: the share of each update in the sum, softmax of minus the mean COPOD score of its two distance rows.

    ``sharpness`` multiplies the score; 2 makes it the sum of both, as its authors' code has it.

    Source: N. Alkhunaizi et al., Suppressing Poisoning Attacks on Federated Learning for Medical Imaging, 2022.
    """
    euclidean, cosine = distance_tables(updates)
    return torch.softmax(-sharpness * (copod(euclidean) + copod(cosine)) / 2, 0)
