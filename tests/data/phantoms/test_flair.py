"""The FLAIR brain: lesions brighter than their surroundings, three sites, the skull stripped or not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo import media
from zoo.data.phantoms import make
from zoo.data.phantoms.flair import SITES, flair
from zoo.data.volumes import volumes_ml, voxels
from zoo.errors import DataError


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.integers(32, 56), slices=st.integers(24, 40))
def test_it_is_a_pure_function_with_the_stated_types(seed: int, size: int, slices: int) -> None:
    a, b = (flair(seed, size=size, slices=slices) for _ in range(2))
    assert np.array_equal(a.image.array, b.image.array)
    assert a.image.size == a.masks["mask"].shape == a.masks["brain"].shape == (slices, size, size)
    assert a.image.array.dtype == np.int16
    assert a.masks["mask"].dtype == a.masks["brain"].dtype == np.uint8
    assert set(np.unique(a.masks["mask"])) == {0, 1}
    assert np.array_equal(a.image.array > 0, a.masks["brain"] > 0)  # nothing else is 0, nothing outside isn't


@pytest.mark.parametrize("site", SITES)
def test_lesions_are_bright_and_inside_of_a_brain_of_usual_size(site: str) -> None:
    case = flair(4, size=64, slices=48, site=site)  # type: ignore[arg-type]
    signal, lesion, brain = case.image.array, case.masks["mask"] > 0, case.masks["brain"] > 0
    assert np.median(signal[lesion]) > 1.2 * np.median(signal[brain & ~lesion])
    assert not (lesion & ~brain).any()
    _, grid = voxels(case.image)
    ml = volumes_ml(case.masks["brain"], grid, {1: "brain"})["brain"]
    assert 1000 < ml < 1600
    assert case.attributes["site"] == site


def test_the_patient_is_the_same_at_every_site_with_or_without_a_skull() -> None:
    masks = [flair(1, size=48, slices=32, site=name).image.axial(flair(1, size=48, slices=32, site=name).masks["mask"])
             for name in SITES]  # type: ignore[arg-type]  # fmt: skip
    assert all(np.array_equal(masks[0], other) for other in masks[1:])
    bare, whole = (flair(1, size=48, slices=32, skull=skull) for skull in (False, True))
    assert np.array_equal(bare.masks["mask"], whole.masks["mask"])
    assert (whole.image.array == 0).mean() < 0.05 < 0.5 < (bare.image.array == 0).mean()
    healthy = flair(1, size=48, slices=32, lesions=False)
    assert not healthy.masks["mask"].any()
    assert healthy.attributes["lesions"] == 0


def test_the_specification_reads_as_a_volume_on_its_grid() -> None:
    image = media.read("phantom:flair?seed=2&size=32&slices=24&site=b", mode="volume")
    assert (image.size, image.meta["orientation"], image.meta["modality"]) == ((24, 32, 32), "RAS", "MR")
    for wrong, sentence in (
        ("slices=4", "draws 32 to 512 voxels and 24 to 512"),
        ("site=x", "site must be one of any, a, b, c, not 'x'"),
    ):
        with pytest.raises(DataError, match=sentence):
            make(f"phantom:flair?{wrong}")
