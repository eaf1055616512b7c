"""SurgicalSAM's training, and how it is measured."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.models.base import Trained
from tests.models.promptable import PromptableTests
from zoo.data.case import Case
from zoo.data.phantoms.surgical_frame import surgical_frame
from zoo.errors import DataError
from zoo.models.surgical_sam_lora.training import (
    Item,
    SurgicalSamRecipe,
    augmented,
    build,
    instrument_scores,
    load,
    loss_of,
    rate,
    score,
    tensors,
    told,
)
from zoo.models.surgical_sam_lora.training import training as procedure
from zoo.training import Run

CLASSES = ("a", "b", "c")


class TestSurgicalSam(PromptableTests):
    name = "surgical-sam-lora"
    owns = {"updates", "decoder", "default"}
    data = "phantom:surgical-frame?n=10&size=64"
    facts = {"instrument IoU, 40 other phantoms": "instrument_iou", "binary IoU, 40 other phantoms": "binary_iou"}
    facts_on = ("phantom:surgical-frame?n=40&seed=20000&rings=true", "all")

    @pytest.fixture(scope="class")
    @classmethod
    def tiny(cls, tiny_sam: str) -> SurgicalSamRecipe:
        return SurgicalSamRecipe(
            sam=tiny_sam, prompted=tiny_sam, classes=CLASSES, image_size=None, epochs=3, batch_size=3, warmup=2
        )

    def test_every_update_moves(self, trained: Trained) -> None:
        assert all(update.up_q.weight.any() and update.up_v.weight.any() for update in trained.model.updates)

    @pytest.mark.parametrize("method", ["decoder-only", "u-net", "ternausnet"])
    def test_the_networks_that_it_is_compared_with_train_too(self, tiny, training, parts, method) -> None:
        recipe = replace(tiny, method=method, unet_features=(4,) * 6, image_size=64, epochs=1)
        before = build(recipe).state_dict()
        with Run(seed=0, device="cpu", progress=False) as run:
            model = training.run(recipe, parts, run)
        names = [name for name, _ in model.named_parameters()]
        assert sum(not torch.equal(before[name], model.state_dict()[name]) for name in names) > 0.5 * len(names)
        assert score(model, parts.test[0], {})["instrument_iou"] >= 0

    def test_prompted_modes_are_measured_by_the_plain_sam(self, trained: Trained, parts) -> None:
        rows = [score(trained.model, parts.test[0], {"mode": mode}) for mode in ("box", "point", "auto")]
        assert rows[0] != rows[1] != rows[2]
        with pytest.raises(DataError, match="no classes to measure"):
            score(trained.model, parts.test[0], {"mode": "amg"})


# ---- Eq. 2 ----


def test_the_loss_is_equation_2() -> None:
    logits = torch.randn(2, 3, 4, 4, dtype=torch.float64).float()
    y = torch.randint(3, (2, 8, 8))
    small = y[:, ::2, ::2]  # the nearest pixel of a grid half as fine
    cross = F.cross_entropy(logits, small)
    dice = []
    for k in range(3):
        p, t = logits.softmax(1)[:, k], (small == k).float()
        dice.append(1 - 2 * (p * t).sum() / ((p**2).sum() + (t**2).sum()))
    expected = 0.8 * torch.stack(dice).mean() + 0.2 * cross
    torch.testing.assert_close(loss_of(logits, y, 0.8), expected, rtol=1e-4, atol=1e-5)


def test_a_perfect_answer_costs_nothing() -> None:
    y = torch.randint(3, (2, 4, 4))
    logits = 60.0 * F.one_hot(y, 3).permute(0, 3, 1, 2).float()
    assert loss_of(logits, y, 0.8) == pytest.approx(0, abs=1e-4)


def test_the_rate_rises_over_the_warm_up_and_then_falls() -> None:
    recipe = SurgicalSamRecipe()
    rates = [rate(step, 1000, recipe) for step in range(1000)]
    assert rates[0] == 1 / 250
    assert rates[249] == 1
    assert rates[500] == (1 - 250 / 1000) ** 0.9
    assert all(b < a for a, b in itertools.pairwise(rates[250:]))
    steep = replace(recipe, decay="exponential")
    assert rate(750, 1000, steep) / rate(500, 1000, steep) == pytest.approx(
        rate(1000, 1000, steep) / rate(750, 1000, steep)
    )


# ---- data ----


def test_frame_and_mask_move_alike() -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros((64, 64), np.uint8)
    mask[20:44, 24:48] = 2
    rgb = np.repeat((100 * mask)[..., None], 3, axis=2)
    seen = set()
    for _ in range(10):
        found = augmented(Item(rgb, mask), SurgicalSamRecipe(), rng)
        assert found.rgb.dtype == found.mask.dtype == np.uint8
        sure = (found.rgb[..., 0] < 5) | (found.rgb[..., 0] > 195)
        assert np.array_equal((found.rgb[..., 0] > 100)[sure], (found.mask == 2)[sure])
        seen.add(found.mask.tobytes())
    assert len(seen) > 5


def test_training_sees_what_predict_sees() -> None:
    from zoo import media
    from zoo.models.surgical_sam_lora.model import pixels_of

    case = surgical_frame(1, size=64)
    x, y = tensors([load(case, CLASSES, 64)], "cpu")
    torch.testing.assert_close(x, pixels_of(media.read(case.image), 64), rtol=1e-4, atol=1e-4)
    assert np.array_equal(y[0].numpy(), case.masks["mask"])


def test_masks_with_more_classes_are_refused() -> None:
    with pytest.raises(DataError, match="the value 4, but there are 3 classes"):
        load(Case(np.zeros((9, 9, 3), np.uint8), "1", {"mask": np.full((9, 9), 4, np.uint8)}), CLASSES, 64)


def test_the_papers_preset_is_the_papers() -> None:
    recipe = procedure.configure("paper")
    assert (recipe.rank, recipe.image_size, recipe.batch_size, recipe.epochs) == (4, 512, 12, 160)
    assert (recipe.lr, recipe.weight_decay, recipe.warmup, recipe.dice_weight) == (1e-3, 0.1, 250, 0.8)
    assert len(recipe.classes) == 7
    assert recipe.classes[3] == "monopolar curved scissors"


# ---- Sec. 2: measures and prompts ----


def test_only_classes_of_the_frame_count() -> None:
    truth = np.zeros((4, 4), np.int64)
    truth[:2] = 1
    found = np.zeros((4, 4), np.uint8)
    found[0] = 1
    with_another = found.copy()
    with_another[3] = 3  # a class that isn't there
    for mask in (found, with_another):
        scores = instrument_scores(mask, truth, CLASSES)
        assert scores["instrument_iou"] == scores["iou_a"] == 0.5
        assert math.isnan(scores["iou_c"])
    assert instrument_scores(with_another, truth, CLASSES)["binary_iou"] == 4 / 12
    truth[2, 0] = 2  # there, and missed
    assert instrument_scores(found, truth, CLASSES)["instrument_iou"] == 0.25
    assert math.isnan(instrument_scores(found, np.zeros((4, 4), np.int64), CLASSES)["instrument_iou"])


def test_prompts_are_box_and_centre_of_every_instrument() -> None:
    mask, instances = np.zeros((20, 20), np.uint8), np.zeros((20, 20), np.uint8)
    mask[2:7, 3:10] = mask[12:17, 3:8] = 2
    mask[12:15, 12:19] = 1
    case = Case(np.zeros((20, 20, 3), np.uint8), "1", {"mask": mask})
    boxes = told(case, "box", CLASSES)
    assert boxes == {"box": ((12, 12, 19, 15), (3, 2, 10, 7), (3, 12, 8, 17)), "label": ("a", "b", "b")}
    assert told(case, "point", CLASSES)["point"][1] == (6, 4)
    instances[mask == 2] = 5  # two parts of one instrument
    instances[mask == 1] = 1
    joined = told(replace(case, masks={"mask": mask, "instances": instances}), "box", CLASSES)
    assert joined["box"] == ((12, 12, 19, 15), (3, 2, 10, 17))
