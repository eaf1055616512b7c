"""The ultrasound phantom: lesions behave under sound as their kind does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from zoo.data.phantoms import make
from zoo.data.phantoms.ultrasound import GROUPS, ultrasound
from zoo.errors import DataError

seeds = st.integers(0, 10_000)
few = settings(max_examples=8)


@few
@given(seed=seeds, size=st.integers(32, 130))
def test_it_is_a_pure_function_with_the_stated_types(seed: int, size: int) -> None:
    a, b = ultrasound(seed, size=size), ultrasound(seed, size=size)
    assert np.array_equal(a.image, b.image)
    assert a.image.shape == (size, size)
    assert a.image.dtype == np.uint8
    assert a.label == a.attributes["condition"] == GROUPS[seed % 3]
    for name in ("mask", "core"):
        assert a.masks[name].dtype == np.uint8
        assert a.masks[name].any() == (a.label != "normal")


@few
@given(seed=seeds)
def test_a_lesion_is_darker_than_what_surrounds_it(seed: int) -> None:
    for group in ("benign", "malignant"):
        case = ultrasound(seed, size=128, group=group)
        core = case.masks["core"] > 0
        rows = core.any(1)
        beside = np.zeros_like(core)
        beside[rows] = ~(case.masks["mask"][rows] > 0)
        assert case.image[core].mean() < case.image[beside].mean() - 20


@few
@given(seed=seeds)
def test_of_a_malignant_lesion_the_rim_is_marked_too_and_of_a_benign_one_not(seed: int) -> None:
    benign, malignant = (ultrasound(seed, size=128, group=group) for group in ("benign", "malignant"))
    assert np.array_equal(benign.masks["mask"], benign.masks["core"])
    rim = (malignant.masks["mask"] > 0) & (malignant.masks["core"] == 0)
    assert rim.sum() > 0.2 * malignant.masks["core"].sum()
    assert malignant.image[rim].mean() > malignant.image[malignant.masks["core"] > 0].mean() + 20


def test_sound_is_weakened_below_malignant_lesions_and_less_below_benign_ones() -> None:
    def below(group: str, seed: int) -> float:
        case = ultrasound(seed, size=128, group=group)
        core = case.masks["core"] > 0
        rows, columns = np.nonzero(core)
        band = case.image[rows.max() + 4 : rows.max() + 24].astype(float)
        inner = slice(int(columns.mean()) - 4, int(columns.mean()) + 5)
        return float(band[:, inner].mean() - band.mean())

    shadow = np.mean([below("malignant", seed) for seed in range(24)])
    enhancement = np.mean([below("benign", seed) for seed in range(24)])
    assert shadow < -5
    assert enhancement > shadow + 10


def test_options_come_through_the_specification_and_wrong_ones_are_refused() -> None:
    assert make("phantom:ultrasound?seed=4&size=64&group=normal").label == "normal"
    with pytest.raises(DataError, match="group 'cyst'"):
        ultrasound(0, group="cyst")
    with pytest.raises(DataError, match="32 to 1024"):
        ultrasound(0, size=20)


def test_of_any_style_looks_differ_and_lesions_are_seen() -> None:
    greys, gaps = [], []
    for seed in range(24):
        case = ultrasound(seed, size=96, style="any")
        assert np.array_equal(case.image, ultrasound(seed, size=96, style="any").image)
        assert not np.array_equal(case.image, ultrasound(seed, size=96).image)
        mask, core = case.masks["mask"] > 0, case.masks["core"] > 0
        assert mask.any() == (case.label != "normal")
        assert not (core & ~mask).any()
        greys.append(case.image.mean())
        if mask.any():
            around = gaussian_filter(mask.astype(float), 4) > 0.05
            gaps.append(abs(float(case.image[core].mean()) - float(case.image[around & ~mask].mean())))
    assert np.std(greys) > 15  # exposure and contrast are drawn
    assert np.median(gaps) > 15


def test_of_both_styles_every_fourth_group_of_seeds_is_the_breast() -> None:
    for seed in (0, 2, 12, 14):
        assert np.array_equal(ultrasound(seed, size=64, style="both").image, ultrasound(seed, size=64).image)
    for seed in (3, 11, 15):
        assert np.array_equal(
            ultrasound(seed, size=64, style="both").image, ultrasound(seed, size=64, style="any").image
        )
