"""The chest phantom: a pure function of its seed whose findings look like what they are called."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.data.phantoms import make
from zoo.data.phantoms.chest import FINDINGS, chest_xray
from zoo.errors import DataError

seeds = st.integers(0, 10_000)
few = settings(max_examples=8, deadline=None)


def test_the_same_seed_gives_the_same_chest_and_another_seed_another():
    a, b, c = (chest_xray(seed, size=96) for seed in (3, 3, 6))
    assert np.array_equal(a.image, b.image)
    assert all(np.array_equal(a.masks[name], b.masks[name]) for name in a.masks)
    assert not np.array_equal(a.image, c.image)


@few
@given(seed=seeds, size=st.integers(32, 130))
def test_image_and_masks_have_the_stated_types(seed: int, size: int):
    case = chest_xray(seed, size=size)
    assert case.image.shape == (size, size)
    assert case.image.dtype == np.uint8
    assert case.image.std() > 20
    assert case.label in FINDINGS
    assert set(case.masks) == {"mask", "lungs", "left_lung", "heart"}
    for mask in case.masks.values():
        assert mask.dtype == np.uint8
        assert mask.shape == (size, size)


@few
@given(seed=seeds)
def test_lungs_are_darker_than_the_heart(seed: int):
    case = chest_xray(seed, size=128, finding="normal")
    lungs, heart = case.masks["lungs"] > 0, case.masks["heart"] > 0
    assert 0.08 < lungs.mean() < 0.45
    assert case.image[lungs & ~heart].mean() < case.image[heart & ~lungs].mean() - 25


@few
@given(seed=seeds)
def test_opacities_lie_in_the_lungs_and_brighten_them(seed: int):
    healthy = chest_xray(seed, size=128, finding="normal")
    assert not healthy.masks["mask"].any()
    for finding in ("bacterial", "viral"):
        case = chest_xray(seed, size=128, finding=finding)
        opacity = case.masks["mask"] > 0
        assert opacity.any()
        assert (opacity & (case.masks["lungs"] == 0)).mean() < 0.01


@pytest.mark.parametrize(("finding", "least", "most"), [("bacterial", 0.0, 0.05), ("viral", 0.25, 0.5)])
def test_bacterial_pneumonia_is_on_one_side_and_viral_on_both(finding: str, least: float, most: float):
    smaller = []
    for seed in range(16):
        columns = np.nonzero(chest_xray(seed, size=96, finding=finding).masks["mask"])[1]
        left = (columns < 48).mean()
        smaller.append(min(left, 1 - left))
    assert least <= np.mean(smaller) <= most


def test_findings_take_turns():
    assert [chest_xray(seed, size=32).label for seed in range(4)] == ["normal", "bacterial", "viral", "normal"]
    assert make("phantom:chest-xray?seed=0&size=32&finding=viral").label == "viral"


@pytest.mark.parametrize("options", [{"size": 16}, {"size": 5000}, {"finding": "covid"}])
def test_wrong_options_are_refused(options: dict):
    with pytest.raises(DataError, match="chest-xray phantom"):
        chest_xray(0, **options)
