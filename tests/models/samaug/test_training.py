"""SAMAug's networks, strategies, losses and data; the claim's arms."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from zoo.data.phantoms.he_tile import he_tile
from zoo.models.samaug import claim
from zoo.models.samaug.hsnet import HSNet
from zoo.models.samaug.model import PNet, SamaugConfig, entropy, instances, margin, tau
from zoo.models.samaug.training import SamaugRecipe, build, draw, load, rimmed, structure_loss
from zoo.nn.promptable import Grid

SMALL = {"features": (4, 4, 8, 8, 8, 4), "sam": "demo", "grid": Grid(points=3, quality=0.2, stability=0.2), "size": 32}
TINY = SamaugRecipe(**SMALL, inputs="both", batch_size=2, steps=6, lr=1e-2)


# ---- networks ----


def test_p_net_keeps_the_resolution_and_sees_as_far_as_its_dilations() -> None:
    net = PNet(3, 4).eval()
    for weight in net.parameters():
        weight.data.abs_()  # so that no path is cut by a ReLU
    x = torch.ones(1, 3, 200, 200, requires_grad=True)
    net(x)[0, 0, 100, 100].backward()
    reach = torch.nonzero(x.grad[0].abs().sum(0))[:, 0]
    assert 100 - int(reach.min()) == 2 * 1 + 2 * 2 + 3 * 4 + 3 * 8 + 3 * 16
    assert sum(isinstance(m, torch.nn.Conv2d) for m in net.blocks.modules()) == 13


def test_hsnet_gives_four_maps_of_the_inputs_size_and_reads_its_query_in_another_order() -> None:
    torch.manual_seed(0)
    net = HSNet("pvt_v2_b0").eval()
    with torch.no_grad():
        maps = net(torch.randn(1, 3, 64, 96))
    assert [tuple(one.shape) for one in maps] == [(1, 1, 64, 96)] * 4
    step = net.steps[2]
    with torch.no_grad():
        assert step(torch.randn(2, step.embed.in_channels, 4, 6)).shape[2:] == (8, 12)


# ---- equations ----


def test_entropy_is_highest_where_nothing_is_known_and_sums_both_sides_of_a_single_map() -> None:
    assert entropy(torch.full((4, 2, 2), 0.25)) == pytest.approx(math.log(4), abs=1e-5)
    assert entropy(torch.full((1, 2, 2), 0.5)) == pytest.approx(math.log(2), abs=1e-5)
    assert entropy(torch.ones(1, 2, 2)) == pytest.approx(0, abs=1e-5)
    assert margin(torch.tensor([[[0.2, 0.4]]])) == pytest.approx(0.5, abs=1e-5)  # stretched to 0 and 1


def test_the_mean_strategy_sums_logits_before_the_activation() -> None:
    raw, aug = torch.randn(1, 3, 3), torch.randn(1, 3, 3)
    odds = torch.exp(raw) * torch.exp(aug)
    torch.testing.assert_close(tau(raw + aug), odds / (1 + odds))


def test_structure_loss_is_cross_entropy_and_iou_weighted_at_borders() -> None:
    y = torch.zeros(1, 1, 40, 40)
    y[..., :20] = 1
    logits = torch.randn(1, 1, 40, 40)
    plain = structure_loss(logits, y, weighted=False)
    p = logits.sigmoid()
    iou = ((p * y).sum() + 1) / ((p + y - p * y).sum() + 1)
    torch.testing.assert_close(plain, F.binary_cross_entropy_with_logits(logits, y) + 1 - iou)
    perfect = structure_loss(40 * (2 * y - 1), y, weighted=True)
    assert float(perfect) == pytest.approx(0, abs=1e-4)
    assert not torch.isclose(structure_loss(logits, y, weighted=True), plain)


def test_a_rim_parts_touching_objects_and_instances_give_it_back() -> None:
    objects = np.zeros((12, 20), int)
    objects[2:10, 2:10], objects[2:10, 10:18] = 5, 9
    target = rimmed(objects, 1)
    assert (target[:, 9:11][2:10] == 2).all()  # between the two
    assert (target[3:9, 3:9] == 1).all()
    found = instances(target == 1, target > 0, least=4, border=1)
    assert found.max() == 2
    np.testing.assert_array_equal(found > 0, objects > 0)
    assert instances(target == 1, target > 0, least=40, border=1).max() == 0


def test_crops_move_priors_and_target_with_the_image() -> None:
    item = load(he_tile(3, size=48), replace(TINY, inputs="raw"), None)
    item = replace(item, priors=np.stack([item.rgb[..., 0] / 255.0, item.target]).astype(np.float32))
    x, priors, y, _ = draw([item], np.array([0, 0, 0]), TINY, np.random.default_rng(0))
    torch.testing.assert_close(priors[:, 0], x[:, 0])
    torch.testing.assert_close(priors[:, 1:], y)


def test_nuclei_are_normalised_by_what_the_network_sees() -> None:
    item = load(he_tile(3, size=48), replace(TINY, inputs="raw"), None)
    marked = replace(item, priors=np.ones((2, 48, 48), np.float32))
    raw, aug = (build(replace(TINY, inputs=i), [marked]).config for i in ("raw", "aug"))
    assert aug.mean == pytest.approx((raw.mean[0], raw.mean[1] + 1, raw.mean[2] + 1), abs=1e-5)
    assert SamaugConfig(task="polyp").mean == (0.485, 0.456, 0.406)


# ---- the claim ----


def test_the_claims_targets_and_distractors_have_one_colour() -> None:
    scenes = [claim.scene(np.random.default_rng(i), "x") for i in range(6)]
    for case in scenes:
        assert 3 <= case.masks["instances"].max() <= 6
    wanted = np.concatenate([case.image[case.masks["mask"] > 0] for case in scenes]).mean(0)
    rest = np.concatenate([case.image[case.masks["mask"] == 0] for case in scenes]).mean(0)
    assert (wanted < rest).all()


def test_a_quick_claim_goes_through_all_arms_and_is_repeatable() -> None:
    first = claim.run(3, quick=True)
    assert set(first) == {"samaug", "raw", "shuffled", "sam alone"}
    assert claim.run(3, quick=True) == first
