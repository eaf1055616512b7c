"""Several images as one case: the patients of a set, and what a user means by a list, a folder, a table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.data.case import Case
from zoo.data.check import check
from zoo.data.patients import age_of, by_patient, case_of, patients_in, patients_of, sex_of, unfold
from zoo.data.sets import Dataset, Entry, load_dataset
from zoo.errors import DataError, OptionError


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for i, path in enumerate(paths):
        Image.fromarray(np.full((5, 6, 3), 50 * i + np.arange(6)[None, :, None], np.uint8)).save(path)
    return list(map(str, paths))


def table(folder: Path, rows: list[str], header: str = "image,age,sex,patient") -> Path:
    path = folder / "people.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_cases_of_a_patient_become_one_and_others_stay(files: list[str], tmp_path: Path):
    dataset = load_dataset(f"csv:{table(tmp_path, ['0.png,,,b', '1.png,,,', '2.png,,,a', '3.png,,,b'])}")
    grouped = by_patient(dataset)
    assert [case.id for case in grouped] == ["b", dataset.ids[1], "a"]
    assert [one.id for one in grouped[0].images] == [dataset.ids[0], dataset.ids[3]]
    assert grouped[0].image is None
    assert grouped[1] is dataset[1]
    assert [len(case.images) for case in patients_of(dataset)] == [2, 1, 1]


def test_a_patient_called_like_another_case_is_kept_apart():
    cases = [Entry("a", Case(np.zeros((2, 2)), "a")), Entry("b", Case(np.zeros((2, 2)), "b"), patient="a")]
    with pytest.raises(DataError, match="two cases with the id 'a'"):  # their results could not be told apart
        by_patient(Dataset("x:y", cases))


def test_phantoms_are_not_drawn_to_be_grouped():
    def draw() -> Case:
        raise AssertionError("drawn")

    assert by_patient(Dataset("x:y", [Entry("a", draw, patient="p")])).ids == ["a"]


def test_age_and_sex_are_what_most_images_say():
    def image(**facts: object) -> Case:
        return Case(np.zeros((2, 2)), "i", attributes=facts)

    person = Case(None, "p", images=(image(age="50", sex="male"), image(age="60.0"), image(age=70), image(sex="nan")))
    assert (age_of(person), sex_of(person)) == (60.0, "male")
    assert (age_of(replace(person, images=(image(),))), sex_of(replace(person, images=(image(),)))) == (None, None)
    for wrong in ("old", "121", "-1"):
        with pytest.raises(DataError, match="is no number of years from 0 to 120"):
            age_of(replace(person, images=(image(age=wrong),)))
    with pytest.raises(DataError, match="case p: the sex 'x' is neither female nor male"):
        sex_of(replace(person, images=(image(sex="x"),)))


def test_a_list_a_folder_a_stack_and_one_image_are_cases(files: list[str], tmp_path: Path):
    by_list, by_folder = case_of(files), case_of(str(tmp_path))
    assert [one.id for one in by_list.images] == [one.id for one in by_folder.images] == [f"{i}.png" for i in range(4)]
    assert (by_list.id, by_folder.id) == (files[0], str(tmp_path))
    stack = case_of(np.zeros((3, 5, 6, 3), np.uint8), "lesion")
    assert [one.id for one in stack.images] == ["lesion 1", "lesion 2", "lesion 3"]
    assert [one.image for one in case_of([files[1]]).images] == [files[1]]
    drawn = case_of("phantom:patients?seed=3&size=32&lesions=2")
    assert (drawn.id, len(drawn.images)) == ("phantom:patients?seed=3&size=32&lesions=2", 2)


def test_a_table_is_its_patients_and_beside_images_another(files: list[str], tmp_path: Path):
    path = table(tmp_path, ["0.png,50,male,A", "1.png,,,B", "2.png,,,A"])
    a, b = unfold(str(path))
    assert (str(a), len(a.images), str(b), len(b.images)) == ("A", 2, "B", 1)
    with pytest.raises(OptionError, match=r"is a table of 2 patients; zoo\.predict gives a result for each"):
        case_of(str(path))
    alone = table(tmp_path, ["0.png", "1.png"], header="image")
    (one,) = patients_in(alone)
    assert (one.id, len(one.images), age_of(one)) == ("people", 2, None)
    patient, rest = unfold([str(alone), *files[2:]])
    assert (patient.id, rest) == ("people", files[2:])
    assert unfold(files) == [files]


def test_a_set_of_patients_is_checked_image_by_image():
    report = check("phantom:patients?n=2&size=32&lesions=3", progress=False)
    assert report.ok
    (sizes,) = (finding.detail for finding in report.findings if finding.check == "image sizes")
    assert sizes == "32 x 32 (6)"


def test_what_reading_the_images_of_a_case_assumed_is_said(tmp_path: Path):
    from zoo import media
    from zoo.media.reading import listening
    from zoo.model import _notes_of

    for i in range(3):
        dark = np.arange(30, dtype=np.uint16).reshape(5, 6) * (8 if i < 2 else 2000)
        Image.fromarray(dark).save(tmp_path / f"{i}.png")
    case, other = case_of(str(tmp_path)), case_of([str(tmp_path / "2.png")])
    with listening() as heard:
        for one in case.images:
            media.read(one.image)
    media.read(str(tmp_path / "0.png"))
    assert len(heard) == 2
    assert _notes_of(case, heard) == ("0.png and 1 more: its uint16 values reach only to 232: 255 was taken for white",)
    assert _notes_of(other, heard) == ()
