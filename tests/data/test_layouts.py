"""Public sets as they are unpacked: HAM10000, BreaKHis at 400x, CheXpert-small."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.data.sets import load_dataset, read_mask
from zoo.data.splits import split
from zoo.errors import DataError


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(path)


@pytest.fixture
def ham(tmp_path: Path) -> Path:
    rows = ["lesion_id,image_id,dx,dx_type,age,sex,localization"]
    for i, (lesion, dx) in enumerate([("L0", "nv"), ("L0", "nv"), ("L1", "akiec"), ("L2", "mel"), ("L3", "vasc")]):
        picture(tmp_path / f"HAM10000_images_part_{1 + i % 2}" / f"ISIC_{i}.jpg")
        rows.append(f"{lesion},ISIC_{i},{dx},histo,50,male,back")
    (tmp_path / "HAM10000_metadata.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_ham10000_reads_both_parts_under_the_names_of_isic2019(ham: Path) -> None:
    dataset = load_dataset(f"ham10000:{ham}")
    assert [case.label for case in dataset] == ["NV", "NV", "AK", "MEL", "VASC"]
    assert dataset[1].attributes["localization"] == "back"
    parts = split(dataset, (0.6, 0.2, 0.2))
    assert sum({"ISIC_0", "ISIC_1"} <= set(ids) for ids in parts.to_dict().values()) == 1  # a lesion stays together


def test_ham10000_takes_every_suffix_that_can_be_read(ham: Path) -> None:
    first = ham / "HAM10000_images_part_1" / "ISIC_0.jpg"
    Image.open(first).save(first.with_suffix(".PNG"))
    first.unlink()
    (first.parent / "._ISIC_2.jpg").write_bytes(b"what a file system leaves behind")
    assert load_dataset(f"ham10000:{ham}")[0].image == str(first.with_suffix(".PNG"))


def test_ham10000_refuses_what_does_not_fit(ham: Path, tmp_path: Path) -> None:
    (ham / "HAM10000_images_part_1" / "ISIC_0.jpg").unlink()
    with pytest.raises(DataError, match="names the image 'ISIC_0', which is not below"):
        load_dataset(f"ham10000:{ham}")
    (ham / "HAM10000_metadata.csv").write_text("lesion_id,image_id,dx\nL,ISIC_1,odd\n")
    with pytest.raises(DataError, match="must have one of akiec"):
        load_dataset(f"ham10000:{ham}")
    (ham / "HAM10000_metadata.csv").unlink()
    with pytest.raises(DataError, match=r"there is no .*HAM10000_metadata\.csv"):
        load_dataset(f"ham10000:{ham}")


def test_breakhis_reads_400x_alone_and_knows_patients(tmp_path: Path) -> None:
    folder = tmp_path / "BreaKHis_v1/histology_slides/breast"
    picture(folder / "benign/SOB/adenosis/SOB_B_A_14-22549AB/400X/SOB_B_A-14-22549AB-400-001.png")
    picture(folder / "benign/SOB/adenosis/SOB_B_A_14-22549AB/100X/SOB_B_A-14-22549AB-100-001.png")
    picture(folder / "malignant/SOB/ductal/SOB_M_DC_14-2523/400X/SOB_M_DC-14-2523-400-001.png")
    dataset = load_dataset(f"breakhis:{tmp_path}")
    assert {entry.patient: case.label for entry, case in zip(dataset.entries, dataset, strict=True)} == {
        "B 14-22549AB": "benign",
        "M 14-2523": "malignant",
    }
    with pytest.raises(DataError, match="no image SOB_"):
        load_dataset(f"breakhis:{folder / 'benign/SOB/adenosis/SOB_B_A_14-22549AB/100X'}")


def test_chexpert_reads_frontal_views_with_several_labels(tmp_path: Path) -> None:
    for part, rows in {
        "train": ["patient1/study1/view1_frontal,1.0,,-1.0,1.0", "patient1/study1/view2_lateral,,1.0,,",
                  "patient2/study1/view1_frontal,,,,"],
        "valid": ["patient9/study1/view1_frontal,0.0,1.0,0.0,0.0"],
    }.items():  # fmt: skip
        lines = ["Path,Edema,Fracture,Pneumonia,Support Devices"]
        for row in rows:
            name, _, values = row.partition(",")
            picture(tmp_path / part / f"{name}.jpg")
            lines.append(f"CheXpert-v1.0-small/{part}/{name}.jpg,{values}")
        (tmp_path / f"{part}.csv").write_text("\n".join(lines) + "\n")
    dataset = load_dataset(f"chexpert:{tmp_path}")
    assert [case.label for case in dataset] == ["Edema|Support Devices", "No Finding", "Fracture"]
    assert [entry.split for entry in dataset.entries] == ["train", "train", "test"]
    assert dataset.entries[0].patient == "patient1"
    (tmp_path / "valid.csv").unlink()
    with pytest.raises(DataError, match=r"there is no .*valid\.csv"):
        load_dataset(f"chexpert:{tmp_path}")


def test_drive_as_distributed(tmp_path: Path) -> None:
    manual = np.zeros((8, 8), np.uint8)
    manual[2:4] = 255
    for part, numbers, name in (("training", ("21", "22"), "training"), ("test", ("01", "02"), "test")):
        for number in numbers:
            picture(tmp_path / part / "images" / f"{number}_{name}.tif")
            for folder, file in (("1st_manual", f"{number}_manual1.gif"), ("mask", f"{number}_{name}_mask.gif")):
                (tmp_path / part / folder).mkdir(exist_ok=True)
                Image.fromarray(manual).save(tmp_path / part / folder / file)
    dataset = load_dataset(f"drive:{tmp_path}")
    assert [(entry.id, entry.split) for entry in dataset.entries] == [
        ("21", "train"), ("22", "train"), ("01", "test"), ("02", "test"),
    ]  # fmt: skip
    for case in dataset:
        assert read_mask(case).sum() == read_mask(case, "fov").sum() == 16
    # and as its pairs lie when somebody moves them into images/ and masks/
    (tmp_path / "test" / "1st_manual").rename(tmp_path / "test" / "masks")
    pairs = load_dataset(f"pairs:{tmp_path / 'test'}")
    assert pairs.ids == ["01_test", "02_test"]
    assert [read_mask(case).sum() for case in pairs] == [16, 16]


def test_ham10000_labo_divides_as_its_lists_say_and_reads_no_pickle(ham: Path) -> None:
    folder = ham / "splits"
    folder.mkdir()
    (folder / "class2images_train.p").write_bytes(b"a pickle")
    with pytest.raises(DataError, match=r"class2images_train\.p is a pickle, which can run code .* run: python -c"):
        load_dataset(f"ham10000-labo:{ham}")
    lists = {
        "train": {"melanocytic nevi": ["ISIC_1.jpg"], "melanoma": ["ISIC_3.jpg"]},
        "val": {"melanocytic nevi": ["ISIC_0.jpg"]},
        "test": {"actinic keratoses": ["ISIC_2.jpg"]},
    }
    for part, table in lists.items():
        (folder / f"class2images_{part}.json").write_text(json.dumps(table))
    dataset = load_dataset(f"ham10000-labo:{ham}")
    assert dataset.ids == ["ISIC_1", "ISIC_3", "ISIC_0", "ISIC_2"]
    parts = split(dataset)
    assert [case.label for case in parts.train] == ["NV", "MEL"]
    assert (parts.validation.ids, parts.test.ids) == (["ISIC_0"], ["ISIC_2"])  # ISIC_0 and ISIC_1 are of one lesion
    for name, message in {"ISIC_1.jpg": "in two parts", "ISIC_99.jpg": "doesn't have"}.items():
        (folder / "class2images_test.json").write_text(json.dumps({"melanoma": [name]}))
        with pytest.raises(DataError, match=message):
            load_dataset(f"ham10000-labo:{ham}")
    (folder / "class2images_test.json").write_text('{"melanoma": "ISIC_2.jpg"}')
    with pytest.raises(DataError, match="a list of image files"):
        load_dataset(f"ham10000-labo:{ham}")
