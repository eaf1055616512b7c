"""PH2: dermoscopic images of the Hospital Pedro Hispano."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

from zoo.data.case import Case
from zoo.data.layouts.isic2018 import folds
from zoo.data.sets import Dataset, Entry, Layout
from zoo.data.sheets import texts_of
from zoo.data.tables import files_like
from zoo.errors import DataError


def read(spec: str, root: Path) -> Dataset:
    """``ph2:PATH``: PH2, T. Mendonça et al. 2013, as it is unpacked.

    ``PATH`` holds (itself, or in ``PH2Dataset/`` or ``PH2Dataset/PH2_Dataset_images/``) a folder for each image:
    ``IMD003/IMD003_Dermoscopic_Image/IMD003.bmp`` and ``IMD003/IMD003_lesion/IMD003_lesion.bmp``.

    Raises ``DataError`` where there is none, and for an image without its mask.
    """
    for inner in ("PH2Dataset", "PH2 Dataset", "PH2_Dataset_images", "PH2 Dataset images"):
        root = root / inner if (root / inner).is_dir() else root
    images = files_like(root, "IMD*/IMD*_Dermoscopic_Image/IMD*.bmp")
    if not images:
        raise DataError(f"data {spec!r}: there is no IMD003/IMD003_Dermoscopic_Image/ ... in {root}; unpack PH2 there")
    entries = []
    for path in images:
        name = path.stem
        mask = path.parents[1] / f"{name}_lesion" / f"{name}_lesion.bmp"
        if not mask.is_file():
            raise DataError(f"data {spec!r}: {path.name} has no mask {mask}")
        entries.append(Entry(name, Case(str(path), name, masks={"mask": str(mask)})))
    return Dataset(spec, entries, ["image", "mask"])


def read_fold(fold: int, spec: str, root: Path) -> Dataset:
    """``ph2-fold0:PATH`` to ``ph2-fold4:PATH``: the same with the test fold of AViT's authors as the test.

    ``PATH`` (or ``PATH/PH2Dataset/``) also holds ``PH2_dataset.xlsx``, which comes with PH2: the folds are drawn from
    its rows, in their order. Raises ``DataError`` where it's missing or lists other images.
    """
    whole = read(spec, root)
    places = [root / inner / "PH2_dataset.xlsx" for inner in ("", "PH2Dataset", "PH2 Dataset")]
    table = next((path for path in places if path.is_file()), None)
    if table is None:
        raise DataError(f"data {spec!r}: there is no PH2_dataset.xlsx in {root}, which comes with PH2; put it there")
    names = [text for row in texts_of(table) for text in row if re.fullmatch(r"IMD\d{3}", text)]
    if sorted(names) != sorted(whole.ids):
        raise DataError(f"{table} lists {len(names)} images, which are not the {len(whole)} of {root}")
    test = set(folds(names)[fold])
    entries = [replace(entry, split="test" if entry.id in test else "train") for entry in whole.entries]
    return Dataset(spec, entries, [*whole.columns, "split"])


_TITLE = "PH2 (IMD003/IMD003_Dermoscopic_Image/ and IMD003_lesion/, ...)"
layout = Layout(_TITLE, read, licence="research and teaching")
fold0, fold1, fold2, fold3, fold4 = (
    Layout(f"{_TITLE}, fold {k} of AViT's authors as the test", partial(read_fold, k), licence="research and teaching")
    for k in range(5)
)
