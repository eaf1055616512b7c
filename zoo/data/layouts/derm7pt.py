"""Derm7pt: dermoscopic and clinical photographs with the seven-point checklist, under the names of ISIC 2019."""

from __future__ import annotations

from pathlib import Path

from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry, Layout
from zoo.data.tables import inside, table_rows
from zoo.errors import DataError

DIAGNOSES = {
    "basal cell carcinoma": "BCC", "dermatofibroma": "DF", "lentigo": "BKL", "seborrheic keratosis": "BKL",
    "vascular lesion": "VASC", "melanosis": "melanosis", "miscellaneous": "miscellaneous",
}  # fmt: skip
"""Beside these all kinds of naevus are ``NV`` and all of melanoma ``MEL``; the last two have no class there."""
SPLITS = {"train": "train", "valid": "validation", "test": "test"}


def diagnosis_of(text: str) -> str | None:
    """The class of a diagnosis as the table writes it; ``None`` for one that isn't known."""
    plain = " ".join(text.lower().split())
    if plain.startswith("melanoma"):
        return "MEL"
    return "NV" if plain.endswith("nevus") else DIAGNOSES.get(plain)


def read(spec: str, root: Path) -> Dataset:
    """``derm7pt:PATH``: the released folder, with ``images/`` and ``meta/meta.csv``.

    The image is the dermoscopic one; the clinical one, the checklist, sex and location are attributes. With
    ``meta/train_indexes.csv``, ``valid_indexes.csv`` and ``test_indexes.csv`` (row numbers from 0) the authors' split
    is kept.

    Raises ``DataError`` for files that are missing or a diagnosis that isn't known.
    """
    table = root / "meta" / "meta.csv"
    if not table.is_file():
        raise DataError(f"data {spec!r}: there is no {table}; unpack release_v0 of Derm7pt there")
    stated: dict[int, str] = {}
    for name, split in SPLITS.items():
        if (rows := root / "meta" / f"{name}_indexes.csv").is_file():
            stated |= {int(row["indexes"]): split for row in table_rows(rows)}
    entries = []
    for place, row in enumerate(table_rows(table)):
        label, picture = diagnosis_of(str(row.get("diagnosis", ""))), row.get("derm")
        if label is None:
            raise DataError(f"{table}: row {place} has the unknown diagnosis {row.get('diagnosis')!r}")
        if not picture or not (path := inside(root / "images", str(picture), table)).is_file():
            raise DataError(f"{table} names the image {picture!r}, which is not in {root / 'images'}; unpack all of it")
        number = str(row.get("case_num", place))
        entries.append(Entry(number, Case(str(path), number, label=label, attributes=row), number, stated.get(place)))
    if stated and not all(entry.split for entry in entries):
        raise DataError(f"data {spec!r}: the index tables leave rows of {table} out; unpack all three, or none")
    return Dataset(spec, entries, ["image", "label", *(["split"] if stated else [])])


layout = Layout("Derm7pt (images/ and meta/meta.csv)", read, licence="for research, by its authors' terms")
