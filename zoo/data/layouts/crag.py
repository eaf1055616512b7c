"""CRAG: glands of colorectal adenocarcinoma, numbered."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from zoo.data.layouts.glas import numbered
from zoo.data.sets import Dataset, Entry, Layout
from zoo.data.tables import by_stem
from zoo.errors import DataError

PARTS = {"train": "train", "valid": "test"}


def read(spec: str, root: Path) -> Dataset:
    """``crag:PATH``: Graham et al. 2019, as unpacked (``CRAG/``): about 1512 x 1516 px at 20x.

    ``PATH`` holds ``train/`` and ``valid/`` (the test part), each with ``Images/NAME.png`` and ``Annotation/NAME.png``,
    which numbers the glands. Masks: ``mask`` (glands) and ``instances``. Patients are not stated.

    Raises ``DataError`` for a folder that is missing and an image without its annotation.
    """
    folder = root / "CRAG" if (root / "CRAG").is_dir() else root
    entries = []
    for part, split in PARTS.items():
        for name in ("Images", "Annotation"):
            if not (folder / part / name).is_dir():
                raise DataError(f"data {spec!r}: there is no folder {folder / part / name}; unpack the set there")
        notes = by_stem(folder / part / "Annotation")
        for stem, path in by_stem(folder / part / "Images").items():
            if stem not in notes:
                raise DataError(f"data {spec!r}: {path} has no annotation {stem}.png")
            entries.append(Entry(stem, partial(numbered, str(path), str(notes[stem]), stem, None, {}), split=split))
    return Dataset(spec, entries, ["image", "mask", "split"])


layout = Layout(
    "CRAG: glands (train/ and valid/ with Images/ and Annotation/)", read, licence="research use; see its authors' page"
)
