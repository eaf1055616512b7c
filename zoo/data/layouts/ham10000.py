"""HAM10000, under the names of ISIC 2019's diagnoses."""

from __future__ import annotations

from pathlib import Path

from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry, Layout
from zoo.data.tables import images_in, stem_of, table_rows
from zoo.errors import DataError

DIAGNOSES = {"akiec": "AK", "bcc": "BCC", "bkl": "BKL", "df": "DF", "mel": "MEL", "nv": "NV", "vasc": "VASC"}

FAVOURITES = {
    "AK": (0, 1, 2), "BCC": (0, 1, 2), "BKL": (2, 3, 8), "DF": (0, 4, 5), "NV": (3, 4, 5), "VASC": (3, 4, 5),
    "MEL": (6, 8, 9),
}  # fmt: skip
"""Which of ten clients hold most of each class in the published federations on this set (github.com/Naiftt/SPAFD)."""


def read(spec: str, root: Path) -> Dataset:
    """``ham10000:PATH``: HAM10000 as it is unpacked, under the names of ISIC 2019's diagnoses.

    ``PATH`` holds ``HAM10000_metadata.csv`` (the file may have no suffix) and the images in
    ``HAM10000_images_part_1/`` and ``_part_2/``, or in any folder below. Images of one lesion stay together in splits;
    ``akiec`` (actinic keratosis and Bowen's disease) becomes ``AK``.

    Raises ``DataError`` for files that are missing or don't fit each other.
    """
    table = next((p for p in (root / "HAM10000_metadata.csv", root / "HAM10000_metadata") if p.is_file()), None)
    if table is None:
        raise DataError(f"data {spec!r}: there is no {root / 'HAM10000_metadata.csv'}; unpack HAM10000 there")
    files = {stem_of(path): path for path in images_in(root, recursive=True)}
    entries = []
    for row in table_rows(table):
        name, diagnosis, lesion = row.pop("image_id", ""), row.pop("dx", ""), row.get("lesion_id")
        if diagnosis not in DIAGNOSES:
            raise DataError(f"{table}: the row of {name!r} must have one of {', '.join(DIAGNOSES)} in the column dx")
        if name not in files:
            raise DataError(f"{table} names the image {name!r}, which is not below {root}; unpack both parts there")
        case = Case(str(files[name]), name, label=DIAGNOSES[diagnosis], attributes=row)
        entries.append(Entry(name, case, patient=lesion))
    return Dataset(spec, entries, ["image", "label", "lesion_id"])


layout = Layout(
    "HAM10000 (HAM10000_metadata.csv and the images of both parts)",
    read,
    licence="CC BY-NC 4.0",
)
