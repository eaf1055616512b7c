"""Public sets of CT volumes, in folders made exactly as they are unpacked."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from zoo.data.check import require
from zoo.data.layouts import btcv, totalsegmentator
from zoo.data.sets import load_dataset, read_mask
from zoo.data.support import organ_of, structures
from zoo.errors import DataError
from zoo.models.fseft import plugin


def write(path: Path, array: np.ndarray, spacing: float = 1.5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([spacing, spacing, spacing, 1.0])), path)


@pytest.fixture
def btcv_folder(tmp_path: Path) -> Path:
    for number in (1, 2, 40):
        labels = np.zeros((6, 7, 8), np.uint8)
        labels[:3], labels[3:5] = 6, 13
        write(tmp_path / f"RawData/Training/img/img{number:04}.nii.gz", np.full((6, 7, 8), number, np.int16))
        write(tmp_path / f"RawData/Training/label/label{number:04}.nii.gz", labels)
    write(tmp_path / "RawData/Testing/img/img0061.nii.gz", np.zeros((6, 7, 8), np.int16))
    return tmp_path


def test_btcv_has_thirteen_organs_and_no_scan_without_masks(btcv_folder: Path) -> None:
    dataset = load_dataset(f"btcv:{btcv_folder}")
    assert dataset.ids == ["img0001", "img0002", "img0040"]
    assert len(dataset.labels) == 14
    require(dataset, plugin)
    case = dataset[2]
    assert set(structures(case)) == set(btcv.LABELS)
    name, values = organ_of(case, "liver")
    assert values == (6,)
    assert np.isin(read_mask(case, name), values).sum() == 3 * 7 * 8
    assert organ_of(case, "left adrenal gland").values == (13,)


def test_btcv_without_masks_is_refused(btcv_folder: Path) -> None:
    (btcv_folder / "RawData/Training/label/label0002.nii.gz").unlink()
    with pytest.raises(DataError, match=r"img0002\.nii\.gz has no mask .*label0002"):
        load_dataset(f"btcv:{btcv_folder}")
    with pytest.raises(DataError, match="holds no Training/img"):
        load_dataset(f"btcv:{btcv_folder / 'RawData/Testing'}")


@pytest.fixture
def totalsegmentator_folder(tmp_path: Path) -> Path:
    rows = ["image_id;age;gender;institute;study_type;split;manufacturer"]
    for number, institute, study, split in (
        (4, "A", "ct thorax-abdomen-pelvis", "train"),
        (11, "B", "ct thorax-abdomen-pelvis", "test"),
        (29, "B", "ct thorax-abdomen-pelvis", "train"),
        (30, "B", "ct thorax", "val"),
    ):
        name = f"s{number:04}"
        rows.append(f"{name};60;m;{institute};{study};{split};")
        write(tmp_path / name / "ct.nii.gz", np.full((5, 5, 6), -1000 + number, np.int16))
        for place, organ in enumerate((*totalsegmentator.ORGANS, "lung_upper_lobe_left")):
            mask = np.zeros((5, 5, 6), np.uint8)
            mask[place // 3, place % 3] = 1
            write(tmp_path / name / "segmentations" / f"{organ}.nii.gz", mask)
    (tmp_path / "meta.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_totalsegmentator_has_a_mask_for_each_structure_and_the_nine_organs_together(
    totalsegmentator_folder: Path,
) -> None:
    dataset = load_dataset(f"totalsegmentator:{totalsegmentator_folder}")
    assert dataset.ids == ["s0004", "s0011", "s0029", "s0030"]
    assert all(entry.split is None for entry in dataset.entries)
    case = dataset[1]
    assert case.attributes["stated_split"] == "test"
    assert case.attributes["institute"] == "B"
    assert {"lung_upper_lobe_left", "kidney_left"} <= set(structures(case))
    together = read_mask(case)
    assert together.max() == 9
    for value, organ in enumerate(totalsegmentator.ORGANS, start=1):
        np.testing.assert_array_equal(together == value, read_mask(case, organ) > 0)
    assert organ_of(case, "left kidney").mask == "kidney_left"


def test_the_scans_of_the_study_are_those_of_one_institute(totalsegmentator_folder: Path) -> None:
    assert load_dataset(f"totalsegmentator-tap:{totalsegmentator_folder}").ids == ["s0011", "s0029"]


def test_a_totalsegmentator_that_is_not_whole_is_refused(totalsegmentator_folder: Path) -> None:
    (totalsegmentator_folder / "s0004/segmentations/liver.nii.gz").unlink()
    with pytest.raises(DataError, match=r"has no liver\.nii\.gz"):
        load_dataset(f"totalsegmentator:{totalsegmentator_folder}")[0]
    (totalsegmentator_folder / "meta.csv").write_text("image_id;institute\n../../etc;A\n")
    with pytest.raises(DataError, match="no folder's name"):
        load_dataset(f"totalsegmentator:{totalsegmentator_folder}")
    (totalsegmentator_folder / "meta.csv").unlink()
    with pytest.raises(DataError, match=r"there is no .*meta\.csv"):
        load_dataset(f"totalsegmentator:{totalsegmentator_folder}")
