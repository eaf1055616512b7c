"""Serial sections: a pure function of the seed, whose masks and motions mean what they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo import media
from zoo.data.phantoms.serial_sections import move, serial_sections
from zoo.errors import DataError

few = settings(max_examples=5, deadline=None)


def test_the_same_seed_gives_the_same_stack_and_another_seed_another():
    a, b, c = (serial_sections(seed, layers=3, size=64) for seed in (3, 3, 4))
    assert np.array_equal(a.image, b.image)
    assert np.array_equal(a.masks["mask"], b.masks["mask"])
    assert not np.array_equal(a.image, c.image)


@few
@given(seed=st.integers(0, 10_000), folds=st.booleans(), tears=st.booleans())
def test_tumour_lies_in_tissue_and_tissue_is_stained(seed: int, folds: bool, tears: bool):
    case = serial_sections(seed, layers=3, size=96, folds=folds, tears=tears)
    tumour, tissue = case.masks["mask"] > 0, case.masks["tissue"] > 0
    assert case.image.shape == (3, 96, 96, 3)
    assert case.image.dtype == np.uint8
    assert not (tumour & ~tissue).any()
    assert 0.2 < tissue.mean() < 0.6
    assert case.image[~tissue].mean() > 220 > case.image[tissue].mean()
    red = case.image[..., 0].astype(float)
    assert red[tumour].mean() < red[tissue & ~tumour].mean()  # haematoxylin takes the red


def test_transforms_are_those_of_the_masks():
    case = serial_sections(5, layers=4, size=128)
    still = serial_sections(5, layers=4, size=128, max_angle=0, max_shift=0)
    assert case.attributes["transforms"][0] == [0, 0, 0]
    for z in range(1, 4):
        angle, dx, dy = case.attributes["transforms"][z]
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        rows, columns = np.nonzero(still.masks["tissue"][z])
        centre = 63.5
        x, y = c * (columns - centre) - s * (rows - centre), s * (columns - centre) + c * (rows - centre)
        moved = np.nonzero(case.masks["tissue"][z])
        assert (x + centre + dx).mean() == pytest.approx(moved[1].mean(), abs=0.3)
        assert (y + centre + dy).mean() == pytest.approx(moved[0].mean(), abs=0.3)


def test_moving_forth_and_back_is_nearly_nothing():
    smooth = np.outer(np.hanning(64), np.hanning(64))[..., None].astype(np.float32)
    there = move(smooth, 7.0, 0, 0)
    assert not np.allclose(there, smooth, atol=1e-3) or np.allclose(there, smooth, atol=0.02)
    assert np.abs(move(there, -7.0, 0, 0) - smooth).max() < 0.02


def test_tears_and_folds_change_some_sections():
    plain = serial_sections(2, layers=8, size=64).masks["tissue"].sum()
    torn = serial_sections(2, layers=8, size=64, tears=True).masks["tissue"].sum()
    folded = serial_sections(2, layers=8, size=64, folds=True).masks["tissue"].sum()
    assert folded < plain
    assert torn != plain


def test_it_is_read_as_a_volume_in_colour():
    image = media.read("phantom:serial-sections?layers=2&size=64")
    assert (image.ndim_spatial, image.channels, image.size) == (3, 3, (2, 64, 64))


@pytest.mark.parametrize("options", [{"layers": 0}, {"size": 32}, {"max_angle": -1}, {"max_shift": 0.9}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(DataError, match=r"must|need"):
        serial_sections(0, **options)
