"""The masks that the score learns from; the claim's arms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.base import Trained
from tests.models.promptable import FrozenEncoderTests, instead
from zoo.data.features import FeatureCache
from zoo.data.phantoms.chest import chest_xray
from zoo.data.sets import Dataset, Entry
from zoo.data.splits import TrainData
from zoo.errors import DataError
from zoo.metrics import dice
from zoo.models.sampot.claim import correlation
from zoo.models.sampot.training import (
    SampotRecipe,
    build,
    centre_of,
    clicks_for,
    guessed,
    level_sets,
    samples_of,
    score,
    train,
)
from zoo.nn.promptable import Promptable
from zoo.training.run import Run


def dataset(first: int, count: int) -> Dataset:
    cases = [chest_xray(first + i, size=64) for i in range(count)]
    return Dataset("phantom:chest-xray", [Entry(case.id, case) for case in cases])


DATA = TrainData(dataset(0, 4), dataset(20, 2), dataset(40, 2))


class TestSampot(FrozenEncoderTests):
    name = "sampot"
    owns = {"regressor"}
    any_sam = True
    encoded = 6  # of both parts
    given = ("--with", "steps=3", "--with", "point=170,110")

    @pytest.fixture(scope="class")
    @classmethod
    def tiny(cls, tiny_sam: str) -> SampotRecipe:
        return SampotRecipe(sam=tiny_sam, target="left_lung", widths=(8, 8), epochs=3)

    @pytest.fixture(scope="class")
    @classmethod
    def parts(cls) -> TrainData:
        return DATA

    def test_cases_without_the_object_are_left_out_or_refused(self, tiny: SampotRecipe) -> None:
        blank = instead(DATA, masks={"left_lung": np.zeros((64, 64), np.uint8)})
        with pytest.raises(DataError, match="anything in its mask 'left_lung'"), Run(device="cpu", progress=False) as r:
            train(tiny, blank, r)
        assert score(build(tiny), blank.train[0], {}) == []

    def test_the_epoch_with_the_least_error_on_validation_is_kept(self, tiny: SampotRecipe, trained: Trained) -> None:
        model = build(tiny)
        model.base = Promptable(model.base.sam, cache=FeatureCache(half=True))  # as in the training
        rng = Run(seed=0, device="cpu").generator("clicks", "validation")
        samples = samples_of(model, tiny, list(DATA.validation), rng)
        assert samples is not None
        error = float((guessed(trained.model, samples) - samples.dice).square().mean())
        table = (trained.folder / "metrics" / "training.csv").read_text().splitlines()
        column = table[0].split(",").index("validation_error")
        noted = [float(value) for line in table[1:] if (value := line.split(",")[column])]
        assert error == pytest.approx(min(noted), rel=1e-4)


# ---- the samples ----


@settings(max_examples=20, deadline=None)
@given(radius=st.floats(3, 14), x=st.integers(8, 40), spread=st.tuples(st.floats(0.3, 0.5), st.floats(0.6, 0.97)))
def test_level_sets_have_the_dice_that_was_asked_for(radius: float, x: int, spread: tuple[float, float]) -> None:
    rows, columns = np.mgrid[:48, :48]
    truth = np.hypot(rows - 24, columns - x) < radius
    masks = level_sets(truth, 4, spread)
    assert len(masks) == 8
    under = [mask for mask in masks if mask.sum() <= truth.sum()]
    assert all((truth | ~mask).all() for mask in under)  # too small: all of it inside
    for wanted, (small, large) in zip(np.linspace(*spread, 4), zip(masks[::2], masks[1::2], strict=True), strict=True):
        assert (truth | ~small).all()
        assert (large | ~truth).all()
        assert dice(small, truth) >= wanted - 0.02  # pixels of one depth go together
        assert dice(large, truth) <= max(wanted, dice(np.ones_like(truth), truth)) + 0.02


def test_six_clicks_three_in_the_bands_and_three_beside() -> None:
    truth = np.zeros((60, 40), bool)
    truth[6:36, 10:20] = True
    clicks = clicks_for(truth, 3, 5.0, np.random.default_rng(0))
    assert [y for _, y in clicks[:3]] == pytest.approx([10.5, 20.5, 30.5], abs=0.6)  # rows 6 to 15, 16 to 25, 26 to 35
    rows, columns = np.nonzero(truth)
    for x, y in clicks[3:]:
        assert np.hypot(rows - y, columns - x).min() >= 5


def test_a_centre_outside_of_the_mask_moves_to_the_nearest_pixel_inside() -> None:
    ring = np.ones((9, 9), bool)
    ring[2:7, 2:7] = False
    x, y = centre_of(ring)
    assert ring[int(y), int(x)]
    assert np.hypot(x - 4, y - 4) == pytest.approx(3)
    assert centre_of(np.zeros((4, 4), bool)) is None


def test_an_image_gives_22_samples_with_their_true_dice(tiny_sam: str) -> None:
    recipe = SampotRecipe(sam=tiny_sam, target="left_lung")
    samples = samples_of(build(recipe), recipe, [DATA.train[0]], np.random.default_rng(0))
    assert samples is not None
    assert samples.masks.shape == (22, 32, 32)
    grey, mask, wanted = samples.batch(np.arange(22), torch.device("cpu"))
    assert grey.shape == mask.shape == (22, 1, 32, 32)
    truth = torch.nn.functional.avg_pool2d(torch.from_numpy(DATA.train[0].masks["left_lung"]).float()[None], 2)[0] > 0.5
    by_hand = [dice(m[0].numpy() > 0, truth.numpy()) for m in mask]
    np.testing.assert_allclose(wanted.numpy(), by_hand, atol=0.03)
    assert wanted[:16].min() < 0.4
    assert wanted[:16].max() > 0.9


# ---- the claim ----


def test_correlation_of_what_does_not_vary_is_none() -> None:
    a = np.array([1.0, 2.0, 3.0])
    assert correlation(a, 2 * a) == pytest.approx(1)
    assert correlation(a, np.ones(3)) == 0
