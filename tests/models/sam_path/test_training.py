"""SAM-Path's losses, data and measures; the claim's images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.models.base import Trained
from tests.models.promptable import FrozenEncoderTests
from zoo.data.case import Case
from zoo.data.phantoms.he_tile import he_tile
from zoo.data.sets import load_dataset
from zoo.data.splits import TrainData
from zoo.errors import DataError
from zoo.metrics import dice
from zoo.models.sam_path import claim
from zoo.models.sam_path.model import ClassMasks
from zoo.models.sam_path.training import (
    TISSUE,
    Item,
    SamPathRecipe,
    augmented,
    build,
    classes_of,
    dots,
    load,
    loss_of,
    rate,
    score,
)

RECIPE = SamPathRecipe(labels=("unlabelled", "a", "b"), alpha=0.25, beta=0.5)
DATA = TrainData(*(load_dataset(f"phantom:he-tile?n={n}&size=64&seed={s}") for n, s in ((3, 0), (1, 10), (1, 20))))


class TestSamPath(FrozenEncoderTests):
    name = "sam-path"
    owns, aside = {"neck", "decoder"}, {"pathology"}
    encoded, views = 3, 8
    evaluated_on = "phantom:he-tile?n=2&seed=77000&size=128"
    facts = {"pixel accuracy in %, 12 other phantoms, pooled": "pooled_pixel_accuracy"}
    facts_on = ("phantom:he-tile?n=12&seed=20000", "all")

    @pytest.fixture(scope="class")
    @classmethod
    def tiny(cls, tiny_sam: str) -> SamPathRecipe:
        return SamPathRecipe(
            labels=TISSUE, sam=tiny_sam, pathology="small", pathology_width=8, pretraining=2, tile=64, mpp=None,
            augment="turns", lr=1e-2, batch_size=2, steps=6, warmup=2, decays=(4, 0),
        )  # fmt: skip

    @pytest.fixture(scope="class")
    @classmethod
    def parts(cls) -> TrainData:
        return DATA

    def test_a_case_is_measured_by_exact_names_and_counts(self, trained: Trained) -> None:
        row = score(trained.model, DATA.test[0], {})
        assert {"pixel_accuracy", "macro_dice", "dice_tumour", "iou_nucleus", "recall_stroma"} <= set(row)
        assert np.sum(row["counts"]) == 64 * 64
        assert row["labels"] == list(TISSUE)

    def test_vanilla_sam_is_measured_with_a_point_in_each_object(self, trained: Trained) -> None:
        case = DATA.test[0]
        with pytest.raises(DataError, match="know no class"):
            score(trained.model, case, {"mode": "vanilla"})
        truth = np.zeros((64, 64), np.uint8)
        truth[4:21, 8:25] = truth[40:51, 30:41] = 1
        assert dots(Case(case.image, "x", {"mask": truth}), ("background", "gland")) == ((16, 12), (35, 45))
        numbered = Case(case.image, "x", {"mask": truth, "instances": np.ones((64, 64), np.uint8)})
        assert len(dots(numbered, ("background", "gland"))) == 1
        model = build(replace(RECIPE, labels=("background", "gland"), ignored=False, sam=trained.model.config.sam))
        found = model.predict(case.image, mode="vanilla", point=((16, 12), (35, 45)), drop_large=True).mask
        row = score(model, Case(case.image, "x", {"mask": truth}), {"mode": "vanilla", "drop_large": True})
        assert row["dice_gland"] == pytest.approx(100 * dice(found > 0, truth > 0))


# ---- Eq. 3 ----


def masks(seed: int, maps: int) -> tuple[ClassMasks, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, maps, 6, 6, generator=generator)
    return ClassMasks(logits, torch.rand(2, maps, generator=generator)), torch.randint(
        0, 3, (2, 6, 6), generator=generator
    )


def test_the_loss_of_the_text_is_equation_3_written_out() -> None:
    found, y = masks(0, 2)
    p, total = found.logits.softmax(1), 0.0
    for b in range(2):
        known = y[b] > 0
        for k in range(2):
            q, t = p[b, k][known], (y[b] == k + 1)[known].float()
            dice = 1 - (2 * (q * t).sum() + 1) / (q.sum() + t.sum() + 1)
            right = q * t + (1 - q) * (1 - t)
            focal = (-((1 - right) ** 2) * right.log()).mean()
            hard = q >= 0.5
            iou = (hard & (t > 0)).sum() / ((hard | (t > 0)).sum() + 1e-7)
            total += (0.75 * dice + 0.25 * focal + 0.5 * (found.quality[b, k] - iou) ** 2) / 2
    assert float(loss_of(found, y, RECIPE)) == pytest.approx(float(total), rel=1e-5)


def test_unlabelled_pixels_change_nothing_in_the_loss_of_the_text() -> None:
    found, y = masks(1, 2)
    other = found.logits + 5 * torch.randn(2, 2, 6, 6) * (y == 0)[:, None]
    assert float(loss_of(ClassMasks(other, found.quality), y, RECIPE)) == pytest.approx(
        float(loss_of(found, y, RECIPE)), rel=1e-5
    )


def test_the_loss_of_the_code_is_means_with_a_sigmoid_focal_term() -> None:
    found, y = masks(2, 3)
    y = y.clamp_min(1)  # all labelled
    one_hot = F.one_hot(y, 3).movedim(-1, 1).float()[:, 1:]
    p, logits = found.logits.softmax(1)[:, 1:], found.logits[:, 1:]
    dice = 1 - (2 * (p * one_hot).sum((2, 3)) + 1e-5) / (p.sum((2, 3)) + one_hot.sum((2, 3)) + 1e-5)
    cross = F.binary_cross_entropy_with_logits(logits, one_hot, reduction="none")
    focal = (1 - torch.exp(-cross)) ** 2 * cross
    hard = (p >= 0.5).float()
    both = (hard * one_hot).sum((2, 3))
    iou = both / (hard.sum((2, 3)) + one_hot.sum((2, 3)) - both + 1e-7)
    expected = 0.75 * dice.mean() + 0.25 * focal.mean() + 0.5 * ((found.quality[:, 1:] - iou) ** 2).mean()
    recipe = replace(RECIPE, loss="code", dummy=True)
    assert float(loss_of(found, y, recipe)) == pytest.approx(float(expected), rel=1e-5)


def test_without_unlabelled_pixels_a_dummy_map_is_one_more_and_never_right() -> None:
    found, y = masks(3, 4)
    recipe = replace(RECIPE, labels=("background", "gland", "lumen"), ignored=False, dummy=True, loss="code")
    best = torch.full((2, 4, 6, 6), -30.0).scatter(1, (y + 1)[:, None], 30.0)
    ideal = loss_of(ClassMasks(best, torch.ones(2, 4)), y, replace(recipe, beta=0.0))
    assert float(ideal) == pytest.approx(0, abs=1e-4)
    assert float(loss_of(found, y, recipe)) > 0.1


def test_the_rate_warms_up_and_falls_twice() -> None:
    recipe = SamPathRecipe()
    assert [rate(step, recipe) for step in (0, 71, 1799, 1800, 2088)] == pytest.approx([1 / 72, 1, 1, 0.1, 0.01])


# ---- data ----


def test_large_images_are_cut_evenly_and_empty_tiles_left_out() -> None:
    image = np.arange(100 * 150 * 3, dtype=np.uint32).reshape(100, 150, 3).astype(np.uint8)
    truth = np.zeros((100, 150), np.uint8)
    truth[:, :20] = 1
    items = load(Case(image, "x", {"mask": truth}), replace(RECIPE, tile=64))
    assert len(items) == 2  # of 2 x 3
    np.testing.assert_array_equal(items[1].rgb, image[36:, :64])
    (whole,) = load(Case(image, "x", {"mask": truth}), replace(RECIPE, tile=64, whole=True))
    assert whole.rgb.shape == (64, 64, 3)
    (small,) = load(Case(image[:40, :30], "x", {"mask": truth[:40, :30]}), replace(RECIPE, tile=64))
    assert small.truth.shape == (64, 64)


def test_the_phantoms_nests_and_nuclei_are_classes() -> None:
    case = he_tile(20, size=64)
    found = classes_of(case, TISSUE)
    assert (found[case.masks["mask"] > 0] == 3).all()
    assert set(np.unique(found)) <= {1, 2, 3}
    with pytest.raises(DataError, match="has the class 9, beyond the 3"):
        classes_of(Case(case.image, "x", {"mask": np.full((64, 64), 9)}), ("u", "a", "b"))


@pytest.mark.parametrize("how", ["none", "turns", "crops"])
def test_augmentation_moves_pixels_and_classes_alike(how: str) -> None:
    truth = np.kron(np.random.default_rng(0).integers(1, 4, (8, 8)), np.ones((8, 8))).astype(np.uint8)
    item = Item(np.repeat(60 * truth[..., None], 3, 2), truth)
    rng = np.random.default_rng(1)
    for _ in range(4):
        moved = augmented(item, how, rng)
        assert moved.rgb.shape == (64, 64, 3)
        inner = [moved.rgb[moved.truth == k].mean() for k in np.unique(moved.truth)]
        assert inner == sorted(inner)


# ---- the claim ----


def test_the_claims_textures_differ_in_frequency_and_not_in_colour() -> None:
    items = [claim.scene(np.random.default_rng(i)) for i in range(8)]
    for item in items:
        means = [item.rgb[item.truth == k].mean() for k in np.unique(item.truth)]
        assert np.ptp(means) < 8
    low, high = (claim.texture(f, 0.0, np.random.default_rng(0)) for f in claim.FREQUENCIES)
    assert np.abs(np.diff(low, axis=1)).mean() < 0.8 * np.abs(np.diff(high, axis=1)).mean()
    assert np.abs(np.diff(low, axis=0)).mean() < np.abs(np.diff(low, axis=1)).mean()
