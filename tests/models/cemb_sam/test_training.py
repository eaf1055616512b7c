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
from zoo.evaluation import over_rows
from zoo.models.cemb_sam.claim import ARMS, GROUPS, SIDE, draw, run
from zoo.models.cemb_sam.claim import told as told_arm
from zoo.models.cemb_sam.data import box_of, conditions_of, load, loosened
from zoo.models.cemb_sam.model import CEmbSamConfig
from zoo.models.cemb_sam.training import (
    RELEASED_THRESHOLD,
    SHARES,
    CEmbSamRecipe,
    Plateau,
    best_share,
    build,
    dice_of,
    full_logits,
    score,
    told,
    train,
    training,
    validation_dice,
)
from zoo.models.cemb_sam.training import fit as fit_
from zoo.nn.losses import dice_bce
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
        "Dice in %, 30 other phantoms with a lesion": "dsc_of_lesions",
        "Dice in %, benign": "dsc_benign",
        "Dice in %, malignant": "dsc_malignant",
        "pixel accuracy in %, 45 other phantoms": "pixel_accuracy",
    }
    facts_on = ("phantom:ultrasound?n=45&seed=20000&style=both", "all")

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


def test_sams_own_mask_counts_where_the_decoder_learnt_nothing(tiny_sam: str) -> None:
    recipe = CEmbSamRecipe(sam=tiny_sam, working_size=64)
    model = build(recipe, ("benign", "malignant", "normal")).eval()
    items = [load(case, model.config) for case in DATA.train]
    sam = build(replace(recipe, method="decoder-only"), model.config.conditions).eval()
    lesions = [item for item in items if item.mask.any()]
    truth = [replace(item, mask=one > 0) for item, one in zip(lesions, full_logits(sam, lesions), strict=True)]
    with torch.no_grad():  # says "nothing" everywhere
        for mlp in model.decoder.output_hypernetworks_mlps:
            mlp.proj_out.weight.zero_()
            mlp.proj_out.bias.fill_(-1.0)
    assert best_share(model, [item for item in truth if item.mask.any()]) == SHARES[-1]
    assert best_share(sam, truth) == SHARES[-1]  # of equals as much as can be
    assert best_share(model, [replace(items[0], mask=np.zeros((64, 64), bool))]) == 0


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
        config = SMALL

        def predict(self, image: object, **options: object) -> Nothing:
            return self

    row = score(Nothing(), case, {})
    assert {name: value for name, value in row.items() if isinstance(value, float)} == {
        "dsc": 100.0, "pixel_accuracy": 100.0, "dsc_normal": 100.0,
    }  # fmt: skip
    assert row["counts"] == [[64 * 64, 0], [0, 0]]


@pytest.mark.wrong_types
def test_dice_is_also_of_all_pixels_together_and_as_released_of_loosened_boxes() -> None:
    """Masks that fill their boxes: a loosened box costs Dice, and the larger of two objects weighs more when pooled."""
    cases = []
    for i, (side, wrong) in enumerate(((40, 0), (8, 4))):
        mask = np.zeros((64, 64), np.uint8)
        mask[4 : 4 + side, 4 : 4 + side - wrong] = 1  # what is found is a square
        cases.append(Case(np.zeros((64, 64)), str(i), masks={"mask": mask}, label="benign"))

    class Filled:
        def __init__(self, reading: str) -> None:
            self.config = replace(SMALL, reading=reading, working_size=64)

        def predict(self, image: object, *, box: tuple[tuple[int, ...], ...], condition: str) -> Filled:
            ((x0, y0, x1, y1),) = [tuple(map(int, one)) for one in box]
            self.mask = np.zeros((64, 64), np.uint8)
            self.mask[y0:y1, x0 : max(x1, x0 + y1 - y0)] = 1
            return self

    rows = [score(Filled("released"), case, {}) for case in cases]
    assert [row["dsc"] for row in rows] == pytest.approx([100.0, 100 * 64 / 96])
    assert all(row["dsc_of_loosened_boxes"] < row["dsc"] for row in rows)
    assert rows == [score(Filled("released"), case, {}) for case in cases]
    assert "dsc_of_loosened_boxes" not in score(Filled("paper"), cases[0], {})
    found = {metric.name: metric.mean for metric in over_rows(rows)}
    assert found["pooled_dice_object"] == pytest.approx(100 * 2 * 1632 / (1632 + 1664))


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


# ---- the authors' code ----


def test_the_released_reading_is_the_code_at_the_papers_scale() -> None:
    recipe = training.configure("paper", {"recipe": "released"})
    assert (recipe.sam, recipe.working_size, recipe.epochs, recipe.lr) == ("facebook/sam-vit-base", 256, 100, 3e-4)
    assert (recipe.batch_size, recipe.weight_decay, recipe.jitter, recipe.smooth) == (8, 1e-3, 9, 1e-5)
    assert (recipe.soft_masks, recipe.empty_box, recipe.keep) == (True, "centre", "last")
    assert pytest.approx(0.6225, abs=1e-4) == RELEASED_THRESHOLD


def test_a_released_step_feeds_the_encoder_0_to_255_and_learns_soft_masks(tiny_sam: str) -> None:
    recipe = replace(training.configure("paper", {"recipe": "released"}), sam=tiny_sam, working_size=48, epochs=4)
    seen = []
    with Run(seed=0, device="cpu", progress=False) as one:
        one.stage("training")
        model = build(recipe, ("benign", "malignant", "normal"))
        model.base.sam.vision_encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        items = [load(case, model.config, soft=True) for case in DATA.train]
        before = [p.clone() for p in model.parameters()]
        fit_(model, recipe, items, items[:3], one)
    assert min(float(x.min()) for x in seen) >= -0.01  # no mean taken out
    assert 200 < max(float(x.max()) for x in seen) < 255.01
    assert any(((item.target > 0) & (item.target < 1)).any() for item in items)
    assert sum(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)) > 10
    assert model.config.threshold == RELEASED_THRESHOLD


def test_the_rate_falls_after_four_looks_without_a_lower_loss_and_the_fifth_ends_it() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    plateau = Plateau(torch.optim.Adam([weight], lr=1e-3))
    assert not plateau.update(1.0)
    ends = [plateau.update(1.0) for _ in range(5)]
    assert ends == [False, False, False, False, True]
    assert plateau.schedule.optimizer.param_groups[0]["lr"] == pytest.approx(1e-5)


def test_the_loss_of_a_cut_mask_is_that_of_zeros_and_ones_as_logits() -> None:
    target = torch.zeros(1, 1, 4, 4)
    target[..., :2] = 1
    p = torch.sigmoid(target)  # a perfect mask, taken for logits
    entropy = -(0.5 * p.max().log() + 0.5 * (1 - p.min()).log())
    dice_ = 1 - 2 * (p * target).sum() / ((p**2).sum() + target.sum())
    assert float(dice_bce(target, target, squared=True, smooth=1e-5)) == pytest.approx(float(entropy + dice_), abs=1e-4)


# ---- the claim ----


def test_the_claims_sub_groups_differ_in_rule_or_in_look() -> None:
    def of(kind: str, group: str) -> list[Case]:
        return [case for case in draw(90, np.random.default_rng(0), kind) if case.attributes["condition"] == group]

    def grey_of_target(some: list[Case]) -> float:
        return float(np.mean([case.image[case.masks["mask"] > 0].mean() - case.image.mean() for case in some]))

    rules = [grey_of_target(of("rules", group)) for group in GROUPS[:2]]
    assert rules[0] < -20 < 20 < rules[1]  # what is marked is dark in one sub-group and bright in the other
    looks = [of("appearance", group) for group in GROUPS]
    assert all(grey_of_target(some) < -10 for some in looks)  # one rule, whatever the sub-group
    levels = [np.mean([case.image.mean() for case in some]) for some in looks]
    gains = [np.mean([case.image[32:].mean() - case.image[:32].mean() for case in some]) for some in looks]
    assert levels[1] > levels[0] + 30 > levels[2]
    assert gains[0] < -15 < 15 < gains[2]


def test_the_claims_arms_differ_in_what_they_are_told() -> None:
    config = CEmbSamConfig(conditions=GROUPS, working_size=SIDE)
    items = [load(case, config) for case in draw(30, np.random.default_rng(1), "rules")]
    groups = [item.condition for item in items]

    def told_to(arm: str) -> list[int]:
        return [item.condition for item in told_arm(arm, items, np.random.default_rng(0))]

    assert told_to("cemb") == told_to("dec") == told_to("released") == groups
    assert told_to("m1") == told_to("released m1") == [0] * 30
    assert told_to("shuffled") != groups
    assert sorted(told_to("shuffled")) == sorted(groups)


def test_the_claims_arms_have_one_budget_and_both_readings() -> None:
    assert {(a.epochs, a.batch_size, a.lr, a.jitter) for a in ARMS.values()} == {(6, 8, 1e-3, 4)}
    assert {name for name, arm in ARMS.items() if arm.recipe == "released"} == {"released", "released m1"}
    assert ARMS["released"].soft_masks


@pytest.mark.slow
def test_a_quick_claim_goes_through_all_arms_and_is_repeatable() -> None:
    first = run(3, quick=True)
    assert set(first) == set(ARMS)
    assert all(set(scores) == {"appearance", "rules"} for scores in first.values())
    assert run(3, quick=True) == first
