"""CIFAR-10, Krizhevsky 2009: what methods of learning in general are compared on."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry, Layout
from zoo.errors import DataError

SIDE, RECORD = 32, 1 + 3 * 32 * 32  # px; bytes: the class, then red, green and blue, row by row
FILES = {**{f"data_batch_{i}.bin": "train" for i in range(1, 6)}, "test_batch.bin": "test"}


def read(spec: str, root: Path) -> Dataset:
    """``cifar10:PATH``: the binary version as unpacked (``cifar-10-batches-bin/``), 50,000 images and 10,000 to test.

    The version for Python is made of pickles and isn't read. Raises ``DataError`` for files that are missing or cut.
    """
    inner = root / "cifar-10-batches-bin"
    root = inner if inner.is_dir() else root
    names = root / "batches.meta.txt"
    if not names.is_file():
        raise DataError(f"data {spec!r}: there is no {names}; unpack the binary version, cifar-10-binary.tar.gz")
    labels = names.read_text(encoding="utf-8").split()
    entries = []
    for name, split in FILES.items():
        path = root / name
        if not path.is_file() or not path.stat().st_size or path.stat().st_size % RECORD:
            raise DataError(f"data {spec!r}: {path} is missing or incomplete; get the archive again")
        records = np.memmap(path, np.uint8, "r").reshape(-1, RECORD)
        if (last := int(records[:, 0].max())) >= len(labels):
            raise DataError(f"data {spec!r}: {path} has the class {last}, of {len(labels)} in {names.name}")
        for place in range(len(records)):
            identity = f"{Path(name).stem}/{place}"
            entries.append(Entry(identity, partial(_case, records, place, identity, labels), split=split))
    return Dataset(spec, entries, ["image", "label", "split"])


def _case(records: np.ndarray, place: int, identity: str, labels: list[str]) -> Case:
    pixels = np.array(records[place, 1:]).reshape(3, SIDE, SIDE).transpose(1, 2, 0)
    return Case(np.ascontiguousarray(pixels), identity, label=labels[int(records[place, 0])])


layout = Layout(
    "CIFAR-10, Krizhevsky 2009 (the binary version: data_batch_1.bin, ..., batches.meta.txt)",
    read,
    licence="none stated by its author",
)
