"""Black box, ProtoPNet and ProtoTree are what they're called."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from zoo.data.images import normalise, over_images
from zoo.models.local_global_prototypes import baselines
from zoo.models.local_global_prototypes.claim import TEXTURES, draw_set
from zoo.models.local_global_prototypes.claim import claim as the_claim
from zoo.training import Run


def test_protopnet_starts_with_its_classes_apart(tiny):
    net = baselines.ProtoPNet(tiny.network)
    weight = net.head.weight
    assert weight.shape == (8, 24)
    own = net.owner == torch.arange(8)[:, None]
    assert (weight[own] == 1).all()
    assert (weight[~own] == -0.5).all()


def test_cluster_and_separation_costs_by_hand(tiny):
    net = baselines.ProtoPNet(replace(tiny.network, labels=("a", "b"), prototypes=2))
    distance = torch.tensor([[1.0, 2.0, 3.0, 0.5], [4.0, 3.0, 2.0, 5.0]])
    cluster, separation, l1 = net.costs(distance, torch.tensor([0, 1]))
    assert cluster.item() == pytest.approx((1 + 2) / 2)
    assert separation.item() == pytest.approx((0.5 + 3) / 2)
    assert l1.item() == pytest.approx(4 * 0.5)


@torch.no_grad()
def test_a_pushed_prototype_is_a_training_patch_of_its_class(tiny, images):
    net = baselines.ProtoPNet(tiny.network).eval()
    net.push(images, torch.device("cpu"), net.owner)
    x, y = images.batch(range(len(images)), torch.device("cpu"))
    distance = net.distances(normalise(x))
    own = y[:, None] == net.owner
    assert torch.allclose(distance.masked_fill(~own, torch.inf).min(0).values, torch.zeros(24), atol=1e-4)


@torch.no_grad()
def test_the_paths_of_a_tree_cover_everything(tiny):
    tree = baselines.ProtoTree(tiny.network, depth=4).eval()
    reach = tree.paths(torch.randn(3, 3, 48, 48))
    assert reach.shape == (3, 16)
    assert torch.allclose(reach.sum(1), torch.ones(3), atol=1e-5)
    assert torch.allclose(tree.probabilities(torch.randn(2, 3, 48, 48)).sum(1), torch.ones(2), atol=1e-5)


def test_a_leaf_learns_who_arrives_there(tiny):
    tree = baselines.ProtoTree(replace(tiny.network, labels=("a", "b")), depth=1)
    reach, y = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0, 1])
    for _ in range(30):
        tree.update_leaves(reach, y, torch.ones(3), share=0.5)
    assert torch.allclose(tree.distributions, torch.eye(2), atol=1e-2)


@pytest.mark.parametrize("fit", [baselines.fit_black_box, baselines.fit_protopnet, baselines.fit_prototree])
def test_a_baseline_learns(tiny, images, fit):
    recipe = replace(tiny, epochs=25, lr_branch=1e-2, augment="none")
    arguments = {"depth": 4} if fit is baselines.fit_prototree else {}
    with Run(None, seed=0, device="cpu", progress=False) as run:
        net = fit(recipe, images, run, **arguments)
        found = over_images(net, net.probabilities, images, run.device)
    assert torch.allclose(found.sum(1), torch.ones(48), atol=1e-4)
    assert (found.argmax(1) == images.y).float().mean() > 0.2  # chance is 0.125


def test_the_generator_draws_what_the_claim_says():
    import numpy as np

    images = draw_set((3, 2, 1, 1, 1), np.random.default_rng(0))
    assert images.views.shape == (8, 3, 32, 32)
    assert images.y.tolist() == [0, 0, 0, 1, 1, 2, 3, 4]
    again = draw_set((3, 2, 1, 1, 1), np.random.default_rng(0))
    assert torch.equal(images.views, again.views)
    assert len(TEXTURES) == 5


def test_the_claim_states_its_margins_and_the_bound():
    assert (the_claim.primary.method, the_claim.primary.baseline) == ("joint", "black box")
    assert the_claim.primary.tolerance == 0.01
    assert the_claim.secondary[0].margin == 0.03
    assert "0.65" in the_claim.statement  # e / (e + 4 / e)
    assert len(the_claim.seeds) >= 5
