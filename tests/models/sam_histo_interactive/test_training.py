"""What is learned from simulated clicks, what stays frozen; the claim's data and measures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.models.promptable import FrozenEncoderTests, instead
from zoo.data.phantoms.he_tile import he_tile
from zoo.data.sets import Dataset, Entry
from zoo.data.splits import TrainData
from zoo.errors import DataError, OptionError
from zoo.models.sam_histo_interactive.claim import draw, far_changes
from zoo.models.sam_histo_interactive.model import SamHistoInteractive
from zoo.models.sam_histo_interactive.training import (
    Item,
    SamHistoRecipe,
    add_clicks,
    as_tensors,
    build,
    groups_of,
    load,
    loss_of,
    score,
    train,
    truths,
)
from zoo.nn.promptable import DecoderConfig, Point
from zoo.training.run import Run


def dataset(first: int, count: int) -> Dataset:
    cases = [he_tile(first + i, size=64) for i in range(count)]
    return Dataset("phantom:he-tile", [Entry(case.id, case) for case in cases])


DATA = TrainData(dataset(0, 8), dataset(20, 2), dataset(40, 2))


def fit(recipe: SamHistoRecipe):
    with Run(seed=0, device="cpu", progress=False) as one:
        return train(recipe, DATA, one)


class TestSamHistoInteractive(FrozenEncoderTests):
    name = "sam-histo-interactive"
    owns = {"decoder"}
    encoded = 8
    given = ("--with", "click=40,40,1")
    facts = {
        "IoU after 1 click, 10 other phantoms": "iou_1",
        "IoU after 5 clicks": "iou_5",
        "NoC@85": "noc_85",
        "NoC@90": "noc_90",
    }
    facts_on = ("phantom:he-tile?n=10&size=128&seed=20000", "all")

    @pytest.fixture(scope="class")
    @classmethod
    def tiny(cls, tiny_sam: str) -> SamHistoRecipe:
        return SamHistoRecipe(sam=tiny_sam, target="tumour", epochs=3, drops=(2,), batch_size=4, turns=False)

    @pytest.fixture(scope="class")
    @classmethod
    def parts(cls) -> TrainData:
        return DATA

    def test_weights_for_a_sam_of_other_sizes_are_refused(self, trained) -> None:
        config = replace(trained.model.config, decoder=DecoderConfig(64, 32, 4, 64))
        with pytest.raises(OptionError, match="other sizes"):
            _ = SamHistoInteractive(config).base

    def test_cases_without_the_region_are_left_out_and_without_the_mask_refused(self, tiny, training) -> None:
        blank = instead(DATA, masks={"tumour": np.zeros((64, 64), np.uint8)})
        with pytest.raises(DataError, match="anything in its mask 'tumour'"), Run(device="cpu", progress=False) as one:
            training.run(tiny, blank, one)
        assert score(build(tiny), blank.train[0], {}) == []
        with pytest.raises(DataError, match="no mask 'other'"):
            load(DATA.train[0], "other")

    @pytest.mark.parametrize("method", ["sam-md", "wide", "sam-ie-md", "sam-whole", "zero-shot"])
    def test_every_arm_trains_what_the_paper_says(self, tiny: SamHistoRecipe, method) -> None:
        recipe = replace(tiny, method=method, epochs=1, drops=())
        before, after = build(recipe), fit(recipe)
        a, b = before.state_dict(), after.state_dict()
        moved = {".".join(name.split(".")[:2]) for name in a if not torch.equal(a[name], b[name])}
        parts = {part for part in ("vision_encoder", "prompt_encoder") if f"own.{part}" in moved}
        wanted = {"sam-ie-md": {"vision_encoder"}, "sam-whole": {"vision_encoder", "prompt_encoder"}}
        assert parts == wanted.get(method, set())
        assert any(name.startswith("decoder") for name in moved) == (method != "zero-shot")
        assert np.isfinite(after.predict(DATA.test[0].image, click=((9, 9, 1),)).probability).all()


def test_gradients_reach_the_decoder_alone_and_the_last_answer_alone(tiny_sam: str) -> None:
    recipe = SamHistoRecipe(sam=tiny_sam, target="tumour", extra_clicks=2)
    model = build(recipe)
    groups_of(model, recipe)
    loss_of(model, [load(case, "tumour") for case in DATA.train[:2]], recipe, np.random.default_rng(0)).backward()
    assert all(p.grad is None for p in model.base.sam.parameters())
    assert model.decoder.head.weight.grad.abs().sum() > 0
    assert model.decoder.transformer.layers[0].mlp.lin1.weight.grad.abs().sum() > 0


def test_clicks_of_a_batch_are_in_the_errors_and_the_missing_say_nothing() -> None:
    truth = np.zeros((2, 16, 16), bool)
    truth[0, 2:8, 2:8] = truth[1, 4:12, 4:12] = True
    clicks: list[list[Point | None]] = [[], []]
    add_clicks(clicks, truth, None, np.random.default_rng(0))
    assert all(truth[i, int(c[0].y), int(c[0].x)] and c[0].inside for i, c in enumerate(clicks))
    add_clicks(clicks, truth, np.stack([truth[0], np.zeros((16, 16), bool)]), np.random.default_rng(0))
    assert clicks[0][1] is None  # nothing is wrong any more
    assert clicks[1][1] is not None
    given = as_tensors(clicks, None, 16, 64, torch.device("cpu"))
    assert given.labels.tolist() == [[[1, -10], [1, 1]]]
    assert given.points[0, 1, 0].tolist() == [(clicks[1][0].x + 0.5) * 4 - 0.5, (clicks[1][0].y + 0.5) * 4 - 0.5]


def test_the_truth_lies_where_the_image_does_in_the_square() -> None:
    mask = np.zeros((20, 40), bool)
    mask[:, 20:] = True
    (row,) = truths([Item(np.zeros((20, 40, 3), np.uint8), mask, "")], 16, 64)
    assert row[:8, 8:].all()
    assert not row[8:].any()
    assert not row[:, :8].any()


def test_views_turn_image_and_region_together() -> None:
    item = load(DATA.train[0], "tumour")
    item = replace(item, rgb=np.repeat(item.mask[..., None].astype(np.uint8), 3, 2))
    for turns in range(4):
        view = item.view(turns, turns % 2 == 0)
        assert np.array_equal(view.rgb[..., 0] > 0, view.mask)


def test_the_claims_tumours_cover_a_fifth_to_four_fifths_and_grow_with_the_magnification() -> None:
    items = [draw(np.random.default_rng(i), zoom) for i in range(8) for zoom in (1.0, 2.0)]
    assert all(0.2 <= item.mask.mean() <= 0.8 for item in items)
    dark = [item.rgb[item.mask].mean() < item.rgb[~item.mask].mean() for item in items]
    assert all(dark)
    assert np.mean([i.mask.mean() for i in items[1::2]]) > np.mean([i.mask.mean() for i in items[::2]])


@pytest.mark.wrong_types
def test_far_changes_are_those_away_from_the_click() -> None:
    class Two:
        steps = [type("Step", (), {"point": Point(5.0, 5.0)})()] * 3

        def mask_after(self, t: int) -> np.ndarray:
            mask = np.zeros((64, 64), bool)
            mask[:10, :10] = t == 3  # near
            mask[40:50, 40:50] = t == 3  # far
            return mask

    (share,) = far_changes(Two())
    y, x = np.mgrid[:64, :64]
    assert share == pytest.approx(100 / (np.hypot(x - 5, y - 5) > 16).sum())
