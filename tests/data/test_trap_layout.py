"""The released trap sets of ISIC 2019, in a folder as they are unpacked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.data.layouts.isic2019_traps import ARTIFACTS
from zoo.data.sets import load_dataset, read_mask
from zoo.data.splits import divide
from zoo.errors import DataError

HEADER = ",image,dark_corner,hair,gel_border,gel_bubble,ruler,ink,patches,vasc,label,label_string"


@pytest.fixture
def traps(tmp_path: Path) -> Path:
    """ISIC 2019 with trap_sets/ beside its images, eight of them, and masks of two."""
    (tmp_path / "ISIC_2019_Training_Input").mkdir()
    (tmp_path / "isic2019-seg-299").mkdir()
    (tmp_path / "trap_sets").mkdir()
    for i in range(8):
        name = f"ISIC_000000{i}"
        Image.fromarray(np.full((9, 12, 3), 90, np.uint8)).save(tmp_path / f"ISIC_2019_Training_Input/{name}.jpg")
        if i < 2:
            mask = np.zeros((9, 12), np.uint8)
            mask[3:6, 4:8] = 255
            Image.fromarray(mask).save(tmp_path / f"isic2019-seg-299/{name}.png")
    for part, rows in (("train", range(4)), ("val", range(4, 6)), ("test", range(6, 8))):
        lines = [HEADER]
        for place, i in enumerate(rows):
            lines.append(f"{place},ISIC_000000{i},0.9,0.2,0.0,0.1,{0.7 if i % 2 else 0.59},0,0,0,{i % 2},malignant")
        (tmp_path / f"trap_sets/{part}_bias_1_3.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "trap_sets"


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_any_file_of_a_trap_set_brings_the_others_along(traps: Path, part: str) -> None:
    dataset = load_dataset(f"isic2019-traps:{traps}/{part}_bias_1_3.csv")
    assert [case.label for case in dataset] == ["benign", "melanoma"] * 4
    parts = divide(dataset)
    assert (parts.train.ids, parts.validation.ids) == (dataset.ids[:4], dataset.ids[4:6])
    assert parts.test.ids == ["ISIC_0000006", "ISIC_0000007"]


def test_artifacts_count_from_0_6_on_and_masks_come_along(traps: Path) -> None:
    dataset = load_dataset(f"isic2019-traps:{traps}/test_bias_1_3.csv")
    assert dataset[0].attributes["artifacts"] == ["dark_corner"]
    assert dataset[1].attributes["artifacts"] == ["dark_corner", "ruler"]
    assert all(isinstance(dataset[1].attributes[name], float) for name in ARTIFACTS)
    assert read_mask(dataset[0]).sum() == 12
    assert "mask" not in dataset[5].masks


def test_what_does_not_fit_is_refused(traps: Path) -> None:
    spec = f"isic2019-traps:{traps}/train_bias_1_3.csv"
    with pytest.raises(DataError, match="name one of the files"):
        load_dataset(f"isic2019-traps:{traps}")
    test = traps / "test_bias_1_3.csv"
    whole = test.read_text()
    test.write_text(whole.replace("ISIC_0000006", "ISIC_0000001"))
    with pytest.raises(DataError, match="which another file of this trap set has too"):
        load_dataset(spec)
    test.write_text(whole.replace("ISIC_0000006", "ISIC_0000099"))
    with pytest.raises(DataError, match="which is not in"):
        load_dataset(spec)
    test.write_text(whole.replace(",1,malignant", ",2,malignant"))
    with pytest.raises(DataError, match="0 or 1 in the column label"):
        load_dataset(spec)
    test.write_text(whole.replace("0.7", "much"))
    with pytest.raises(DataError, match="must have numbers"):
        load_dataset(spec)
    test.unlink()
    with pytest.raises(DataError, match="the three files of a trap set"):
        load_dataset(spec)
    (traps.parent / "ISIC_2019_Training_Input").rename(traps.parent / "elsewhere")
    with pytest.raises(DataError, match="there is no ISIC_2019_Training_Input/"):
        load_dataset(spec)
