"""Blastocysts: grey values, masks by component, and folders by client."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.data.sets import load_dataset, read_mask
from zoo.errors import DataError


def write(path: Path, values: list[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.repeat(np.array(values, np.uint8)[None], 4, 0)).save(path)


def test_grey_values_become_classes(tmp_path: Path) -> None:
    write(tmp_path / "images" / "Blast_001.BMP", [9] * 7)
    write(tmp_path / "masks" / "Blast_001.bmp", [0, 64, 105, 128, 192, 226, 255])
    (case,) = load_dataset(f"blastocyst:{tmp_path}")
    assert read_mask(case)[0].tolist() == [0, 1, 1, 2, 3, 3, 4]
    write(tmp_path / "masks" / "Blast_001.bmp", [0, 64, 105, 128, 192, 226, 77])
    with pytest.raises(DataError, match="grey value 77"):
        list(load_dataset(f"blastocyst:{tmp_path}"))


def test_masks_by_component_are_put_together(tmp_path: Path) -> None:
    write(tmp_path / "images" / "a.png", [9] * 5)
    for k, name in enumerate(("ZP", "TE", "BL", "ICM"), start=1):
        write(tmp_path / "masks" / name / "a.png", [255 if k == i else 0 for i in range(5)])
    (case,) = load_dataset(f"blastocyst:{tmp_path}")
    assert read_mask(case)[0].tolist() == [0, 1, 2, 3, 4]
    (tmp_path / "masks" / "BL" / "a.png").unlink()
    with pytest.raises(DataError, match="has no mask of its name"):
        load_dataset(f"blastocyst:{tmp_path}")


def test_clients_keep_their_cases_and_what_they_validate_on(tmp_path: Path) -> None:
    for client in (1, 2):
        for part in ("train", "val"):
            write(tmp_path / f"client{client}" / f"{part}_imgs" / "a.BMP", [9] * 5)
            write(tmp_path / f"client{client}" / f"{part}_masks" / "a.BMP", [0, 64, 128, 192, 255])
    write(tmp_path / "test_imgs" / "t.BMP", [9] * 5)
    write(tmp_path / "test_masks" / "t.BMP", [0, 64, 128, 192, 255])
    data = load_dataset(f"blastocyst:{tmp_path}")
    assert data.ids == ["client1/train/a", "client1/val/a", "client2/train/a", "client2/val/a", "test/t"]
    assert [entry.split for entry in data.entries] == ["train"] * 4 + ["test"]
    assert [case.attributes.get("client") for case in data] == ["client1"] * 2 + ["client2"] * 2 + [None]
    assert data[1].attributes["part"] == "validation"


def test_missing_folders_and_masks_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        load_dataset(f"blastocyst:{tmp_path}")
    write(tmp_path / "images" / "a.png", [9] * 5)
    (tmp_path / "masks").mkdir()
    with pytest.raises(DataError, match="has no mask of its name"):
        load_dataset(f"blastocyst:{tmp_path}")
