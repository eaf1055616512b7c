"""The laparoscope's frame: instruments with parts, over tissue."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation

from zoo.data.phantoms import make
from zoo.data.phantoms.surgical_frame import INSTRUMENTS, surgical_frame
from zoo.errors import DataError

few = settings(max_examples=6)


@few
@given(seed=st.integers(0, 10_000), size=st.integers(32, 140))
def test_it_is_a_pure_function_with_the_stated_types(seed: int, size: int) -> None:
    a, b = surgical_frame(seed, size=size), surgical_frame(seed, size=size)
    assert np.array_equal(a.image, b.image)
    assert a.image.shape == (size, size, 3)
    assert a.image.dtype == np.uint8
    masks = a.masks
    assert set(masks) == {"mask", "parts", "instances"}
    assert np.array_equal(masks["mask"] > 0, masks["parts"] > 0)
    assert np.array_equal(masks["mask"] > 0, masks["instances"] > 0)
    assert masks["mask"].max() <= len(INSTRUMENTS)
    assert 1 <= masks["instances"].max() <= 3


@few
@given(seed=st.integers(0, 10_000))
def test_an_instrument_is_of_one_kind_and_colourless_where_tissue_is_red(seed: int) -> None:
    case = surgical_frame(seed, size=192)
    masks = case.masks
    for number in np.unique(masks["instances"][masks["instances"] > 0]):
        assert len(np.unique(masks["mask"][masks["instances"] == number])) == 1
    colour = case.image.astype(float)
    redness = colour[..., 0] - colour[..., 2]
    assert redness[masks["mask"] == 0].mean() > redness[masks["mask"] > 0].mean() + 15


def test_every_kind_and_every_part_occurs() -> None:
    found = [surgical_frame(seed, size=128) for seed in range(12)]
    assert {int(v) for case in found for v in np.unique(case.masks["mask"])} == {0, 1, 2, 3}
    assert all(set(np.unique(case.masks["parts"])) >= {0, 3} for case in found)


def test_rings_have_the_colour_of_the_kind_and_change_nothing_else() -> None:
    for seed in range(6):
        plain, ringed = surgical_frame(seed, size=128), surgical_frame(seed, size=128, rings=True)
        assert all(np.array_equal(plain.masks[name], ringed.masks[name]) for name in plain.masks)
        changed = np.abs(plain.image.astype(int) - ringed.image).max(-1) > 24
        assert changed.any()
        near = binary_dilation(np.isin(plain.masks["parts"], (1, 2)), iterations=2)  # shaft and wrist, blurred
        assert not (changed & ~near).any()
        for kind, channel in ((1, 2), (3, 1)):  # blue, green
            where = changed & (plain.masks["mask"] == kind)
            if where.sum() > 20:
                assert ringed.image[where].mean(0).argmax() == channel


def test_options_come_through_the_specification_and_wrong_ones_are_refused() -> None:
    assert make("phantom:surgical-frame?seed=1&size=48").image.shape == (48, 48, 3)
    with pytest.raises(DataError, match="surgical-frame phantom draws 32 to 1024"):
        surgical_frame(0, size=5)
