"""The prostate MR: zones in the gland, the same in every centre, seen through each centre's coil and grid."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo import media
from zoo.data.phantoms import make
from zoo.data.phantoms.prostate_mr import CENTRES, prostate_mr
from zoo.data.volumes import volumes_ml, voxels
from zoo.errors import DataError


def _upright(case) -> tuple[np.ndarray, np.ndarray]:
    return case.image.axial().astype(float), case.image.axial(case.masks["mask"])


@settings(max_examples=5)
@given(seed=st.integers(0, 10_000), size=st.integers(32, 64), slices=st.integers(8, 24))
def test_it_is_a_pure_function_with_the_stated_types(seed: int, size: int, slices: int) -> None:
    a, b = (prostate_mr(seed, size=size, slices=slices) for _ in range(2))
    assert np.array_equal(a.image.array, b.image.array)
    assert a.image.size == a.masks["mask"].shape == (slices, size, size)
    assert a.image.array.dtype == np.int16
    assert a.masks["mask"].dtype == a.masks["gland"].dtype == np.uint8
    assert np.array_equal(a.masks["gland"], a.masks["mask"] > 0)
    assert set(np.unique(a.masks["mask"])) == {0, 1, 2}


@pytest.mark.parametrize("seed", range(4))
def test_the_peripheral_zone_is_bright_and_behind(seed: int) -> None:
    signal, zones = _upright(prostate_mr(seed, centre="d"))
    assert np.median(signal[zones == 2]) > 1.3 * np.median(signal[zones == 1])
    rows = [np.nonzero(zones == zone)[1].mean() for zone in (1, 2)]
    assert rows[0] < rows[1]


def test_glands_are_those_of_men_and_the_same_in_every_centre() -> None:
    for seed in range(3):
        ml = {}
        for name in CENTRES:
            case = prostate_mr(seed, centre=name)
            _, grid = voxels(case.image)
            ml[name] = volumes_ml(case.masks["gland"], grid, {1: "gland"})["gland"]
            assert case.attributes["centre"] == name
        assert 15 < ml["a"] < 70
        assert list(ml.values()) == pytest.approx([ml["a"]] * 4, rel=0.06)  # but for the size of their voxels


def test_the_endorectal_coil_is_bright_at_its_wall_and_fades_to_the_front() -> None:
    (with_coil, zones), (without, _) = (_upright(prostate_mr(2, centre=name)) for name in "ba")
    middle = int(np.nonzero(zones)[0].mean())
    columns = slice(36, 60)

    def ratio(signal: np.ndarray) -> float:
        """The back of the gland against what lies as far in front of it."""
        rows = np.nonzero(zones[middle].any(axis=1))[0]
        return float(np.median(signal[middle, rows[-4:], columns]) / np.median(signal[middle, 2:8, :12]))

    assert ratio(with_coil) > 1.5 * ratio(without)


def test_centres_differ_in_grid_and_grey_values() -> None:
    cases = {name: prostate_mr(1, centre=name) for name in CENTRES}
    assert len({case.image.spacing[2] for case in cases.values()}) == 4
    assert {case.image.meta["orientation"] for case in cases.values()} == {"LPS", "RAS", "LAS"}
    darkest = {name: np.percentile(case.image.array, 1) for name, case in cases.items()}
    assert darkest["c"] == max(darkest.values())


def test_the_specification_reads_as_a_volume_on_its_grid() -> None:
    image = media.read("phantom:prostate-mr?seed=2&size=32&slices=8&centre=c", mode="volume")
    assert (image.size, image.meta["orientation"]) == ((8, 32, 32), "RAS")
    for wrong, sentence in (
        ("slices=4", "draws 32 to 512 voxels and 8 to 128"),
        ("centre=x", "centre must be one of any, a, b, c, d, not 'x'"),
    ):
        with pytest.raises(DataError, match=sentence):
            make(f"phantom:prostate-mr?{wrong}")
