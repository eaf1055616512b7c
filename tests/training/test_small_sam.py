"""How the small SAM learns: what it's asked, that a run can be repeated and resumed, and what came of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo.data.case import Case
from zoo.data.features import weights_key
from zoo.nn.promptable import load_sam
from zoo.training.run import Run
from zoo.training.small_sam import (
    MIXTURE,
    Kinship,
    Recipe,
    Stage,
    augmented,
    build,
    correction,
    learn_three_masks,
    loose_box,
    loss_of,
    loss_of_best,
    measure,
    objects_of,
    pretrain,
    sample,
    samples,
    save,
    some,
)

TINY = Recipe(
    stages=(
        Stage(image_size=128, images=7, steps=3, batch_size=2, objects=2, lr=1e-3, corrections=0),
        Stage(image_size=192, images=3, steps=2, batch_size=1, objects=2, lr=1e-3, corrections=1),
    ),
    masks=Stage(image_size=192, images=3, steps=2, batch_size=1, objects=2, lr=1e-3, corrections=0),
)


def learnt(folder: Path, **options) -> str:
    with Run(folder, seed=options.pop("seed", 0), device="cpu", progress=False, identity={}, **options) as run:
        return weights_key(pretrain(TINY, run))


def test_objects_are_the_connected_parts_that_can_be_pointed_at() -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[2:10, 2:10] = 1
    mask[20:30, 2:10] = 1
    mask[20:30, 10:20] = 2  # touches the one before
    mask[35:37, 35:37] = 1  # too small
    found = objects_of(Case(np.zeros((40, 40)), "x", masks={"mask": mask}), ("mask",))
    assert sorted(int(one.sum()) for one in found) == [64, 80, 100]


@pytest.mark.parametrize("phantom", MIXTURE)
def test_every_phantom_gives_objects_of_the_size_of_its_image(phantom: str) -> None:
    found = [sample(phantom, seed, 128) for seed in range(3)]
    assert sum(len(one.objects) for one in found) > 0
    for one in found:
        assert one.image.shape == (128, 128, 3)
        assert all(target.shape == (128, 128) and target.sum() >= 24 for target in one.objects)


def test_the_phantoms_come_by_turns() -> None:
    assert [one.phantom for one in samples(128, 0, 8)] == [*MIXTURE, next(iter(MIXTURE))]


@given(seed=st.integers(0, 10_000))
def test_a_loose_box_stays_on_the_image_and_near_the_object(seed: int) -> None:
    rng = np.random.default_rng(seed)
    target = np.zeros((60, 80), bool)
    x0, y0 = int(rng.integers(0, 70)), int(rng.integers(0, 50))
    target[y0 : y0 + int(rng.integers(1, 30)), x0 : x0 + int(rng.integers(1, 30))] = True
    box = loose_box(target, rng)
    box.check(60, 80)
    assert abs(box.x0 - x0) <= 20
    assert abs(box.y0 - y0) <= 20


@given(seed=st.integers(0, 10_000))
def test_a_correction_lies_where_the_answer_is_wrong_and_says_how(seed: int) -> None:
    rng = np.random.default_rng(seed)
    target, answer = rng.random((2, 20, 20)) < 0.3
    point = correction(target, answer, rng)
    assert point is not None
    place = int(point.y), int(point.x)
    assert target[place] != answer[place]
    assert point.inside == target[place]
    assert correction(target, target, rng) is None


def test_image_and_objects_move_together() -> None:
    one = sample("ultrasound", 0, 128)
    for target in one.objects:
        one.image[target] = 255  # white, far from everything after any change of colour
        one.image[~target] = 0
        for seed in range(6):
            image, (moved, *_) = augmented(type(one)(one.image, [target], one.phantom), np.random.default_rng(seed))
            assert image[moved].min() > image[~moved].max()


def test_some_objects_are_all_different_if_there_are_enough() -> None:
    objects = [np.full((2, 2), k) for k in range(5)]
    rng = np.random.default_rng(0)
    assert len({int(one[0, 0]) for one in some(objects, 5, rng)}) == 5
    assert len(some(objects[:1], 3, rng)) == 3


def test_the_loss_falls_from_wrong_to_right() -> None:
    target = torch.zeros(2, 1, 16, 16)
    target[..., 4:9, 4:9] = 1
    right = 20 * (2 * target - 1)
    assert loss_of(right, torch.ones(2, 1), target) < 0.01
    assert loss_of(-right, torch.zeros(2, 1), target) > 10


def test_of_several_masks_the_best_counts_and_all_learn_how_good_they_are() -> None:
    target = torch.zeros(1, 1, 16, 16)
    target[..., 4:9, 4:9] = 1
    right = 20 * (2 * target - 1)
    both = torch.cat([right, -right], dim=1).requires_grad_()
    quality = torch.tensor([[1.0, 0.5]], requires_grad=True)
    loss = loss_of_best(both, quality, target)
    assert float(loss.detach()) == pytest.approx(0.5**2 / 2, abs=0.01)
    loss.backward()
    assert both.grad is not None
    assert both.grad[:, 1].abs().max() == 0
    assert quality.grad is not None
    assert quality.grad[0, 1] > 0


def test_further_masks_are_learnt_without_touching_the_first() -> None:
    with Run(seed=0, device="cpu", progress=False) as run:
        sam = build(128)
        pixels = torch.randn(1, 3, 128, 128)
        before = {name: tensor.clone() for name, tensor in sam.state_dict().items()}
        stage = Stage(image_size=128, images=3, steps=3, batch_size=1, objects=2, lr=1e-2, corrections=0)
        learn_three_masks(sam, stage, TINY, run)
    moved = {name for name, tensor in sam.state_dict().items() if not torch.equal(tensor, before[name])}
    quality = "mask_decoder.iou_prediction_head.proj_out"
    assert all(name.startswith(("mask_decoder.output_hypernetworks_mlps", quality)) for name in moved)
    assert not any("mlps.0." in name for name in moved)
    assert torch.equal(sam.state_dict()[f"{quality}.weight"][0], before[f"{quality}.weight"][0])
    answers = sam(pixels, input_points=torch.tensor([[[[60.0, 60.0]]]]), multimask_output=True).pred_masks[0, 0]
    assert not torch.allclose(answers[0], answers[1])


def test_kinship_is_low_where_features_tell_the_objects_apart() -> None:
    torch.manual_seed(0)
    left = np.zeros((32, 32), bool)
    left[:, :16] = True
    head = Kinship(2)
    with torch.no_grad():
        head.project.weight.zero_()
        head.project.weight[0, 0] = head.project.weight[1, 1] = 1
        head.project.bias.zero_()
        head.offset.fill_(5.0)
    apart = torch.zeros(1, 2, 8, 8)
    apart[:, 0, :, :4] = 1
    apart[:, 1, :, 4:] = 1
    same = torch.ones(1, 2, 8, 8)
    assert head(apart, [[left]], 64) < 0.01 < 1 < head(same, [[left]], 64)


def test_a_run_can_be_repeated_and_an_interrupted_one_ends_the_same(tmp_path: Path, monkeypatch) -> None:
    whole = learnt(tmp_path / "whole")
    assert learnt(tmp_path / "other", seed=1) != whole
    log = Run.log

    def stop(run: Run, **scalars) -> None:
        log(run, **scalars)
        if run.step == 1 and "192px" in str(run._stage):
            raise RuntimeError("power cut")

    monkeypatch.setattr(Run, "log", stop)
    with pytest.raises(RuntimeError, match="power cut"):
        learnt(tmp_path / "cut", checkpoint_every=1)
    monkeypatch.setattr(Run, "log", log)
    assert learnt(tmp_path / "cut", checkpoint_every=1, resume=True) == whole


def test_it_is_saved_in_half_precision_and_loads_as_any_sam(tmp_path: Path) -> None:
    with Run(seed=0, device="cpu", progress=False) as run:
        sam = pretrain(Recipe(stages=TINY.stages[:1], masks=TINY.stages[0]), run)
    save(sam, tmp_path / "sam")
    again = load_sam(str(tmp_path / "sam"), needed_by="test")
    assert again.config.vision_config.image_size == 128
    for name, tensor in again.state_dict().items():
        torch.testing.assert_close(tensor, sam.state_dict()[name].float(), msg=name)
    found = measure(again, per_phantom=1, objects=1)
    assert set(found) == set(MIXTURE)
    assert all(0 <= value <= 1 for kinds in found.values() for value in kinds.values())
