"""CEmb-SAM's training: what it learns from, what it leaves alone; the claim's images and arms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.models.base import PluginTests, Trained
from zoo.data.case import Case
from zoo.data.phantoms.ultrasound import ultrasound
from zoo.data.sets import Dataset, Entry
from zoo.data.splits import TrainData
from zoo.errors import DataError
from zoo.models.cemb_sam.claim import GROUPS, SIDE, draw, run
from zoo.models.cemb_sam.claim import told as told_arm
from zoo.models.cemb_sam.data import box_of, conditions_of, load, loosened
from zoo.models.cemb_sam.model import CEmbSamConfig
from zoo.models.cemb_sam.training import (
    CEmbSamRecipe,
    dice_of,
    score,
    told,
    train,
    validation_dice,
)
from zoo.nn.promptable import Box
from zoo.training.run import Run


def dataset(first: int, count: int) -> Dataset:
    cases = [ultrasound(first + i, size=64) for i in range(count)]
    return Dataset("phantom:ultrasound", [Entry(case.id, case) for case in cases])


SMALL = CEmbSamConfig(working_size=64)
DATA = TrainData(dataset(0, 9), dataset(20, 3), dataset(40, 3))


def fit(recipe: CEmbSamRecipe):
    with Run(seed=0, device="cpu", progress=False) as one:
        return train(recipe, DATA, one)


class TestCEmbSam(PluginTests):
    name = "cemb-sam"
    given = ("--with", "box=40,40,90,90")
    facts = {
        "Dice in %, 80 other phantoms with a lesion": "dsc_of_lesions",
        "Dice in %, benign": "dsc_benign",
        "Dice in %, malignant": "dsc_malignant",
        "pixel accuracy in %, 120 other phantoms": "pixel_accuracy",
    }
    facts_on = ("phantom:ultrasound?n=120&seed=20000", "all")

    @pytest.fixture(scope="class")
    @classmethod
    def tiny(cls, tiny_sam: str) -> CEmbSamRecipe:
        return CEmbSamRecipe(sam=tiny_sam, working_size=64, lr=1e-3, epochs=3, batch_size=4)

    @pytest.fixture(scope="class")
    @classmethod
    def parts(cls) -> TrainData:
        return DATA

    def test_block_and_decoder_move_and_the_encoders_stay(self, tiny: CEmbSamRecipe, trained: Trained) -> None:
        untrained = fit(replace(tiny, lr=0.0))
        before, after = untrained.state_dict(), trained.model.state_dict()
        assert {name.split(".")[0] for name in after if not torch.equal(before[name], after[name])} == {
            "block",
            "decoder",
        }
        frozen = untrained.base.sam.state_dict()
        sam = trained.model.base.sam.state_dict()
        assert all(torch.equal(tensor, frozen[name]) for name, tensor in sam.items())

    def test_features_of_the_frozen_encoder_are_kept_beside_the_run(self, trained: Trained) -> None:
        # 9 to train on, and of the 3 to validate on the 2 with a lesion; predictions of other tests may add to them
        assert 11 <= len(list((trained.folder / "embeddings").glob("*.safetensors"))) <= 12
        assert trained.model.config.conditions == ("benign", "malignant", "normal")

    def test_zero_shot_is_sam_as_it_is(self, tiny: CEmbSamRecipe) -> None:
        model = fit(replace(tiny, method="zero-shot"))
        sam = model.base.sam.mask_decoder.state_dict()
        assert all(torch.equal(tensor, sam[name]) for name, tensor in model.decoder.state_dict().items())

    @pytest.mark.parametrize("method", ["decoder-only", "u-net"])
    def test_the_other_arms_train_too(self, tiny: CEmbSamRecipe, method: str) -> None:
        model = fit(replace(tiny, method=method, epochs=1, unet_features=(4, 4, 8, 8, 8, 4)))
        assert model.block is None
        result = model.predict(DATA.test[0].image, **told(DATA.test[0]))
        assert np.isfinite(result.probability).all()

    def test_dice_in_batches_is_that_of_each_and_cases_without_a_lesion_do_not_count(self, trained: Trained) -> None:
        items = [load(case, SMALL) for case in DATA.train]
        each = dice_of(trained.model, items)
        np.testing.assert_allclose(dice_of(trained.model, items, batch_size=4), each, atol=1e-4)
        lesions = [d for d, item in zip(each, items, strict=True) if item.mask.any()]
        assert 0 < len(lesions) < len(items)
        assert validation_dice(trained.model, items) == pytest.approx(np.mean(lesions))
        trained.model.eval()


@given(seed=st.integers(0, 1000), jitter=st.integers(0, 20))
def test_boxes_are_only_ever_loosened_and_stay_on_the_image(seed: int, jitter: int) -> None:
    box = Box(5, 8, 20, 30)
    loose = loosened(box, jitter, (32, 40), np.random.default_rng(seed))
    assert 0 <= loose.x0 <= box.x0
    assert 0 <= loose.y0 <= box.y0
    assert box.x1 <= loose.x1 <= 40
    assert box.y1 <= loose.y1 <= 32
    assert max(box.x0 - loose.x0, box.y0 - loose.y0, loose.x1 - box.x1, loose.y1 - box.y1) <= jitter


def test_a_normal_image_has_the_whole_image_as_its_box() -> None:
    assert box_of(np.zeros((20, 30), bool)) == Box(0, 0, 30, 20)
    case = ultrasound(2, size=64)
    assert case.label == "normal"
    assert told(case) == {"box": ((0, 0, 64, 64),), "condition": "normal"}


@pytest.mark.wrong_types
def test_an_empty_prediction_of_a_normal_image_is_perfect() -> None:
    case = ultrasound(2, size=64)

    class Nothing:
        mask = np.zeros((64, 64), np.uint8)

        def predict(self, image: object, **options: object) -> Nothing:
            return self

    assert score(Nothing(), case, {}) == {"dsc": 100.0, "pixel_accuracy": 100.0, "dsc_normal": 100.0}


def test_sub_groups_come_from_the_cases_in_busis_order_or_sorted() -> None:
    assert conditions_of([ultrasound(i, size=32) for i in (1, 0)]) == ("benign", "malignant", "normal")
    named = [Case(np.zeros((4, 4)), str(i), attributes={"condition": c}) for i, c in enumerate("ba")]
    assert conditions_of(named) == ("a", "b")
    with pytest.raises(DataError, match="states no sub-group"):
        conditions_of([Case(np.zeros((4, 4)), "x")])


def test_cases_that_do_not_fit_are_refused() -> None:
    case = ultrasound(0, size=64)
    with pytest.raises(DataError, match="'benign', which is none of FH, ulnar"):
        load(case, replace(SMALL, conditions=("FH", "ulnar")))
    wrong = Case(case.image[:30], case.id, masks=case.masks, label="benign")
    with pytest.raises(DataError, match="differ in size"):
        load(wrong, replace(SMALL, conditions=("benign",)))


# ---- the claim ----


def test_the_claims_images_follow_their_rules() -> None:
    cases = draw(60, np.random.default_rng(0), homogeneous=False)
    assert {case.attributes["condition"] for case in cases} == set(GROUPS)

    def grey_of_target(some: list[Case], group: str) -> float:
        marked = [case.image[case.masks["mask"] > 0].mean() for case in some if case.attributes["condition"] == group]
        return float(np.mean(marked))

    dark, bright = (grey_of_target(cases, group) for group in GROUPS[:2])
    assert dark < 108 < 148 < bright  # what is marked is dark in one sub-group and bright in the other
    control = draw(60, np.random.default_rng(0), homogeneous=True)
    assert all(grey_of_target(control, group) < 108 for group in GROUPS)  # one rule, whatever the sub-group says


def test_the_claims_arms_differ_in_what_they_are_told() -> None:
    items = [load(case, GROUPS, SIDE) for case in draw(30, np.random.default_rng(1), homogeneous=False)]
    groups = [item.condition for item in items]

    def told_to(arm) -> list[int]:
        return [item.condition for item in told_arm(arm, items, np.random.default_rng(0))]

    assert told_to("cemb") == told_to("dec") == groups
    assert told_to("m1") == [0] * 30
    assert told_to("shuffled") != groups
    assert sorted(told_to("shuffled")) == sorted(groups)


def test_a_quick_claim_goes_through_all_arms_and_is_repeatable() -> None:
    first = run(3, quick=True)
    assert set(first) == {"cemb", "dec", "m1", "shuffled"}
    assert all({"heterogeneous", "homogeneous", "sub-group 2"} <= set(scores) for scores in first.values())
    assert run(3, quick=True) == first
