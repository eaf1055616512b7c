"""Chest radiographs with a mask for each lung."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.data.layouts import jsrt, montgomery
from zoo.data.sets import load_dataset, read_mask
from zoo.errors import DataError


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def lung(size: int, first: int) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    mask[size // 4 : 3 * size // 4, first : first + size // 4] = 255
    return mask


@pytest.fixture
def county(tmp_path: Path) -> Path:
    root = tmp_path / "MontgomerySet"
    for name in ("MCUCXR_0001_0", "MCUCXR_0104_1"):
        write(root / "CXR_png" / f"{name}.png", np.full((40, 40), 99, np.uint8))
        write(root / "ManualMask/leftMask" / f"{name}.png", lung(40, 25))
        write(root / "ManualMask/rightMask" / f"{name}.png", lung(40, 5))
    (root / "CXR_png" / "Thumbs.db").write_bytes(b"x")
    return tmp_path


def test_montgomery_is_read_as_unpacked(county: Path) -> None:
    data = load_dataset(f"montgomery:{county}")
    assert data.ids == ["MCUCXR_0001_0", "MCUCXR_0104_1"]
    assert [case.label for case in data] == ["normal", "tuberculosis"]
    assert [entry.patient for entry in data.entries] == ["0001", "0104"]
    case = data[0]
    assert read_mask(case, "left_lung")[20, 30] == 1
    assert read_mask(case, "left_lung")[20, 10] == 0
    assert read_mask(case).sum() == read_mask(case, "left_lung").sum() + read_mask(case, "right_lung").sum()


def test_the_left_lung_is_the_patients_whatever_the_folder_is_called(county: Path) -> None:
    root = county / "MontgomerySet" / "ManualMask"
    (root / "leftMask").rename(root / "other")
    (root / "rightMask").rename(root / "leftMask")
    (root / "other").rename(root / "rightMask")
    assert read_mask(montgomery.read("montgomery:x", county)[0], "left_lung")[20, 30] == 1


def test_a_missing_mask_and_an_empty_folder_are_refused(county: Path) -> None:
    (county / "MontgomerySet/ManualMask/leftMask/MCUCXR_0001_0.png").unlink()
    with pytest.raises(DataError, match=r"MCUCXR_0001_0\.png has no mask"):
        montgomery.read("montgomery:x", county)
    with pytest.raises(DataError, match="there are no images"):
        montgomery.read("montgomery:x", county / "MontgomerySet" / "ManualMask")


def test_jsrt_turns_air_dark_and_brings_the_masks_to_the_images_size(tmp_path: Path) -> None:
    stored = np.zeros((2048, 2048), ">u2")
    stored[:, 1024:] = 4095
    (tmp_path / "All247images").mkdir()
    for name in ("JPCLN001", "JPCNN002", "JPCNN003"):
        stored.tofile(tmp_path / "All247images" / f"{name}.IMG")
    for fold, name in (("fold1", "JPCLN001"), ("fold2", "JPCNN002")):
        for side, first in (("left", 600), ("right", 100)):
            write(tmp_path / "scratch" / fold / "masks" / f"{side} lung" / f"{name}.gif", lung(1024, first))
    data = load_dataset(f"jsrt:{tmp_path}")
    assert data.ids == ["JPCLN001", "JPCNN002"]  # the third has no masks
    case = data[0]
    assert case.label == "nodule"
    assert case.image.shape == read_mask(case, "left_lung").shape == (2048, 2048)
    assert case.image[0, 0] == 4095
    assert case.image[0, 2000] == 0
    assert read_mask(case, "left_lung")[1024, 1300] == 1
    assert read_mask(case, "right_lung")[1024, 300] == 1
    (tmp_path / "All247images" / "JPCLN001.IMG").write_bytes(bytes(10))
    with pytest.raises(DataError, match="2048 x 2048"):
        _ = jsrt.read("jsrt:x", tmp_path)[0]
    with pytest.raises(DataError, match=r"holds no JPC\*\.IMG"):
        jsrt.read("jsrt:x", tmp_path / "scratch")
