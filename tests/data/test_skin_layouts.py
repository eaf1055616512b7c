"""Public sets of skin lesions with their outlines."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.data.test_sheets import workbook
from zoo.data.layouts import isic2018
from zoo.data.sets import load_dataset, read_mask
from zoo.data.splits import Split, divide
from zoo.errors import DataError


def write(path: Path, mask: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.zeros((12, 20) if mask else (12, 20, 3), np.uint8)
    array[2:6, :5] = 255 if mask else 120
    Image.fromarray(array).save(path)


@pytest.fixture
def isic(tmp_path: Path) -> Path:
    """12 images; the list has them in another order than their names."""
    names = [f"ISIC_{n:07d}" for n in range(12)]
    for name in names:
        write(tmp_path / "ISIC2018_Task1-2_Training_Input" / f"{name}.jpg")
        write(tmp_path / "ISIC2018_Task1_Training_GroundTruth" / f"{name}_segmentation.png", mask=True)
    (tmp_path / "ISIC2018_Task1-2_Training_Input" / "LICENSE.txt").write_text("terms")
    (tmp_path / "isic2018_id.csv").write_text("ID,Class\n" + "".join(f"{name},nevus\n" for name in names[::-1]))
    return tmp_path


def test_isic_2018_is_read_as_unpacked(isic: Path) -> None:
    data = load_dataset(f"isic2018:{isic}")
    assert data.ids == [f"ISIC_{n:07d}" for n in range(12)]
    assert read_mask(data[3]).sum() == 20
    parts = divide(data, Split((0.8, 0.0, 0.2), folds=True), SimpleNamespace(folds=5, fold=2))
    assert len(parts.train) + len(parts.test) == 12
    assert len(parts.test) in (2, 3)
    (isic / "ISIC2018_Task1_Training_GroundTruth" / "ISIC_0000004_segmentation.png").unlink()
    with pytest.raises(DataError, match=r"ISIC_0000004\.jpg has no mask"):
        load_dataset(f"isic2018:{isic}")


def test_the_authors_folds_are_drawn_by_their_list_and_compared_with_theirs(isic: Path, monkeypatch) -> None:
    names = [f"ISIC_{n:07d}" for n in range(12)][::-1]
    drawn = isic2018.folds(names)
    assert [len(fold) for fold in drawn] == [2, 2, 2, 2, 4]  # blocks of int(n / 5 + 0.5), the last takes the rest
    assert sorted(chain.from_iterable(drawn)) == names[::-1]
    with pytest.raises(DataError, match="another fold 1 than AViT's authors had"):
        load_dataset(f"isic2018-fold1:{isic}")
    monkeypatch.setattr(isic2018, "FOLDS", tuple(isic2018.digest(set(fold)) for fold in drawn))
    parts = divide(
        load_dataset(f"isic2018-fold1:{isic}"), Split((0.8, 0.0, 0.2), folds=True), SimpleNamespace(folds=5, fold=0)
    )
    assert sorted(parts.test.ids) == sorted(drawn[1])
    assert len(parts.train) == 10
    (isic / "isic2018_id.csv").write_text("ID\nISIC_0000000\n")
    with pytest.raises(DataError, match="lists 1 images, which are not the 12"):
        load_dataset(f"isic2018-fold0:{isic}")
    (isic / "isic2018_id.csv").unlink()
    with pytest.raises(DataError, match="put the list of the repository siyi-wind/AViT there"):
        load_dataset(f"isic2018-fold0:{isic}")


@pytest.mark.parametrize("inner", ["", "PH2Dataset", "PH2Dataset/PH2 Dataset images"])
def test_ph2_is_read_as_unpacked(tmp_path: Path, inner: str) -> None:
    for name in ("IMD003", "IMD009"):
        folder = tmp_path / inner / name
        write(folder / f"{name}_Dermoscopic_Image" / f"{name}.bmp")
        write(folder / f"{name}_lesion" / f"{name}_lesion.bmp", mask=True)
        write(folder / f"{name}_roi" / f"{name}_R1_Label3.bmp", mask=True)
    data = load_dataset(f"ph2:{tmp_path}")
    assert data.ids == ["IMD003", "IMD009"]
    assert read_mask(data[1]).sum() == 20
    (folder / "IMD009_lesion" / "IMD009_lesion.bmp").unlink()
    with pytest.raises(DataError, match=r"IMD009\.bmp has no mask"):
        load_dataset(f"ph2:{tmp_path}")
    with pytest.raises(DataError, match="unpack PH2 there"):
        load_dataset(f"ph2:{folder}")


def test_ph2_has_the_folds_of_the_rows_of_its_workbook(tmp_path: Path) -> None:
    names = [f"IMD{n:03d}" for n in (7, 3, 9, 1, 5)]
    for name in names:
        write(tmp_path / "PH2Dataset" / name / f"{name}_Dermoscopic_Image" / f"{name}.bmp")
        write(tmp_path / "PH2Dataset" / name / f"{name}_lesion" / f"{name}_lesion.bmp", mask=True)
    with pytest.raises(DataError, match="which comes with PH2"):
        load_dataset(f"ph2-fold0:{tmp_path}")
    workbook(tmp_path / "PH2Dataset" / "PH2_dataset.xlsx", [["PH2"], ["Image Name", "Nevus"], *([n] for n in names)])
    tests = []
    for k in range(5):
        data, how = load_dataset(f"ph2-fold{k}:{tmp_path}"), Split((0.8, 0.0, 0.2), folds=True)
        tests += divide(data, how, SimpleNamespace(folds=5, fold=0)).test.ids
    assert tests == list(chain.from_iterable(isic2018.folds(names)))
    workbook(tmp_path / "PH2Dataset" / "PH2_dataset.xlsx", [[n] for n in names[1:]])
    with pytest.raises(DataError, match="lists 4 images, which are not the 5"):
        load_dataset(f"ph2-fold0:{tmp_path}")


def test_dermofit_is_read_by_kind_and_without_kinds(tmp_path: Path) -> None:
    for place in ("AK/A1", "MEL/P4", "images/B7"):
        name = Path(place).name
        write(tmp_path / place / f"{name}.png")
        write(tmp_path / place / f"{name}mask.png", mask=True)
    assert load_dataset(f"dmf:{tmp_path}").ids == ["B7"]  # as AViT's authors keep it
    (tmp_path / "images").rename(tmp_path / "ML")
    data = load_dataset(f"dmf:{tmp_path}")
    assert [(case.id, case.label) for case in data] == [("A1", "AK"), ("P4", "MEL"), ("B7", "ML")]
    assert read_mask(data[0]).sum() == 20
    (tmp_path / "AK" / "A1" / "A1mask.png").unlink()
    (tmp_path / "MEL" / "P4" / "none").mkdir()
    with pytest.raises(DataError, match=r"A1\.png has no mask"):
        load_dataset(f"dmf:{tmp_path}")
    with pytest.raises(DataError, match="unpack the library there"):
        load_dataset(f"dmf:{tmp_path / 'MEL' / 'P4' / 'none'}")


def test_skin_cancer_detection_is_read_from_both_parts(tmp_path: Path) -> None:
    places = [
        "skin_image_data_set-1/Skin Image Data Set-1/skin_data/melanoma/dermis/10",
        "skin_image_data_set-1/Skin Image Data Set-1/skin_data/melanoma/dermquest/10",
        "skin_image_data_set-2/Skin Image Data Set-2/skin_data/notmelanoma/dermis/3",
    ]
    for place in places:
        write(tmp_path / f"{place}_orig.jpg")
        write(tmp_path / f"{place}_contour.png", mask=True)
    data = load_dataset(f"scd:{tmp_path}")
    assert data.ids == ["melanoma/dermis/10", "melanoma/dermquest/10", "notmelanoma/dermis/3"]
    assert [case.label for case in data] == ["melanoma", "melanoma", "notmelanoma"]
    assert read_mask(data[2]).sum() == 20
    (tmp_path / f"{places[0]}_contour.png").unlink()
    with pytest.raises(DataError, match=r"has no mask 10_contour\.png"):
        load_dataset(f"scd:{tmp_path}")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="there is no skin_data"):
        load_dataset(f"scd:{empty}")
