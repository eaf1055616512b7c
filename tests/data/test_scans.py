"""CT volumes with masks as networks see them, and patches of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.media.conftest import dicom_file  # noqa: F401
from zoo import media
from zoo.data.case import Case
from zoo.data.phantoms.abdominal_ct import abdominal_ct
from zoo.data.scans import Kept, View, cut_off, draw_patches, labelled, patch_at, read_case, read_scan, shifted, turned
from zoo.data.support import organ_of
from zoo.data.volumes import volumes_ml
from zoo.errors import DataError, MediaError

VIEW = View((6.0, 6.0, 6.0))


@pytest.fixture(scope="module")
def case() -> Case:
    return abdominal_ct(3, size=40, slices=24, scanner="c")


def test_a_scan_is_ras_at_the_spacing_and_in_the_window(case: Case) -> None:
    scan = read_case(case, VIEW, {"liver": organ_of(case, "liver")}, "x")
    assert scan.grid.orientation == "RAS"
    assert scan.grid.spacing == pytest.approx((6, 6, 6))
    assert tuple(scan.x.shape[1:]) == scan.grid.shape[::-1]
    assert 0 == scan.x.min() < scan.x.max() == 1
    native = volumes_ml(np.isin(case.masks["all"], (3, 4)), scan.native, {1: "liver"})["liver"]
    assert scan.size("liver") * scan.grid.voxel_ml == pytest.approx(native, rel=0.05)
    places = torch.nonzero(scan.y["liver"]).double().mean(0)
    assert places[0] > scan.x.shape[1] / 2  # the liver lies to the right, where x of RAS grows


def test_scanners_store_a_volume_their_own_way_and_it_comes_out_alike(case: Case) -> None:
    flipped = media.Image(
        case.image.array[:, ::-1], spacing=case.image.spacing, ndim_spatial=3,
        affine=case.image.affine @ np.array([[1, 0, 0, 0], [0, -1, 0, 39], [0, 0, 1, 0], [0, 0, 0, 1.0]]),
    )  # fmt: skip
    a, b = (read_scan(image, VIEW, "x").x for image in (case.image, flipped))
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_every_form_of_a_volume_looks_alike(tmp_path: Path, dicom_file: Callable[..., Path]) -> None:  # noqa: F811
    """NIfTI, NRRD, a DICOM series and an array with its spacing."""
    nibabel, sitk = pytest.importorskip("nibabel"), pytest.importorskip("SimpleITK")
    image = abdominal_ct(9, size=32, slices=16, scanner="a").image  # stored as scanners do, LPS
    array, affine, spacing = image.array, image.affine, image.spacing
    assert affine is not None
    assert spacing is not None
    nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), affine), tmp_path / "ct.nii.gz")
    nrrd = sitk.GetImageFromArray(array)
    nrrd.SetSpacing(spacing[::-1])
    nrrd.SetOrigin((-affine[0, 3], -affine[1, 3], affine[2, 3]))
    sitk.WriteImage(nrrd, str(tmp_path / "ct.nrrd"))
    for z, plane in enumerate(array):
        position = [-affine[0, 3], -affine[1, 3], affine[2, 3] + z * spacing[0]]
        dicom_file(
            f"series/{z:03}.dcm", plane.astype(np.int16), SeriesInstanceUID="1.2.3", RescaleSlope=1, RescaleIntercept=0,
            ImagePositionPatient=[float(c) for c in np.round(position, 6)], ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            PixelSpacing=[round(s, 8) for s in spacing[1:]],
        )  # fmt: skip
    flipped = media.Image(array[:, ::-1, ::-1], spacing=spacing, ndim_spatial=3)  # without an affine: RAS
    files = [tmp_path / name for name in ("ct.nii.gz", "ct.nrrd", "series")]
    first, *others = (read_scan(media.read(one), VIEW, "x") for one in (*files, flipped))
    for one in others:
        torch.testing.assert_close(one.x, first.x, atol=1e-3, rtol=0)
        assert one.grid.voxel_ml == pytest.approx(first.grid.voxel_ml, rel=1e-6)


def test_what_is_no_ct_or_has_no_spacing_is_refused() -> None:
    with pytest.raises(MediaError, match="x takes CT and array is MR"):
        read_scan(
            media.Image(np.zeros((4, 4, 4)), meta={"modality": "MR"}, spacing=(1, 1, 1), ndim_spatial=3), VIEW, "x"
        )
    with pytest.raises(MediaError, match="states no spacing"):
        read_scan(media.Image(np.zeros((4, 4, 4)), ndim_spatial=3), VIEW, "x")
    image = media.Image(np.zeros((4, 4, 4)), spacing=(1, 1, 1), ndim_spatial=3)
    odd = Case(image, "odd", masks={"mask": np.ones((4, 4, 5), np.uint8)})
    with pytest.raises(DataError, match="image and mask of case odd differ in size"):
        read_case(odd, VIEW, {"liver": organ_of(odd, "liver")}, "x")


def test_a_class_that_nobody_looked_for_is_not_known(case: Case) -> None:
    one = abdominal_ct(3, size=40, slices=24, labels="liver")
    scan, known = labelled(one, ("spleen", "liver", "left lung"), VIEW, "x")
    assert known.tolist() == [0, 1, 0]
    assert not scan.y["spleen"].any()
    assert scan.y["liver"].any()


def test_patches_stay_in_the_volume_and_a_share_of_them_lies_about_the_organ(case: Case) -> None:
    scan = read_case(case, VIEW, {"spleen": organ_of(case, "spleen")}, "x")
    rng = np.random.default_rng(0)
    x, y = draw_patches(scan, ["spleen"], (16, 16, 16), 12, 1.0, rng)
    assert x.shape == y.shape == (12, 1, 16, 16, 16)
    assert y.flatten(1).any(1).all()
    _, anywhere = draw_patches(scan, ["spleen"], (8, 8, 8), 40, 0.0, rng)
    assert anywhere.flatten(1).any(1).float().mean() < 0.6
    small = patch_at(torch.ones(1, 4, 20, 20), (0, 0, 19), (8, 8, 8))
    assert small[0, 2:6].all()
    assert not small[0, :2].any()


def test_grey_shifts_and_turns_are_of_whole_patches() -> None:
    x = torch.rand(50, 1, 4, 4, 3)
    moved = shifted(x, 0.1, 0.5, np.random.default_rng(0)) - x
    by = moved.flatten(1)
    torch.testing.assert_close(by.amin(1), by.amax(1), atol=1e-6, rtol=0)
    assert by.abs().max() <= 0.1 + 1e-6
    assert 10 < (by.abs().amax(1) > 1e-6).sum() < 40
    a, b = turned(x.clone(), x.clone(), 1.0, np.random.default_rng(0))
    assert torch.equal(a, b)
    assert not torch.equal(a, x)
    assert torch.equal(a.flatten(1).sort(1).values, x.flatten(1).sort(1).values)


def test_organs_at_the_first_or_last_slice_are_cut_off() -> None:
    mask = torch.zeros(4, 4, 4, dtype=torch.bool)
    mask[1, 1, 1] = True
    assert not cut_off(mask)
    mask[1, 1, 3] = True
    assert cut_off(mask)


def test_what_is_kept_fits_into_memory() -> None:
    made: list[int] = []
    kept = Kept(lambda place: made.append(place) or place, lambda _: 10, memory=20)
    assert [kept[i] for i in (0, 1, 2, 0, 1, 2)] == [0, 1, 2, 0, 1, 2]
    assert made == [0, 1, 2, 2]
