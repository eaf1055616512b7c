"""Clusters and distances against numpy's and SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis as one_distance

from zoo.nn.mixtures import dissolved, mahalanobis, mixture, principal_axes, shrunk, whitened

RNG = np.random.default_rng(0)
X = RNG.standard_normal((200, 3)) * (3.0, 1.0, 0.3) + (5.0, 0.0, -2.0)


def test_principal_axes_are_ordered_and_have_a_sign():
    mean, axes = principal_axes(torch.from_numpy(X), 2)
    assert np.allclose(mean, X.mean(0))
    assert np.allclose(axes @ axes.T, np.eye(2), atol=1e-12)
    assert axes.abs().argmax(1).tolist() == [0, 1]
    assert (axes.gather(1, axes.abs().argmax(1, keepdim=True)) > 0).all()


@pytest.mark.parametrize("diagonal", [True, False])
def test_distances_are_scipys(diagonal: bool):
    parts = X[:120], X[120:]
    wide = [shrunk(part, 0.2, diagonal) for part in parts]
    centres = torch.from_numpy(np.stack([part.mean(0) for part in parts]))
    known = whitened(centres, torch.from_numpy(np.stack(wide)))
    found = mahalanobis(torch.from_numpy(X[:9]), known)
    for k, spread in enumerate(wide):
        inverse = np.linalg.inv(np.diag(spread) if diagonal else spread)
        assert found[:, k].tolist() == pytest.approx([one_distance(x, centres[k].numpy(), inverse) for x in X[:9]])


def test_shrinkage_keeps_the_mean_variance_and_makes_it_invertible():
    flat = np.repeat(RNG.standard_normal((50, 1)), 3, axis=1)
    for shrinkage in (0.1, 1.0):
        wide = shrunk(flat, shrinkage)
        assert np.trace(wide) == pytest.approx(3 * flat[:, 0].var())
        assert np.linalg.eigvalsh(wide).min() > 0
    assert np.allclose(np.diag(shrunk(X, 0.1)), shrunk(X, 0.1, diagonal=True))


@pytest.mark.parametrize("diagonal", [True, False])
def test_mixtures_tell_groups_apart_and_repeat_themselves(diagonal: bool):
    groups = np.concatenate([X, X + 40])
    found = mixture(groups, 2, diagonal=diagonal)
    assert len(set(found[:200])) == 1
    assert found[0] != found[-1]
    assert (found == mixture(groups * 1e-4, 2, diagonal=diagonal)).all(), "the unit of features decides"
    assert mixture(X, 1).max() == 0
    assert len(set(mixture(X[:4], 7))) == 4


def test_small_clusters_go_to_the_nearest_other_centre():
    x = np.array([[0.0], [1], [2], [9], [10], [11], [4], [40]])
    members = np.array([0, 0, 0, 1, 1, 1, 2, 3])
    assert dissolved(x, members, 2).tolist() == [0, 0, 0, 1, 1, 1, 0, 1]
    assert dissolved(x, members, 1).tolist() == members.tolist()
    assert len(set(dissolved(x, members, 100))) == 1
