"""Sets of prostate MR as they lie on disk: PROSTATEx with its masks, PROMISE12, and the Decathlon's fifth task."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.media.conftest import dicom_file  # noqa: F401
from zoo import media
from zoo.data.sets import load_dataset, read_mask
from zoo.errors import DataError, MediaError
from zoo.media.nifti import read_nifti
from zoo.models.universeg_prostate.support import read_support

nib = pytest.importorskip("nibabel")
AFFINE = np.diag([-0.5, -0.5, 3.0, 1.0])


def _nifti(path: Path, array: np.ndarray) -> None:
    """``array`` [z h w] or [z h w t]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.swapaxes(array, 0, 2), AFFINE), path)


def _zones() -> tuple[np.ndarray, np.ndarray]:
    tz, pz = np.zeros((2, 4, 6, 5), np.uint8)
    tz[1:3, 2:4, 1:3] = 1
    pz[1:3, 4:5, 1:3] = 1
    return tz, pz


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """``PROSTATEx_masks`` as it's cloned: of two patients, and one whose image isn't there."""
    folder = tmp_path / "PROSTATEx_masks" / "Files" / "prostate"
    tz, pz = _zones()
    for patient in ("ProstateX-0000", "ProstateX-0001", "ProstateX-0007"):
        _nifti(folder / "mask_tz" / f"{patient}_tz.nii.gz", tz)
        _nifti(folder / "mask_pz" / f"{patient}_pz.nii.gz", pz)
        _nifti(folder / "mask_prostate" / f"{patient}.nii.gz", tz | pz)
    (folder / "image_list.csv").write_text(
        "T2\nProstateX-0000_t2_tse_tra_4\nProstateX-0001_t2_tse_tra_Grappa3_10\nProstateX-0007_t2_tse_tra_4\n"
    )
    return tmp_path


def test_prostatex_as_nifti(masks: Path) -> None:
    image = np.arange(120, dtype=np.int16).reshape(4, 6, 5)
    for name, value in (("ProstateX-0000_t2_tse_tra_4", 0), ("ProstateX-0001_t2_tse_tra_Grappa3_10", 1),
                        ("ProstateX-0001_t2_tse_tra_5", 2)):  # fmt: skip
        _nifti(masks / "Images" / f"{name}.nii.gz", image + np.int16(1000 * value))
    found = load_dataset(f"prostatex:{masks}")
    assert found.ids == ["ProstateX-0000", "ProstateX-0001"]
    assert [entry.patient for entry in found.entries] == found.ids
    one = found[1]
    assert Path(one.image).name == "ProstateX-0001_t2_tse_tra_Grappa3_10.nii.gz"  # as image_list.csv says
    tz, pz = _zones()
    np.testing.assert_array_equal(read_mask(one), tz + 2 * pz)
    np.testing.assert_array_equal(read_mask(one, "gland"), tz | pz)
    np.testing.assert_array_equal(read_mask(one, "pz"), pz)
    support = read_support(found, "tz", 16, "percentiles")
    assert (len(support), int(support.labels.any((1, 2)).sum())) == (8, 4)


def test_prostatex_as_tcia_gives_it(masks: Path, dicom_file: Callable[..., Path]) -> None:  # noqa: F811
    from pydicom.uid import generate_uid

    study = masks / "PROSTATEx" / "ProstateX-0000" / "07-07-2011-NA-MR prostaat kanker detectie-05711"
    for series, value in (
        ("3.000000-t2tsesag-87368", 7),
        ("4.000000-t2tsetra-00702", 1),
        ("9.000000-t2tsetra-11111", 2),
    ):
        (study / series).mkdir(parents=True)
        uid = generate_uid()
        for z in range(4):
            made = dicom_file(
                f"{series}-{z}.dcm", np.full((6, 5), 100 * value + z, np.uint16), SeriesInstanceUID=uid,
                PixelSpacing=[0.5, 0.5], ImagePositionPatient=[0, 0, 3.0 * z],
                ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            )  # fmt: skip
            made.rename(study / series / f"1-{z + 1:02}.dcm")
    found = load_dataset(f"prostatex:{masks}")
    assert found.ids == ["ProstateX-0000"]
    image = media.read(found[0].image)
    assert (image.size, image.array[0, 0, 0]) == ((4, 6, 5), 100)  # series 4, as image_list.csv says
    assert read_support(found, "gland", 16, "percentiles").z.tolist() == [0, 1, 2, 3]
    (masks / "PROSTATEx_masks" / "Files" / "prostate" / "image_list.csv").unlink()
    with pytest.raises(DataError, match=r"ProstateX-0000 has 2 axial T2 series and image_list.csv names none"):
        load_dataset(f"prostatex:{masks}")


def test_prostatex_without_images_or_masks_is_refused(masks: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no mask_tz/"):
        load_dataset(f"prostatex:{masks}")


def test_promise12(tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    for folder, name, labelled in (("TrainingData_Part1", "Case00", True), ("TrainingData_Part2", "Case01", True),
                                   ("TestData", "Case30", False)):  # fmt: skip
        (tmp_path / folder).mkdir()
        image = sitk.GetImageFromArray(np.arange(120, dtype=np.int16).reshape(4, 6, 5))
        image.SetSpacing((0.6, 0.6, 3.6))
        sitk.WriteImage(image, str(tmp_path / folder / f"{name}.mhd"))
        if labelled:
            mask = sitk.GetImageFromArray(_zones()[0].astype(np.int8))
            mask.CopyInformation(image)
            sitk.WriteImage(mask, str(tmp_path / folder / f"{name}_segmentation.mhd"))
    found = load_dataset(f"promise12:{tmp_path}")
    assert (found.ids, found.labels) == (["Case00", "Case01"], ("background", "gland"))
    image = media.read(found[1].image)
    assert (image.size, image.spacing, image.format) == ((4, 6, 5), pytest.approx((3.6, 0.6, 0.6)), "metaimage")
    np.testing.assert_array_equal(read_mask(found[1]), _zones()[0])
    assert len(read_support(found, "gland", 16, "percentiles").pooled("inclusive")) == 4
    (tmp_path / "TestData" / "Case00.mhd").write_text("ObjectType = Image\n")
    with pytest.raises(DataError, match=r"Case00.mhd lies in .* and in .*; keep one"):
        load_dataset(f"promise12:{tmp_path}")
    with pytest.raises(DataError, match=r"holds no CaseNN.mhd with CaseNN_segmentation.mhd"):
        load_dataset(f"promise12:{tmp_path / 'TrainingData_Part1' / '..' / 'TestData'}")


def test_task_five_of_the_decathlon_gives_t2_of_t2_and_adc(tmp_path: Path) -> None:
    tz, pz = _zones()
    t2 = np.arange(120, dtype=np.float32).reshape(4, 6, 5)
    for name in ("prostate_00", "prostate_01"):
        _nifti(tmp_path / "imagesTr" / f"{name}.nii.gz", np.stack([t2, 1000 - t2], -1))
        _nifti(tmp_path / "labelsTr" / f"{name}.nii.gz", 2 * tz + pz)
    pairs = [{"image": f"./imagesTr/prostate_0{i}.nii.gz", "label": f"./labelsTr/prostate_0{i}.nii.gz"} for i in (0, 1)]
    described = {
        "name": "PROSTATE", "tensorImageSize": "4D", "modality": {"0": "T2", "1": "ADC"},
        "labels": {"0": "background", "1": "PZ", "2": "TZ"}, "numTraining": 2, "training": pairs,
        "test": ["./imagesTs/prostate_03.nii.gz"],
    }  # fmt: skip
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    found = load_dataset(f"msd:{tmp_path}")
    assert (found.ids, found.labels) == (["prostate_00", "prostate_01"], ("background", "PZ", "TZ"))
    image = media.read(found[0].image)
    np.testing.assert_array_equal(image.array, t2)
    np.testing.assert_array_equal(image.affine, AFFINE)
    np.testing.assert_array_equal(read_support(tmp_path, "pz", 16, "percentiles").labels.any((1, 2)), 2 * [0, 1, 1, 0])
    assert (
        read_support(tmp_path, "tz", 16, "percentiles").labels.sum()
        > read_support(tmp_path, "pz", 16, "percentiles").labels.sum()
    )
    written = nib.load(media.write_mask(tmp_path / "mask", tz, image))
    assert written.shape == (5, 6, 4)
    np.testing.assert_array_equal(written.affine, AFFINE)
    adc = read_nifti(tmp_path / "imagesTr" / "prostate_00.nii.gz", 1)
    np.testing.assert_array_equal(adc.array, 1000 - t2)
    with pytest.raises(MediaError, match="it holds 2 volumes and not one with the index 2"):
        read_nifti(tmp_path / "imagesTr" / "prostate_00.nii.gz", 2)


def test_four_centres_are_joined_by_the_lists_of_the_user(masks: Path) -> None:
    root, image = masks, np.arange(96, dtype=np.int16).reshape(4, 6, 4)
    spec = f"prostate-centres:{root}"
    for patient in ("0000", "0001"):
        _nifti(root / "Images" / f"ProstateX-{patient}_t2_tse_tra_{4 if patient == '0000' else 10}.nii.gz",
               np.arange(120, dtype=np.int16).reshape(4, 6, 5))  # fmt: skip
    (root / "triotim.txt").write_text("ProstateX-0001\n")
    with pytest.raises(DataError, match="1 of the four centres"):
        load_dataset(spec)
    task = root / "Task05_Prostate"
    _nifti(task / "imagesTr" / "prostate_00.nii.gz", np.stack([image, -image], -1))
    labels = np.zeros((4, 6, 4), np.uint8)
    labels[1], labels[2] = 1, 2
    _nifti(task / "labelsTr" / "prostate_00.nii.gz", labels)
    (task / "dataset.json").write_text(json.dumps({
        "tensorImageSize": "4D", "labels": {"0": "background", "1": "PZ", "2": "TZ"},
        "training": [{"image": "./imagesTr/prostate_00.nii.gz", "label": "./labelsTr/prostate_00.nii.gz"}], "test": [],
    }))  # fmt: skip
    found = load_dataset(spec)
    assert found.ids == ["C1-prostate_00", "C4-ProstateX-0000"]  # without TrioTim
    one = found[0]
    assert one.attributes["centre"] == "C1"
    assert one.masks["gland"].max() == 1
    assert one.masks["gland"].sum() == 48  # both zones
    sitk = pytest.importorskip("SimpleITK")
    for name in ("Case00", "Case04"):
        for path, array in ((f"{name}.mhd", image), (f"{name}_segmentation.mhd", (labels > 0).astype(np.uint8))):
            sitk.WriteImage(sitk.GetImageFromArray(array), str(root / path))
    with pytest.raises(DataError, match=r"endorectal.txt is missing; it names PROMISE12's cases"):
        load_dataset(spec)
    (root / "endorectal.txt").write_text("Case07\n")
    with pytest.raises(DataError, match="names Case07, which isn't there; names are like Case00"):
        load_dataset(spec)
    (root / "endorectal.txt").write_text("Case04\n")
    found = load_dataset(spec)
    assert {case.id: case.attributes["centre"] for case in found} == {
        "C1-prostate_00": "C1", "C3-Case00": "C3", "C2-Case04": "C2", "C4-ProstateX-0000": "C4",
    }  # fmt: skip
    assert all("gland" in case.masks for case in found)
