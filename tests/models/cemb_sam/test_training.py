"""CEmb-SAM's training: what it learns from, what it leaves alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import zoo
from zoo.data.case import Case
from zoo.data.phantoms.ultrasound import ultrasound
from zoo.data.sets import Dataset, Entry
from zoo.data.splits import TrainData
from zoo.errors import DataError
from zoo.models.cemb_sam.claim import draw, run
from zoo.models.cemb_sam.training import box_of, conditions_of, load, loosened, score, told, train, training
from zoo.nn.promptable import Box
from zoo.training.run import Run


def dataset(first: int, count: int) -> Dataset:
    cases = [ultrasound(first + i, size=64) for i in range(count)]
    return Dataset("phantom:ultrasound", [Entry(case.id, case) for case in cases])


@pytest.fixture(scope="module")
def data() -> TrainData:
    return TrainData(dataset(0, 9), dataset(20, 3), dataset(40, 3))


def recipe(sam: str, **changes: str):
    return training.configure("demo", {"sam": sam, "epochs": "2", "batch_size": "4", **changes})


def test_training_moves_block_and_decoder_and_leaves_the_encoders(tiny_sam: str, data: TrainData) -> None:
    with Run(seed=0, device="cpu", progress=False) as fresh:
        untrained = train(recipe(tiny_sam, lr="0"), data, fresh)
    with Run(seed=0, device="cpu", progress=False) as again:
        trained = train(recipe(tiny_sam), data, again)
    moved = {
        name.split(".")[0]
        for (name, a), b in zip(trained.state_dict().items(), untrained.state_dict().values(), strict=True)
        if not torch.equal(a, b)
    }
    assert moved == {"block", "decoder"}
    frozen = untrained.base.sam.state_dict()
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in trained.base.sam.state_dict().items())


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tiny_sam: str, data: TrainData) -> None:
    def weights(seed: int) -> torch.Tensor:
        with Run(seed=seed, device="cpu", progress=False) as one:
            return torch.cat([p.detach().flatten() for p in train(recipe(tiny_sam), data, one).parameters()])

    first = weights(0)
    assert torch.equal(first, weights(0))
    assert not torch.equal(first, weights(1))


def test_zero_shot_is_sam_as_it_is(tiny_sam: str, data: TrainData) -> None:
    with Run(seed=0, device="cpu", progress=False) as one:
        model = train(recipe(tiny_sam, method="zero-shot"), data, one)
    sam = model.base.sam.mask_decoder.state_dict()
    assert all(torch.equal(tensor, sam[name]) for name, tensor in model.decoder.state_dict().items())


@pytest.mark.parametrize("method", ["decoder-only", "u-net"])
def test_the_other_arms_train_too(tiny_sam: str, data: TrainData, method: str) -> None:
    changes = {"method": method, "epochs": "1"} | ({"unet_features": "4,4,8,8,8,4"} if method == "u-net" else {})
    with Run(seed=0, device="cpu", progress=False) as one:
        model = train(recipe(tiny_sam, **changes), data, one)
    assert model.block is None
    result = model.predict(data.test[0].image, **told(data.test[0]))
    assert np.isfinite(result.probability).all()


def test_zoo_train_writes_weights_that_evaluate(tiny_sam: str, tmp_path: Path) -> None:
    spec = "phantom:ultrasound?n=15&size=64"
    out = zoo.train(
        "cemb-sam", spec, out=tmp_path / "run", preset="demo",
        overrides={"sam": tiny_sam, "epochs": "1", "batch_size": "4"}, device="cpu",
    )  # fmt: skip
    assert json.loads((out / "config.json").read_text())["config"]["conditions"] == ["benign", "malignant", "normal"]
    assert list((out / "embeddings").glob("*.safetensors"))
    found = zoo.evaluate("cemb-sam", spec, weights=str(out), device="cpu", progress=False)
    assert not found.failures
    assert {"dsc", "pixel_accuracy"} <= {metric.name for metric in found.metrics}
    assert 0 <= found["pixel_accuracy"].mean <= 100


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
        load(case, ("FH", "ulnar"), 64)
    wrong = Case(case.image[:30], case.id, masks=case.masks, label="benign")
    with pytest.raises(DataError, match="differ in size"):
        load(wrong, ("benign",), 64)


# ---- the claim ----


def test_the_claims_images_follow_their_rules() -> None:
    images = draw(60, np.random.default_rng(0), homogeneous=False)
    assert set(images.group.tolist()) == {0, 1, 2}
    inside = images.target > 0.5
    assert (images.box[inside] == 1).all()  # the box holds the target
    means = [images.x[images.group == g][inside[images.group == g]].mean() for g in range(2)]
    assert means[0] < -0.5 < 0.5 < means[1]  # what is marked is dark in one sub-group and bright in the other
    control = draw(60, np.random.default_rng(0), homogeneous=True)
    assert set(control.group.tolist()) == {0, 1, 2}
    assert control.x[control.target > 0.5].mean() < -0.5


def test_a_quick_claim_goes_through_all_arms_and_is_repeatable() -> None:
    first = run(3, quick=True)
    assert set(first) == {"cemb", "dec", "m1", "shuffled"}
    assert all({"heterogeneous", "homogeneous", "sub-group 2"} <= set(scores) for scores in first.values())
    assert run(3, quick=True) == first
