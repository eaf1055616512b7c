"""GlaS: glands of the colon, numbered."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np

from zoo import media
from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry, Layout
from zoo.data.tables import images_in, table_rows
from zoo.errors import DataError

INNER = "Warwick QU Dataset (Released 2016_07_08)"
_NAME = re.compile(r"(train|testA|testB)_(\d+)")


def read(spec: str, root: Path) -> Dataset:
    """``glas:PATH``: Sirinukunwattana et al. 2017, as unpacked (``Warwick QU Dataset (Released 2016_07_08)/``).

    ``PATH`` holds ``train_N.bmp``, ``testA_N.bmp``, ``testB_N.bmp`` and beside each its ``..._anno.bmp``; ``Grade.csv``
    states the grade (label) and the patient. Both test parts are one, as papers have it; ``part`` tells them apart.
    The contest's split was not made by patient, so the patient is an attribute only. Masks: ``mask`` and ``instances``.

    Raises ``DataError`` for an image without its annotation.
    """
    folder = root / INNER if (root / INNER).is_dir() else root
    grades = {}
    if (folder / "Grade.csv").is_file():
        for row in table_rows(folder / "Grade.csv"):
            known = {str(name).strip().lower(): str(value).strip() for name, value in row.items()}
            grades[known.get("name", "")] = known
    entries = []
    for path in images_in(folder):
        match = _NAME.fullmatch(path.stem)
        if match is None:
            continue
        note = path.with_name(f"{path.stem}_anno{path.suffix}")
        if not note.is_file():
            raise DataError(f"data {spec!r}: {path} has no {note.name} beside it")
        known = grades.get(path.stem, {})
        stated = {"part": match[1], **({"patient": known["patient id"]} if "patient id" in known else {})}
        case = partial(numbered, str(path), str(note), path.stem, known.get("grade (glas)"), stated)
        entries.append(Entry(path.stem, case, split="train" if match[1] == "train" else "test"))
    if not entries:
        raise DataError(f"data {spec!r}: there is no train_1.bmp in {folder}; unpack the set there")
    return Dataset(spec, entries, ["image", "mask", "label", "split"])


def numbered(image: str, note: str, name: str, label: str | None, attributes: dict[str, str]) -> Case:
    """A case from an image and the map that numbers its glands."""
    instances = media.read_labels(note).array
    masks: dict[str, np.ndarray | str] = {"mask": (instances > 0).astype(np.uint8), "instances": note}
    return Case(image, name, masks=masks, label=label, attributes=attributes)


layout = Layout(
    "GlaS: glands of the colon (train_*.bmp, testA_*, testB_*, each with *_anno.bmp)",
    read,
    licence="research use; see its authors' page",
)
