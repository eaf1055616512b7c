"""The training part of the ISIC 2018 challenge's task 1: lesions and their outlines."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry, Layout
from zoo.data.tables import by_stem, table_rows
from zoo.errors import DataError

ORDER = "isic2018_id.csv"
FOLDS = ("02486826b6f2c628", "8b1ff979f02dd53f", "e4eb6c57157122a8", "e679618c4f8f6e09", "24327635513d4b65")
"""Of AViT's test folds: the first 16 digits of the SHA-256 of their sorted numbers, one a line."""


def read(spec: str, root: Path) -> Dataset:
    """``isic2018:PATH``: task 1 of the ISIC 2018 challenge, training part, as it is unpacked.

    ``PATH`` holds ``ISIC2018_Task1-2_Training_Input/ISIC_*.jpg`` and
    ``ISIC2018_Task1_Training_GroundTruth/ISIC_*_segmentation.png``. Which images are of one patient isn't published.

    Raises ``DataError`` for a folder that is missing and an image without its mask.
    """
    inputs, truths = root / "ISIC2018_Task1-2_Training_Input", root / "ISIC2018_Task1_Training_GroundTruth"
    for folder in (inputs, truths):
        if not folder.is_dir():
            raise DataError(f"data {spec!r}: there is no {folder}; unpack the training part of task 1 there")
    masks = by_stem(truths)
    entries = []
    for name, path in by_stem(inputs).items():
        mask = masks.get(f"{name}_segmentation")
        if mask is None:
            raise DataError(f"data {spec!r}: {path.name} has no mask {name}_segmentation.png in {truths}")
        entries.append(Entry(name, Case(str(path), name, masks={"mask": str(mask)})))
    return Dataset(spec, entries, ["image", "mask"])


def read_fold(fold: int, spec: str, root: Path) -> Dataset:
    """``isic2018-fold0:PATH`` to ``isic2018-fold4:PATH``: the same with the test fold of AViT's authors as the test.

    ``PATH`` also holds ``isic2018_id.csv``, the list of images in their repository, by whose order the folds are drawn.
    The folds are compared with theirs, by their digests. Raises ``DataError`` where they differ, too.
    """
    whole = read(spec, root)
    table = root / ORDER
    if not table.is_file():
        raise DataError(f"data {spec!r}: there is no {table}; put the list of the repository siyi-wind/AViT there")
    names = [str(row.get("ID", "")) for row in table_rows(table)]
    if sorted(names) != sorted(whole.ids):
        raise DataError(f"{table} lists {len(names)} images, which are not the {len(whole)} of {root}")
    test = set(folds(names)[fold])
    if digest(test) != FOLDS[fold]:
        raise DataError(f"{table} gives another fold {fold} than AViT's authors had; take the list as they have it")
    entries = [replace(entry, split="test" if entry.id in test else "train") for entry in whole.entries]
    return Dataset(spec, entries, [*whole.columns, "split"])


def folds(names: Sequence[str]) -> list[list[str]]:
    """Five, as the authors' code draws them: shuffled with seed 42, then cut into blocks."""
    places = list(range(len(names)))
    random.Random(42).shuffle(places)
    size = int(len(names) / 5 + 0.5)
    return [[names[i] for i in places[k * size : (k + 1) * size if k < 4 else None]] for k in range(5)]


def digest(names: set[str]) -> str:
    numbers = "\n".join(sorted(name.removeprefix("ISIC_") for name in names))
    return hashlib.sha256(numbers.encode()).hexdigest()[:16]


_TITLE = "ISIC 2018 challenge, task 1, training part (ISIC2018_Task1-2_Training_Input/ and its ground truth)"
layout = Layout(_TITLE, read, licence="terms of the ISIC archive")
fold0, fold1, fold2, fold3, fold4 = (
    Layout(
        f"{_TITLE}, fold {k} of AViT's authors as the test", partial(read_fold, k), licence="terms of the ISIC archive"
    )
    for k in range(5)
)
