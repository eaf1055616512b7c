"""The H&E tile: nuclei are blue, apart from each other, and crowded in tumour."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.data.phantoms import make
from zoo.data.phantoms.he_tile import he_tile
from zoo.errors import DataError

few = settings(max_examples=6)


@few
@given(seed=st.integers(0, 10_000), size=st.integers(32, 140))
def test_it_is_a_pure_function_with_the_stated_types(seed: int, size: int) -> None:
    a, b = he_tile(seed, size=size), he_tile(seed, size=size)
    assert np.array_equal(a.image, b.image)
    assert a.image.shape == (size, size, 3)
    assert a.image.dtype == np.uint8
    assert np.array_equal(a.masks["mask"] > 0, a.masks["nuclei"] > 0)


@few
@given(seed=st.integers(0, 10_000))
def test_nuclei_take_up_haematoxylin_and_lie_denser_in_tumour(seed: int) -> None:
    case = he_tile(seed, size=192)
    inside, tumour = case.masks["mask"] > 0, case.masks["tumour"] > 0
    red = case.image[..., 0].astype(float)
    assert red[inside].mean() < red[~inside].mean() - 30  # haematoxylin absorbs red, eosin hardly does
    assert 0.02 < inside.mean() < 0.5
    if 0.2 < tumour.mean() < 0.8:
        assert inside[tumour].mean() > inside[~tumour].mean()


def test_every_nucleus_has_a_number_of_its_own_and_is_one_piece() -> None:
    from scipy.ndimage import label

    nuclei = he_tile(3, size=256).masks["nuclei"]
    numbers = np.unique(nuclei[nuclei > 0])
    assert len(numbers) > 40
    single = sum(label(nuclei == number)[1] == 1 for number in numbers)
    assert single > 0.95 * len(numbers)  # an overlap may cut one in two


def test_options_come_through_the_specification_and_wrong_ones_are_refused() -> None:
    assert make("phantom:he-tile?seed=1&size=48").image.shape == (48, 48, 3)
    with pytest.raises(DataError, match="he-tile phantom draws 32 to 1024"):
        he_tile(0, size=2000)
