"""How far updates lie from each other, and the outlier scores that aggregators make of it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from zoo.errors import DataError
from zoo.ops import prototype_similarity

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


def dos_weights(updates: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """DOS: the share of each update in the sum, softmax of minus the mean COPOD score of its two distance rows.

    Source: N. Alkhunaizi et al., Suppressing Poisoning Attacks on Federated Learning for Medical Imaging, 2022.
    """
    euclidean, cosine = distance_tables(updates)
    return torch.softmax(-(copod(euclidean) + copod(cosine)) / 2, 0)
