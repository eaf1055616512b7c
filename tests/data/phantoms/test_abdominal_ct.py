"""The CT volume: organs lie where they belong on every scanner's grid, and a clinic may know only one of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo import media
from zoo.data.phantoms import make
from zoo.data.phantoms.abdominal_ct import LABELS, SCANNERS, abdominal_ct
from zoo.data.volumes import resample, volumes_ml, voxels
from zoo.errors import DataError

VALUE = {label: value for value, label in enumerate(LABELS, start=1)}
small = {"size": 48, "slices": 24}


def _upright(case) -> tuple[np.ndarray, np.ndarray]:
    """Hounsfield units and all labels, as a radiologist sees them."""
    return case.image.axial(), case.image.axial(case.masks["all"])


@settings(max_examples=5)
@given(seed=st.integers(0, 10_000), size=st.integers(32, 60), slices=st.integers(16, 30))
def test_it_is_a_pure_function_with_the_stated_types(seed: int, size: int, slices: int) -> None:
    a, b = (abdominal_ct(seed, size=size, slices=slices) for _ in range(2))
    assert np.array_equal(a.image.array, b.image.array)
    assert a.image.size == a.masks["mask"].shape == (slices, size, size)
    assert a.image.array.dtype == np.int16
    assert a.masks["mask"].dtype == np.uint8
    assert np.array_equal(a.masks["mask"], a.masks["all"])
    assert set(np.unique(a.masks["all"])) <= {0, *VALUE.values()}


@pytest.mark.parametrize("scanner", SCANNERS)
@pytest.mark.parametrize("seed", [3, 4])
def test_organs_have_their_side_and_density(scanner, seed: int) -> None:
    case = abdominal_ct(seed, scanner=scanner, tumours=False, size=64, slices=32)
    hu, labels = _upright(case)
    z, y, x = (
        {name: np.nonzero(labels == VALUE[name])[axis].mean() for name in LABELS if (labels == VALUE[name]).any()}
        for axis in range(3)
    )
    assert x["liver"] < 28 < 36 < x["spleen"]  # the patient's right is the image's left
    assert y["stomach"] < y["pancreas"] < y["kidney"]
    assert z["kidney"] < z["pancreas"] < z["liver"]
    density = {name: np.median(hu[labels == VALUE[name]]) for name in ("kidney", "liver", "gallbladder", "aorta")}
    assert density["gallbladder"] < density["liver"] < density["aorta"]
    assert density["kidney"] > density["liver"]  # kidneys take up contrast
    assert np.median(hu[:, 0]) < -900  # air in front


def test_volumes_are_those_of_people() -> None:
    case = abdominal_ct(1, size=64, slices=32)
    _, grid = voxels(case.image)
    ml = volumes_ml(case.masks["all"], grid, {value: label for label, value in VALUE.items()})
    assert 700 < ml["liver"] < 2200
    assert 60 < ml["spleen"] < 350
    assert 120 < ml["kidney"] + ml["kidney tumour"] < 450
    assert 20 < ml["pancreas"] + ml["pancreas tumour"] < 150


def test_scanners_differ_and_the_anatomy_does_not() -> None:
    cases = {name: abdominal_ct(7, scanner=name, **small) for name in SCANNERS}
    first = voxels(cases["a"].image)[1]
    assert {case.image.meta["orientation"] for case in cases.values()} == {"LPS", "RAS", "LAS"}
    for case in cases.values():
        _, grid = voxels(case.image)
        moved = resample(case.masks["all"], grid, first, mode="nearest")
        np.testing.assert_array_equal(moved, cases["a"].masks["all"])
    noise = {name: np.std(_upright(case)[0][:, :4, :4]) for name, case in cases.items()}  # of the air
    assert noise["b"] > noise["a"] > noise["c"]
    liver = {name: np.median(hu[labels == VALUE["liver"]]) for name, (hu, labels) in
             ((name, _upright(case)) for name, case in cases.items())}  # fmt: skip
    assert liver["d"] < liver["b"] < liver["a"]


def test_a_clinic_that_annotates_one_organ_knows_its_tumour_and_nothing_else() -> None:
    case = abdominal_ct(5, labels="liver", **small)
    known, truth = case.masks["mask"], case.masks["all"]
    assert case.attributes["labelled"] == [VALUE["liver"], VALUE["liver tumour"]]
    np.testing.assert_array_equal(known, np.where(np.isin(truth, [3, 4]), truth, 0))
    np.testing.assert_array_equal(truth, abdominal_ct(5, **small).masks["all"])


def test_tumours_lie_in_their_organ_and_are_darker() -> None:
    found = [abdominal_ct(seed, scanner="a", size=64, slices=32) for seed in range(6)]
    for organ in ("kidney", "liver", "pancreas"):
        bearing = [case for case in found if (case.masks["all"] == VALUE[f"{organ} tumour"]).sum() > 20]
        assert 2 <= len(bearing) <= 6
        for case in bearing:
            hu, labels = _upright(case)
            assert hu[labels == VALUE[f"{organ} tumour"]].mean() < np.median(hu[labels == VALUE[organ]]) - 10
    without = abdominal_ct(0, scanner="a", tumours=False, **small)
    assert not any((without.masks["all"] == VALUE[f"{organ} tumour"]).any() for organ in ("kidney", "liver"))


def test_the_specification_reads_as_a_volume_on_its_grid() -> None:
    image = media.read("phantom:abdominal-ct?seed=2&size=32&slices=16&scanner=c", mode="volume")
    assert image.source == "phantom:abdominal-ct?seed=2&size=32&slices=16&scanner=c"
    assert image.meta["orientation"] == "RAS"
    assert make("phantom:abdominal-ct?seed=2&size=32&slices=16&labels=spleen").attributes["labelled"] == [7]
    for wrong, sentence in (
        ("size=8", "abdominal-ct phantom draws 32 to 512"),
        ("scanner=x", "scanner must be one of any, a, b, c, d, not 'x'"),
        ("labels=heart", "labels must be one of .*, not 'heart'"),
    ):
        with pytest.raises(DataError, match=sentence):
            make(f"phantom:abdominal-ct?{wrong}")
