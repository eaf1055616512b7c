"""Colour constancy by hand and by property, and the layout of ISIC 2019."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from zoo.data.dermoscopy import shades_of_gray, site_of
from zoo.data.layouts import isic2019
from zoo.data.sets import load_dataset
from zoo.data.splits import split
from zoo.errors import DataError

pictures = hnp.arrays(np.float32, (6, 5, 3), elements=st.floats(0.0625, 0.375, width=32))


def minkowski(rgb: np.ndarray, p: float) -> np.ndarray:
    return (rgb.reshape(-1, 3).astype(float) ** p).mean(0) ** (1 / p)


@settings(max_examples=30, deadline=None)
@given(rgb=pictures, p=st.sampled_from([1.0, 2.0, 6.0, 12.0]))
def test_the_minkowski_means_become_equal(rgb: np.ndarray, p: float):
    balanced = shades_of_gray(rgb, p=p)
    if balanced.max() < 1:  # nothing was clipped
        means = minkowski(balanced, p)
        assert np.allclose(means, means.mean(), rtol=1e-4)


@settings(max_examples=30, deadline=None)
@given(rgb=pictures, cast=st.tuples(*[st.floats(0.5, 1.0)] * 3))
def test_the_colour_of_the_light_does_not_matter(rgb: np.ndarray, cast: tuple):
    tinted = rgb * np.array(cast, np.float32)
    a, b = shades_of_gray(rgb), shades_of_gray(tinted)
    if max(a.max(), b.max()) < 1:
        ratio = np.linalg.norm(minkowski(tinted, 6)) / np.linalg.norm(minkowski(rgb, 6))
        assert np.allclose(b, a * ratio, atol=1e-4)  # up to brightness


def test_a_grey_picture_stays_as_it_is():
    grey = np.repeat(np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4, 1), 3, -1)
    assert np.allclose(shades_of_gray(grey), grey, atol=1e-6)
    assert np.allclose(shades_of_gray(grey, gamma=2.2), grey, atol=1e-5)


def test_white_patch_is_the_limit():
    rgb = np.full((2, 2, 3), 0.2, np.float32)
    rgb[0, 0] = (0.8, 0.4, 0.2)
    light = np.array([0.8, 0.4, 0.2]) / np.linalg.norm([0.8, 0.4, 0.2])
    assert np.allclose(shades_of_gray(rgb, p=np.inf), np.clip(rgb / (np.sqrt(3) * light), 0, 1), atol=1e-6)
    assert np.allclose(shades_of_gray(rgb, p=400.0), shades_of_gray(rgb, p=np.inf), atol=1e-2)


def test_black_stays_black():
    assert not shades_of_gray(np.zeros((3, 3, 3), np.float32)).any()
    red = np.zeros((3, 3, 3), np.float32)
    red[..., 0] = 0.5
    assert not shades_of_gray(red)[..., 1:].any()


@pytest.mark.parametrize("options", [{"p": 0.5}, {"gamma": 0.0}])
def test_impossible_powers_are_refused(options: dict):
    with pytest.raises(ValueError, match="must be"):
        shades_of_gray(np.zeros((2, 2, 3), np.float32), **options)


# ---- isic2019:PATH ------------------------------------------------------------------------------------------------

HEADER = "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twelve images of six lesions: MEL and NV."""
    folder = tmp_path / "ISIC_2019_Training_Input"
    folder.mkdir()
    rows, about = [HEADER], ["image,age_approx,anatom_site_general,lesion_id,sex"]
    for i in range(12):
        name = f"ISIC_{i:07d}"
        Image.new("RGB", (8, 6), (i, 0, 0)).save(folder / f"{name}.jpg")
        rows.append(f"{name},{'1.0,0.0' if i < 6 else '0.0,1.0'},0.0,0.0,0.0,0.0,0.0,0.0,0.0")
        about.append(f"{name},{30 + i}.0,,L{i // 2},female")
    (tmp_path / "ISIC_2019_Training_GroundTruth.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "ISIC_2019_Training_Metadata.csv").write_text("\n".join(about) + "\n")
    return tmp_path


def test_images_labels_and_metadata_are_read(root: Path):
    dataset = load_dataset(f"isic2019:{root}")
    assert len(dataset) == 12
    case = dataset[7]
    assert (case.id, case.label) == ("ISIC_0000007", "NV")
    assert case.attributes == {"age_approx": "37.0", "lesion_id": "L3", "sex": "female"}
    assert Path(str(case.image)).is_file()


def test_images_of_one_lesion_stay_together(root: Path):
    parts = split(load_dataset(f"isic2019:{root}"), (0.5, 0.25, 0.25))
    lesions = [{e.patient for e in part.entries} for part in (parts.train, parts.validation, parts.test)]
    assert sum(map(len, lesions)) == len(set.union(*lesions)) == 6
    assert {case.label for case in parts.train} == {"MEL", "NV"}


def test_metadata_may_be_missing(root: Path):
    (root / "ISIC_2019_Training_Metadata.csv").unlink()
    dataset = load_dataset(f"isic2019:{root}")
    assert len(dataset) == 12
    assert all(entry.patient is None for entry in dataset.entries)


def test_unknown_diagnoses_are_left_out(root: Path):
    truth = root / "ISIC_2019_Training_GroundTruth.csv"
    lines = truth.read_text().splitlines()
    lines[1] = "ISIC_0000000,0,0,0,0,0,0,0,0,1"
    truth.write_text("\n".join(lines))
    assert "ISIC_0000000" not in isic2019.read("isic2019:x", root).ids


@pytest.mark.parametrize(
    ("line", "message"),
    [("ISIC_0000000,1,1,0,0,0,0,0,0,0", "must have a 1"), ("ISIC_0000000,a,0,0,0,0,0,0,0,0", "must have a 1"),
     ("ISIC_9999999,1,0,0,0,0,0,0,0,0", "which is not in")],
)  # fmt: skip
def test_rows_that_do_not_fit_are_refused(root: Path, line: str, message: str):
    (root / "ISIC_2019_Training_GroundTruth.csv").write_text(f"{HEADER}\n{line}\n")
    with pytest.raises(DataError, match=message):
        load_dataset(f"isic2019:{root}")


@pytest.mark.parametrize("name", ["ISIC_2019_Training_Input", "ISIC_2019_Training_GroundTruth.csv"])
def test_missing_parts_are_named(root: Path, name: str):
    (root / name).rename(root / "elsewhere")
    with pytest.raises(DataError, match=f"there is no .*{name}"):
        load_dataset(f"isic2019:{root}")


# ---- siim2020:PATH ------------------------------------------------------------------------------------------------


@pytest.fixture
def siim(tmp_path: Path) -> Path:
    """Ten images of five patients; some facts are missing, and one image is there twice."""
    folder = tmp_path / "jpeg" / "train"
    folder.mkdir(parents=True)
    rows = ["image_name,patient_id,sex,age_approx,anatom_site_general_challenge,diagnosis,benign_malignant,target"]
    for i in range(10):
        name, target = f"ISIC_{i:07d}", int(i == 4)
        Image.new("RGB", (8, 6), (i, 0, 0)).save(folder / f"{name}.jpg")
        site = ("torso", "", "lower extremity")[i % 3]
        rows.append(f"{name},IP_{i // 2},{'male' if i else ''},{30.0 + i},{site},unknown,benign,{target}")
    (tmp_path / "train.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_lesions_patients_and_facts_are_read(siim: Path):
    dataset = load_dataset(f"siim2020:{siim}")
    assert len(dataset) == 10
    assert [case.label for case in dataset].count("melanoma") == 1
    assert dataset[0].attributes == {"patient": "IP_0", "age": "30.0", "site": "torso"}
    assert dataset[4].label == "melanoma"
    assert dataset[4].attributes == {"patient": "IP_2", "age": "34.0", "sex": "male"}
    assert [entry.patient for entry in dataset.entries[:3]] == ["IP_0", "IP_0", "IP_1"]


def test_dicom_files_and_flat_folders_are_found(siim: Path):
    (siim / "train").mkdir()
    for path in (siim / "jpeg" / "train").iterdir():
        path.rename(siim / "train" / f"{path.stem}.dcm")
    assert str(load_dataset(f"siim2020:{siim}")[0].image).endswith("train/ISIC_0000000.dcm")
    for path in (siim / "train").iterdir():
        path.rename(siim / "jpeg" / f"{path.stem}.jpg")
    assert str(load_dataset(f"siim2020:{siim}")[0].image).endswith("jpeg/ISIC_0000000.jpg")


def test_every_suffix_that_can_be_read_counts_and_litter_does_not(siim: Path):
    folder = siim / "jpeg" / "train"
    for number, suffix in enumerate((".png", ".JPE", ".webp", ".tiff")):
        path = folder / f"ISIC_{number:07d}.jpg"
        path.rename(path.with_suffix(suffix))
    (folder / "._ISIC_0000005.jpg").write_bytes(b"x")
    (folder / "Thumbs.db").write_bytes(b"x")
    dataset = load_dataset(f"siim2020:{siim}")
    assert len(dataset) == 10
    assert [Path(case.image).suffix for case in dataset][:5] == [".png", ".JPE", ".webp", ".tiff", ".jpg"]


def test_listed_duplicates_are_left_out(siim: Path):
    twins = "image_name_1,image_name_2\nISIC_0000000,ISIC_0000001\n"
    (siim / "ISIC_2020_Training_Duplicates.csv").write_text(twins)
    dataset = load_dataset(f"siim2020:{siim}")
    assert len(dataset) == 9
    assert "ISIC_0000001" not in dataset.ids


@pytest.mark.parametrize(
    ("line", "message"),
    [("ISIC_0000000,IP_0,male,30,torso,x,benign,2", "a target of 0 or 1"), ("ISIC_0000000,,male,30,torso,x,benign,0",
     "must state"), ("ISIC_9999999,IP_0,male,30,torso,x,benign,0", "which is not in")],
)  # fmt: skip
def test_rows_of_siim_that_do_not_fit_are_refused(siim: Path, line: str, message: str):
    header = (siim / "train.csv").read_text().splitlines()[0]
    (siim / "train.csv").write_text(f"{header}\n{line}\n")
    with pytest.raises(DataError, match=message):
        load_dataset(f"siim2020:{siim}")


def test_missing_parts_of_siim_are_named(siim: Path):
    (siim / "jpeg").rename(siim / "elsewhere")
    with pytest.raises(DataError, match="there are no images in"):
        load_dataset(f"siim2020:{siim}")
    (siim / "train.csv").unlink()
    with pytest.raises(DataError, match=r"there is no .*train.csv"):
        load_dataset(f"siim2020:{siim}")


@pytest.mark.parametrize(
    ("text", "site"),
    [("torso", "torso"), ("Posterior torso", "torso"), ("head-neck", "head/neck"), ("palms/soles", "palms/soles"),
     ("lower_extremity", "lower extremity"), ("unknown", None), ("", None)],
)  # fmt: skip
def test_sites_are_recognised(text: str, site: str | None):
    assert site_of(text) == site


def test_other_places_are_no_sites():
    with pytest.raises(ValueError, match="'elbow' is no site; choose one of head/neck"):
        site_of("elbow")
