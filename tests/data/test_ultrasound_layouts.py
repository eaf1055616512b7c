"""Ultrasound sets with one folder for each sub-group."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.data.sets import load_dataset, read_mask
from zoo.errors import DataError


def write(path: Path, mask: bool = False, left: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.zeros((12, 20), np.uint8)
    array[2:6, left : left + 5] = 255 if mask else 120
    Image.fromarray(array).save(path)


@pytest.fixture
def busi(tmp_path: Path) -> Path:
    root = tmp_path / "Dataset_BUSI_with_GT"
    for group in ("benign", "malignant", "normal"):
        for number in (1, 2):
            write(root / group / f"{group} ({number}).png")
            write(root / group / f"{group} ({number})_mask.png", mask=True)
    write(root / "benign" / "benign (1)_mask_1.png", mask=True, left=10)
    return tmp_path


def test_busi_is_read_as_unpacked_and_masks_of_an_image_are_united(busi: Path) -> None:
    data = load_dataset(f"busi:{busi}")
    assert len(data) == 6
    cases = {case.id: case for case in data}
    assert {case.attributes["condition"] for case in data} == {"benign", "malignant", "normal"}
    assert all(case.label == case.attributes["condition"] for case in data)
    two = read_mask(cases["benign/benign (1)"])
    assert two[3, 2] == two[3, 12] == 1
    assert two.sum() == 40
    assert read_mask(cases["benign/benign (2)"]).sum() == 20


def test_the_inner_folder_may_be_named_too(busi: Path) -> None:
    assert load_dataset(f"busi:{busi / 'Dataset_BUSI_with_GT'}").ids == load_dataset(f"busi:{busi}").ids


def test_an_image_without_a_mask_and_a_folder_too_few_are_refused(busi: Path) -> None:
    lone = busi / "Dataset_BUSI_with_GT" / "normal" / "normal (2)_mask.png"
    lone.unlink()
    with pytest.raises(DataError, match=r"normal \(2\)\.png has no mask"):
        load_dataset(f"busi:{busi}")
    for path in lone.parent.iterdir():
        path.unlink()
    lone.parent.rmdir()
    with pytest.raises(DataError, match=r"there is no folder .*normal"):
        load_dataset(f"busi:{busi}")


def test_masks_of_different_sizes_are_refused_when_they_are_read(busi: Path) -> None:
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(busi / "Dataset_BUSI_with_GT/benign/benign (1)_mask_1.png")
    data = load_dataset(f"busi:{busi}")
    with pytest.raises(DataError, match="differ in size"):
        list(data)


def test_nerves_may_lack_places_but_not_all(tmp_path: Path) -> None:
    for place in ("FH", "FN+2", "ulnar"):
        write(tmp_path / place / "a.png")
        write(tmp_path / place / "a_mask.png", mask=True)
    data = load_dataset(f"nerve:{tmp_path}")
    assert data.ids == ["FH/a", "FN+2/a", "ulnar/a"]
    with pytest.raises(DataError, match="there is no folder"):
        load_dataset(f"nerve:{tmp_path / 'FH'}")
