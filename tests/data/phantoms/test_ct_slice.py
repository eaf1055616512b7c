"""The CT slice: organs lie where they belong and have their densities."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.data.phantoms import make
from zoo.data.phantoms.ct_slice import ORGANS, WINDOW, ct_slice
from zoo.errors import DataError

few = settings(max_examples=6)
seeds = st.integers(0, 10_000)


def units(image: np.ndarray) -> np.ndarray:
    return image / 255 * (WINDOW[1] - WINDOW[0]) + WINDOW[0]


@few
@given(seed=seeds, size=st.integers(32, 140))
def test_it_is_a_pure_function_with_the_stated_types(seed: int, size: int) -> None:
    a, b = ct_slice(seed, size=size), ct_slice(seed, size=size)
    assert np.array_equal(a.image, b.image)
    assert a.image.shape == (size, size)
    assert a.image.dtype == a.masks["mask"].dtype == np.uint8
    assert set(np.unique(a.masks["mask"])) <= set(range(len(ORGANS) + 1))


@few
@given(seed=seeds)
def test_organs_have_their_side_and_density(seed: int) -> None:
    case = ct_slice(seed, size=192, lesions=False)
    organs, hu = case.masks["mask"], units(case.image)
    centre = {name: np.nonzero(organs == i)[1].mean() for i, name in enumerate(ORGANS, start=1)}
    assert centre["liver"] < 96 < centre["spleen"]  # the patient's right is the image's left
    assert centre["right kidney"] < centre["aorta"] < centre["left kidney"]
    assert 80 < np.median(hu[organs == 1]) < 135
    assert np.median(hu[organs == 3]) > np.median(hu[organs == 1])  # kidneys take up contrast
    assert case.image[0, 0] == 0  # air
    assert not case.masks["lesions"].any()


def test_metastases_lie_in_the_liver_and_are_darker() -> None:
    found = [ct_slice(seed, size=160) for seed in range(12)]
    with_lesions = [case for case in found if case.masks["lesions"].any()]
    assert 4 <= len(with_lesions) < 12
    for case in with_lesions:
        lesion = case.masks["lesions"] > 0
        assert (case.masks["mask"][lesion] == 1).all()
        healthy = (case.masks["mask"] == 1) & ~lesion
        assert units(case.image)[lesion].mean() < units(case.image)[healthy].mean() - 10


def test_options_come_through_the_specification_and_wrong_ones_are_refused() -> None:
    assert not make("phantom:ct-slice?seed=1&size=48&lesions=false").masks["lesions"].any()
    with pytest.raises(DataError, match="ct-slice phantom draws 32 to 1024"):
        ct_slice(0, size=5)
