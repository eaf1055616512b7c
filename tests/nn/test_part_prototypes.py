"""ProtoPNet is what it's called; heads on similarities; k-means."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zoo.data.images import ImageSet, normalise
from zoo.nn.backbones import Small
from zoo.nn.part_prototypes import MaskedHead, ProtoPNet, cluster_centres


def backbone() -> Small:
    torch.manual_seed(0)
    return Small((8, 16), pooled=False)


def protopnet(classes: int, k: int) -> ProtoPNet:
    return ProtoPNet(backbone(), 16, 12, classes, k)


def random_images() -> ImageSet:
    rng = np.random.default_rng(0)
    views = [rng.integers(0, 256, (48, 48, 3)).astype(np.uint8) for _ in range(16)]
    return ImageSet.of(views, [i % 8 for i in range(16)], empty=(3, 48, 48))


def test_protopnet_starts_with_its_classes_apart():
    net = protopnet(8, 3)
    weight = net.head.weight
    assert weight.shape == (8, 24)
    own = net.owner == torch.arange(8)[:, None]
    assert (weight[own] == 1).all()
    assert (weight[~own] == -0.5).all()


def test_cluster_and_separation_costs_by_hand():
    net = protopnet(2, 2)
    distance = torch.tensor([[1.0, 2.0, 3.0, 0.5], [4.0, 3.0, 2.0, 5.0]])
    cluster, separation, l1 = net.costs(distance, torch.tensor([0, 1]))
    assert cluster.item() == pytest.approx((1 + 2) / 2)
    assert separation.item() == pytest.approx((0.5 + 3) / 2)
    assert l1.item() == pytest.approx(4 * 0.5)


@torch.no_grad()
def test_a_pushed_prototype_is_a_training_patch_of_its_class():
    net = protopnet(8, 3).eval()
    images = random_images()
    net.push(images, torch.device("cpu"), net.owner)
    x, y = images.batch(range(len(images)), torch.device("cpu"))
    distance = net.distances(normalise(x))
    own = y[:, None] == net.owner
    assert torch.allclose(distance.masked_fill(~own, torch.inf).min(0).values, torch.zeros(24), atol=1e-4)


def test_a_masked_column_decides_nothing_and_the_others_share_its_weight():
    own = torch.tensor([[True, True, False, False], [False, False, True, True]])
    head = MaskedHead(torch.tensor([True, True, False, True]), own, 0.5)
    head.share_among_kept(2)
    assert head.effective.tolist() == [[0.5, 0.5, 0, 0], [0, 0, 0, 1]]
    assert torch.equal(head(torch.tensor([[1.0, 1.0, 9.0, 1.0]])), torch.ones(1, 2))


def test_k_means_finds_two_heaps_and_repeats_what_is_too_little():
    rng = np.random.default_rng(0)
    heaps = np.concatenate([rng.normal(0, 0.1, (20, 3)), rng.normal(5, 0.1, (20, 3))])
    assert np.sort(cluster_centres(heaps, 2, rng).mean(1)) == pytest.approx([0, 5], abs=0.2)
    assert cluster_centres(heaps[:1], 3, rng).shape == (3, 3)
