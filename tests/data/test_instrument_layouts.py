"""Sets of surgical instruments, in folders as they are unpacked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo import media
from zoo.data.sets import load_dataset, read_mask
from zoo.data.splits import split
from zoo.errors import DataError


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def square(size: tuple[int, int], top: int, left: int, value: int) -> np.ndarray:
    array = np.zeros(size, np.uint8)
    array[top : top + 4, left : left + 4] = value
    return array


def test_endovis_2017_joins_the_folders_of_its_instruments(tmp_path: Path) -> None:
    for number in (1, 2):
        folder = tmp_path / f"instrument_dataset_{number}"
        for frame in ("frame000.png", "frame001.png"):
            write(folder / "left_frames" / frame, np.full((20, 30, 3), 90, np.uint8))
            write(folder / "right_frames" / frame, np.zeros((20, 30, 3), np.uint8))
            truth = folder / "ground_truth"
            write(truth / "Left_Prograsp_Forceps_labels" / frame, square((20, 30), 2, 2, 30))  # values are parts
            write(truth / "Right_Prograsp_Forceps_labels" / frame, square((20, 30), 2, 20, 10))
            write(truth / "Maryland_Bipolar_Forceps_labels" / frame, square((20, 30), 12, 12, 20))
    data = load_dataset(f"endovis17:{tmp_path}")
    assert data.ids == [f"instrument_dataset_{n}/frame00{f}" for n in (1, 2) for f in (0, 1)]
    assert {entry.patient for entry in data.entries} == {"instrument_dataset_1", "instrument_dataset_2"}
    case = data[0]
    mask, instances = read_mask(case), read_mask(case, "instances")
    assert (mask[3, 3], mask[3, 21], mask[13, 13], mask[0, 0]) == (2, 2, 1, 0)
    assert len({instances[3, 3], instances[3, 21], instances[13, 13]}) == 3
    assert data.labels[:3] == ("background", "bipolar forceps", "prograsp forceps")


def test_frames_of_the_video_are_cut_to_the_cameras_image(tmp_path: Path) -> None:
    folder = tmp_path / "instrument_dataset_1"
    frame = np.zeros((1080, 1920, 3), np.uint8)
    frame[28, 320] = 200
    write(folder / "left_frames" / "frame000.png", frame)
    write(folder / "ground_truth" / "Other_labels" / "frame000.png", square((1080, 1920), 28, 320, 10))
    case = load_dataset(f"endovis17:{tmp_path}")[0]
    picture = media.read(case.image)
    assert picture.size == (1024, 1280)
    assert picture.array[0, 0, 0] == 200
    assert read_mask(case)[0, 0] == 7


def test_an_instrument_of_no_known_type_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "instrument_dataset_1"
    write(folder / "left_frames" / "frame000.png", np.zeros((20, 30, 3), np.uint8))
    write(folder / "ground_truth" / "Spoon_labels" / "frame000.png", square((20, 30), 2, 2, 10))
    with pytest.raises(DataError, match="Spoon_labels names none of the types"):
        load_dataset(f"endovis17:{tmp_path}")
    with pytest.raises(DataError, match="unpack EndoVis there"):
        load_dataset(f"endovis17:{folder}")


def test_endovis_2018_is_divided_as_published_and_by_sequence(tmp_path: Path) -> None:
    for part, sequences in (("train", (1, 3, 4, 6, 7, 10, 11, 12, 13, 14, 16)), ("val", (2, 5, 9, 15))):
        for number in sequences:
            write(tmp_path / part / "images" / f"seq_{number}_frame000.png", np.full((20, 30, 3), 9, np.uint8))
            write(tmp_path / part / "annotations" / f"seq_{number}_frame000.png", square((20, 30), 2, 2, 7))
    data = load_dataset(f"endovis18:{tmp_path}")
    assert len(data) == 15
    parts = split(data)
    assert sorted(parts.test.ids) == sorted(f"seq_{n}_frame000" for n in (2, 5, 9, 15))
    assert len(parts.train) + len(parts.validation) == 11
    assert read_mask(data[0])[3, 3] == 7
    assert data.labels[7] == "clip applier"
    (tmp_path / "val" / "annotations" / "seq_2_frame000.png").unlink()
    with pytest.raises(DataError, match="has no mask of that name"):
        load_dataset(f"endovis18:{tmp_path}")
