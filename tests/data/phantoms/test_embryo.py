"""The embryo phantom: components lie within each other as in a blastocyst."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation, binary_fill_holes

from zoo.data.phantoms.embryo import embryo
from zoo.errors import DataError


@settings(max_examples=8)
@given(seed=st.integers(0, 10_000), size=st.integers(32, 130))
def test_it_is_a_pure_function_with_all_components(seed: int, size: int) -> None:
    a, b = embryo(seed, size=size), embryo(seed, size=size)
    assert np.array_equal(a.image, b.image)
    assert a.image.shape == a.masks["mask"].shape == (size, size)
    assert a.image.dtype == a.masks["mask"].dtype == np.uint8
    assert set(np.unique(a.masks["mask"])) == {0, 1, 2, 3, 4}


@settings(max_examples=8)
@given(seed=st.integers(0, 10_000))
def test_the_shell_holds_the_layer_and_the_layer_the_rest(seed: int) -> None:
    mask = embryo(seed, size=128).masks["mask"]
    for outer in (1, 2):
        inside = binary_fill_holes(mask == outer)
        assert inside[mask > outer].all()
    assert (binary_dilation(mask == 4, iterations=3) & (mask == 2)).any()  # the clump sits on the layer


def test_the_shell_is_brighter_than_the_medium() -> None:
    cases = [embryo(seed, size=96) for seed in range(12)]
    gaps = [float(c.image[c.masks["mask"] == 1].mean()) - float(c.image[c.masks["mask"] == 0].mean()) for c in cases]
    assert min(gaps) > 15


def test_sizes_out_of_range_are_refused() -> None:
    with pytest.raises(DataError, match="32 to 1024"):
        embryo(0, size=20)
