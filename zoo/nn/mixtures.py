"""Features as clusters: principal axes, Gaussian mixtures, shrunk covariances, Mahalanobis distances."""

from __future__ import annotations

import warnings
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.errors import MissingExtraError

Start = Literal["k-means++", "random_from_data"]


class Whitened(NamedTuple):
    """Clusters, ready for many distances: ``factor`` is the inverse of the Cholesky factor of each covariance."""

    centre: Float[Tensor, "k d"]
    factor: Float[Tensor, "k d d"]


def principal_axes(z: Float[Tensor, "n f"], most: int) -> tuple[Float[Tensor, " f"], Float[Tensor, "d f"]]:
    """Mean and at most so many principal axes, the widest first; the largest entry of each is positive."""
    x = z.double()
    mean = x.mean(0)
    _, vectors = torch.linalg.eigh((x - mean).T @ (x - mean))
    axes = vectors.T.flip(0)[:most]
    signs = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    return mean, axes * torch.where(signs == 0, torch.ones_like(signs), signs)


def mixture(
    x: Float[np.ndarray, "n d"], k: int, *, diagonal: bool = False, start: Start = "k-means++"
) -> Int[np.ndarray, " n"]:
    """To which component of a Gaussian mixture each sample belongs, by scikit-learn from a fixed seed.

    More components than samples: each sample is a component. Raises ``MissingExtraError`` without scikit-learn.
    """
    if k == 1 or k > len(x):
        return np.zeros(len(x), int) if k == 1 else np.arange(len(x))
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture
    except ImportError as error:
        raise MissingExtraError("clusters by Gaussian mixtures", "scikit-learn", "train") from error
    scale = max(float(x.std()), 1e-12)  # the floor of variances is a number, whatever the unit of x
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = GaussianMixture(
            k, covariance_type="diag" if diagonal else "full", reg_covar=1e-4, init_params=start, random_state=0
        )
        return fitted.fit_predict(x / scale)


def dissolved(x: Float[np.ndarray, "n d"], members: Int[np.ndarray, " n"], fewest: int) -> Int[np.ndarray, " n"]:
    """``members`` without clusters of fewer samples: the smallest goes first, its samples to the nearest other centre.

    So every sample stays in a cluster that describes it. The last cluster stays whatever its size.
    """
    members = members.copy()
    while True:
        known, sizes = np.unique(members, return_counts=True)
        if len(known) == 1 or sizes.min() >= fewest:
            return members
        smallest, others = known[sizes.argmin()], np.delete(known, sizes.argmin())
        centres = np.stack([x[members == one].mean(0) for one in others])
        own = members == smallest
        members[own] = others[((x[own, None] - centres) ** 2).sum(2).argmin(1)]


def shrunk(
    members: Float[np.ndarray, "m d"], shrinkage: float, diagonal: bool = False
) -> Float[np.ndarray, "d d"] | Float[np.ndarray, " d"]:
    """Covariance (its diagonal), drawn by ``shrinkage`` in [0, 1] towards its mean variance so that it's invertible."""
    centred = members - members.mean(0)
    if diagonal:
        spread = (centred**2).mean(0)
        return (1 - shrinkage) * spread + shrinkage * max(float(spread.mean()), 1e-8)
    wide = centred.T @ centred / len(members)
    level = max(float(np.trace(wide)) / len(wide), 1e-8)
    return (1 - shrinkage) * wide + shrinkage * level * np.eye(len(wide))


def whitened(centre: Float[Tensor, "k d"], covariance: Float[Tensor, "k d d"] | Float[Tensor, "k d"]) -> Whitened:
    """Of clusters with whole covariances, or with their diagonals."""
    wide = (covariance if covariance.ndim == 3 else torch.diag_embed(covariance)).double()
    eye = torch.eye(wide.shape[-1], dtype=wide.dtype, device=wide.device).expand_as(wide)
    factor = torch.linalg.solve_triangular(torch.linalg.cholesky(wide), eye, upper=False)
    return Whitened(centre, factor.to(centre))


def mahalanobis(x: Float[Tensor, "n d"], known: Whitened) -> Float[Tensor, "n k"]:
    """``sqrt((x - mean)^T covariance^-1 (x - mean))`` of every sample to every cluster."""
    rotated = torch.einsum("kij,nj->nki", known.factor, x) - torch.einsum("kij,kj->ki", known.factor, known.centre)
    return rotated.norm(dim=2)
