"""SAMAug's networks, strategies, losses and data; the claim's images."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.models.base import Trained
from tests.models.promptable import FrozenEncoderTests
from zoo.data.phantoms.he_tile import he_tile
from zoo.data.sets import load_dataset
from zoo.data.splits import TrainData
from zoo.errors import OptionError
from zoo.models.samaug import claim
from zoo.models.samaug.hsnet import HSNet
from zoo.models.samaug.model import PNet, Samaug, SamaugConfig, entropy, instances, margin, tau
from zoo.models.samaug.training import (
    POLYP,
    RELEASED_POLYP,
    SamaugRecipe,
    build,
    draw,
    load,
    rimmed,
    score,
    structure_loss,
    train,
)
from zoo.nn.promptable import Grid
from zoo.training.run import Run

SMALL = {"features": (4, 4, 8, 8, 8, 4), "grid": Grid(points=3, quality=-1e9, stability=0.0), "size": 32}
DATA = TrainData(*(load_dataset(f"phantom:he-tile?n={n}&size=48&seed={s}") for n, s in ((3, 0), (1, 10), (1, 20))))


def fit(recipe: SamaugRecipe) -> Samaug:
    with Run(seed=0, device="cpu", progress=False) as one:
        return train(recipe, DATA, one)


TINY = SamaugRecipe(**SMALL, inputs="both", batch_size=2)


class TestSamaug(FrozenEncoderTests):
    name = "samaug"
    owns = {"network"}
    any_sam = True
    encoded = 3
    evaluated_on = "phantom:he-tile?n=2&seed=77000&size=128"
    facts = {"AJI in %, 6 other phantoms": "aji", "pixel F1 in %, 6 other phantoms": "pixel_f1"}
    facts_on = ("phantom:he-tile?n=6&seed=20000", "all")

    @pytest.fixture(scope="class")
    @classmethod
    def tiny(cls, tiny_sam: str) -> SamaugRecipe:
        return SamaugRecipe(**SMALL, sam=tiny_sam, inputs="both", batch_size=2, steps=6, lr=1e-2)

    @pytest.fixture(scope="class")
    @classmethod
    def parts(cls) -> TrainData:
        return DATA

    def sam_of(self, model):
        return model.priors.base.sam

    def test_strategies_answer_from_what_they_say(self, trained: Trained) -> None:
        case = DATA.test[0]
        aug, mean = (trained.model.predict(case.image, strategy=s) for s in ("aug", "mean"))
        chosen = trained.model.predict(case.image)
        assert aug.chosen == "aug"
        assert mean.chosen == "mean"
        assert chosen.chosen == min(chosen.entropy, key=chosen.entropy.get)  # both inputs were trained on: Eq. 6
        assert not np.array_equal(aug.probability, mean.probability)
        assert {"raw", "aug"} == set(chosen.entropy)

    def test_both_inputs_are_shown_whichever_was_chosen(self, trained: Trained) -> None:
        for strategy, other in (("aug", "raw image"), ("mean", "raw image"), ("entropy", None)):
            found = trained.model.predict(DATA.test[0].image, strategy=strategy)
            assert set(found.masks) == {"raw", "aug"}
            other = other or {"raw": "augmented image", "aug": "raw image"}[found.chosen]
            titles = [panel.title for panel in found.panels()]
            assert titles[0] == "image"
            assert titles[3] == "augmented image"
            assert titles[5] == f"the same network on the {other}"

    def test_saved_priors_or_sams_masks_give_the_same_prediction_without_sam(self, trained: Trained, tmp_path: Path):
        image, model = DATA.test[0].image, Samaug(trained.model.config).eval()
        model.load_state_dict(trained.model.state_dict())
        first = trained.model.predict(image)
        first.save(tmp_path, "r")
        model._sam = lambda: pytest.fail("SAM was loaded")  # type: ignore[method-assign]
        again = model.predict(image, priors=str(tmp_path / "r_priors.safetensors"))
        np.testing.assert_allclose(again.probability, first.probability, atol=2e-3)  # stored in half precision
        assert again.sam_masks is None
        square = {"segmentation": {"size": [48, 48], "counts": [480, 24, 24, 24, 1752]}, "stability_score": 0.9}
        (tmp_path / "masks.json").write_text(json.dumps([square]))
        drawn = model.predict(image, sam_masks=str(tmp_path / "masks.json"))
        assert drawn.sam_masks == 1
        assert drawn.priors[0].sum() == pytest.approx(48 * 0.9, rel=1e-4)
        with pytest.raises(OptionError, match="not both"):
            model.predict(image, priors=str(tmp_path / "r_priors.safetensors"), sam_masks=str(tmp_path / "masks.json"))

    @pytest.mark.parametrize("network", ["p-net", "attention-u-net"])
    def test_the_other_networks_train_too_and_the_baseline_needs_no_sam(self, network, monkeypatch) -> None:
        monkeypatch.setattr(Samaug, "_sam", lambda self: pytest.fail("SAM was loaded"))
        model = fit(SamaugRecipe(**SMALL, network=network, inputs="raw", batch_size=2, steps=2))
        found = model.predict(DATA.test[0].image, strategy="mean")
        assert found.chosen == "raw"
        assert "strategy mean was not used" in found.notes[0]
        assert set(score(model, DATA.test[0], {})) == {"pixel_f1", "aji", "object_f1", "object_dice"}

    @pytest.mark.parametrize("how", [POLYP, RELEASED_POLYP])
    def test_polyps_are_trained_by_both_recipes(self, how, tiny_sam: str) -> None:
        changes = SMALL | {
            "sam": tiny_sam,
            "backbone": "pvt_v2_b0",
            "pretrained": False,
            "epochs": 0,
            "steps": 1,
            "batch_size": 2,
        }
        model = fit(SamaugRecipe(**how | changes))
        found = model.predict(DATA.test[0].image)
        assert found.instances is None
        assert set(score(model, DATA.test[0], {})) == {"dice", "soft_dice"}
        assert model.config.fuse_first is (how is POLYP)

    def test_grey_images_and_small_ones_are_taken(self, trained: Trained) -> None:
        grey = DATA.test[0].image[:20, :30, 0]
        found = trained.model.predict(grey)
        assert found.mask.shape == (20, 30)
        np.testing.assert_array_equal(found.augmented[..., 0], grey)


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
