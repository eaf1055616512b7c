"""A few annotated cases in the forms in which users have them."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from zoo import media
from zoo.data.case import Case
from zoo.data.support import organ_of, read_support, same_name, structures
from zoo.errors import DataError, OptionError

ARRAY = np.zeros((4, 5, 6), np.uint8)


def saved(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(ARRAY, np.eye(4)), path)
    return str(path)


def test_a_folder_of_pairs_a_decathlon_folder_and_a_table(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        saved(tmp_path / "pairs" / folder / "one.nii.gz")
    assert [case.id for case in read_support(tmp_path / "pairs", "x")] == ["one"]
    image, mask = saved(tmp_path / "msd/imagesTr/a.nii.gz"), saved(tmp_path / "msd/labelsTr/a.nii.gz")
    table = {"labels": {"0": "background", "1": "liver", "2": "liver tumour"},
             "training": [{"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}]}  # fmt: skip
    (tmp_path / "msd/dataset.json").write_text(json.dumps(table))
    (case,) = read_support(str(tmp_path / "msd"), "x")
    assert organ_of(case, "Liver") == ("mask", (1, 2))
    (tmp_path / "table.csv").write_text(
        f"image,mask\n{Path(image).relative_to(tmp_path)},{Path(mask).relative_to(tmp_path)}\n"
    )
    assert read_support(str(tmp_path / "table.csv"), "x")[0].masks == {"mask": mask}


def test_pairs_of_anything_that_can_be_read_and_cases() -> None:
    image = media.Image(ARRAY, ndim_spatial=3)
    first, second = read_support([(image, ARRAY), Case(image, "mine", masks={"spleen": ARRAY})], "x")
    assert first.masks["mask"] is ARRAY
    assert second.id == "mine"
    assert len(read_support("phantom:abdominal-ct?n=2&size=32&slices=16", "x")) == 2


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ([], "the support of x is empty"),
        ([(ARRAY,)], r"item 1 of the support of x is no pair \(image, mask\)"),
        ([Case(ARRAY, "bare")], "bare of the support of x has no mask"),
        (7, "x takes as support a folder .*, not a int"),
        ("scan.nii.gz", "not scan.nii.gz"),
    ],
)
def test_anything_else_is_refused_in_one_sentence(given: object, sentence: str) -> None:
    with pytest.raises(OptionError, match=sentence):
        read_support(given, "x")


def test_structures_are_those_that_somebody_looked_for() -> None:
    names = ("liver", "liver tumour", "spleen")
    some = Case(None, "a", masks={"mask": ARRAY, "aorta": ARRAY}, attributes={"labels": names, "labelled": [1, 2]})
    assert list(structures(some)) == ["aorta", "liver", "liver tumour"]
    assert organ_of(some, "liver").values == (1, 2)  # a tumour is of its organ
    with pytest.raises(DataError, match="case a has no mask of 'spleen'; it has aorta, liver, liver tumour"):
        organ_of(some, "spleen")
    assert organ_of(Case(None, "b", masks={"mask": ARRAY}), "whatever") == ("mask", ())


def test_names_of_one_structure() -> None:
    assert same_name("kidney_left", "Left kidney")
    assert same_name("oesophagus", "esophagus")
    assert not same_name("left kidney", "right kidney")
