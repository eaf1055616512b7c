"""Lists of sets in their order, and Derm7pt as it is unpacked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.data.layouts.derm7pt import diagnosis_of
from zoo.data.sets import load_dataset
from zoo.data.splits import split
from zoo.errors import DataError


def picture(path: Path, level: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 6, 3), level, np.uint8)).save(path)


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    for site, kinds in (("north", ("MEL", "NV")), ("south", ("NV",))):
        for kind in kinds:
            picture(tmp_path / site / kind / "a.png")
    table = tmp_path / "east.csv"
    table.write_text("image,label,patient\nnorth/MEL/a.png,MEL,p1\nsouth/NV/a.png,NV,p1\n")
    (tmp_path / "order.txt").write_text("# sites\nfolder:south\n\nfolder:north\ncsv:east.csv\n")
    return tmp_path


def test_sets_come_in_the_order_of_the_list(lists: Path):
    found = load_dataset(f"stream:{lists / 'order.txt'}")
    assert [case.attributes["set"] for case in found] == [
        "1 folder:south", "2 folder:north", "2 folder:north", "3 csv:east.csv", "3 csv:east.csv",
    ]  # fmt: skip
    assert found.ids[:2] == ["1/NV/a.png", "2/MEL/a.png"]
    assert [case.label for case in found] == ["NV", "MEL", "NV", "MEL", "NV"]
    assert [entry.patient for entry in found.entries] == [None, None, None, "3/p1", "3/p1"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "names no data set"),
        ("# nothing\n", "names no data set"),
        ("phantom:skin-lesion\n", "line 1: 'phantom:skin-lesion' must be KIND:PATH"),
        ("folder:south\nnowhere\n", "line 2: 'nowhere' must be KIND:PATH"),
        ("folder:../elsewhere\n", "elsewhere"),
        ("folder:absent\n", "there is no"),
    ],
)
def test_a_list_that_is_wrong_is_refused(lists: Path, text: str, sentence: str):
    (lists / "order.txt").write_text(text)
    with pytest.raises(DataError, match=sentence):
        load_dataset(f"stream:{lists / 'order.txt'}")


def test_a_folder_is_no_list(lists: Path):
    with pytest.raises(DataError, match="is no text file"):
        load_dataset(f"stream:{lists}")


# ---- derm7pt:PATH --------------------------------------------------------------------------------------------------

ROWS = [
    ("1", "basal cell carcinoma", "NEL/Nel026.jpg"),
    ("2", "melanoma (less than 0.76 mm)", "NEL/Nel028.jpg"),
    ("3", "clark nevus", "FAL/Fal030.jpg"),
    ("4", "seborrheic keratosis", "NBL/Nbl011.jpg"),
]


@pytest.fixture
def derm7pt(tmp_path: Path) -> Path:
    lines = ["case_num,diagnosis,seven_point_score,sex,location,clinic,derm"]
    for number, diagnosis, derm in ROWS:
        picture(tmp_path / "images" / derm)
        lines.append(f"{number},{diagnosis},2,female,back,{derm.replace('.jpg', 'c.jpg')},{derm}")
    meta = tmp_path / "meta"
    meta.mkdir()
    (meta / "meta.csv").write_text("\n".join(lines) + "\n")
    for name, places in (("train", (0, 2)), ("valid", (3,)), ("test", (1,))):
        (meta / f"{name}_indexes.csv").write_text("indexes\n" + "".join(f"{i}\n" for i in places))
    return tmp_path


def test_derm7pt_has_the_names_of_isic2019_and_the_authors_split(derm7pt: Path):
    found = load_dataset(f"derm7pt:{derm7pt}")
    assert [case.label for case in found] == ["BCC", "MEL", "NV", "BKL"]
    assert found[0].attributes["clinic"] == "NEL/Nel026c.jpg"
    parts = split(found)
    assert [parts.train.ids, parts.validation.ids, parts.test.ids] == [["1", "3"], ["4"], ["2"]]


def test_derm7pt_that_lacks_something_is_refused(derm7pt: Path):
    with pytest.raises(DataError, match="unpack release_v0 of Derm7pt there"):
        load_dataset(f"derm7pt:{derm7pt / 'images'}")
    (derm7pt / "meta" / "test_indexes.csv").unlink()
    with pytest.raises(DataError, match="leave rows of"):
        load_dataset(f"derm7pt:{derm7pt}")
    (derm7pt / "images" / "NEL" / "Nel026.jpg").unlink()
    with pytest.raises(DataError, match=r"names the image 'NEL/Nel026\.jpg'"):
        load_dataset(f"derm7pt:{derm7pt}")


@pytest.mark.parametrize(
    ("text", "label"),
    [("Reed or Spitz nevus", "NV"), ("melanoma metastasis", "MEL"), ("melanosis", "melanosis"), ("wart", None)],
)
def test_diagnoses_of_derm7pt(text: str, label: str | None):
    assert diagnosis_of(text) == label
