"""CIFAR-10 as its binary version is unpacked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from zoo.data.layouts.cifar10 import FILES
from zoo.data.sets import load_dataset
from zoo.errors import DataError

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    (folder / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")
    for i, name in enumerate(FILES):
        image = np.zeros((3, 32, 32), np.uint8)
        image[i % 3, 5, 7] = 200
        (folder / name).write_bytes(b"".join(bytes([label]) + image.tobytes() for label in (i, 9)))
    return tmp_path


def test_images_are_in_colour_with_the_names_of_their_classes_and_the_sets_own_split(root: Path) -> None:
    data = load_dataset(f"cifar10:{root}")
    assert len(data) == 12
    assert [case.label for case in data][:4] == ["airplane", "truck", "automobile", "truck"]
    assert [entry.split for entry in data.entries].count("test") == 2
    assert data[2].image.shape == (32, 32, 3)
    assert np.argwhere(data[2].image).tolist() == [[5, 7, 1]]
    assert load_dataset(f"cifar10:{root / 'cifar-10-batches-bin'}").ids == data.ids


def test_what_is_missing_or_cut_is_named(root: Path) -> None:
    folder = root / "cifar-10-batches-bin"
    (folder / "data_batch_3.bin").write_bytes(b"\0" * 100)
    with pytest.raises(DataError, match=r"data_batch_3\.bin is missing or incomplete"):
        load_dataset(f"cifar10:{root}")
    (folder / "data_batch_3.bin").write_bytes(b"\x63" * 3073)
    with pytest.raises(DataError, match="has the class 99, of 10"):
        load_dataset(f"cifar10:{root}")
    (folder / "batches.meta.txt").unlink()
    with pytest.raises(DataError, match="unpack the binary version"):
        load_dataset(f"cifar10:{root}")
