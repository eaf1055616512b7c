"""TotalSegmentator: CT scans of a clinic's routine with a mask for each of a hundred structures."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np

from zoo import media
from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry, Layout
from zoo.data.tables import table_rows
from zoo.errors import DataError

ORGANS = (
    *("spleen", "kidney_left", "gallbladder", "esophagus", "liver"),
    *("pancreas", "stomach", "duodenum", "aorta"),
)
"""Values 1 to 9 of ``mask``: the organs of the few-shot study; every structure has a mask under its own name, too."""

THORAX_ABDOMEN_PELVIS = "ct thorax-abdomen-pelvis"


def read(spec: str, root: Path) -> Dataset:
    """``totalsegmentator:PATH``: TotalSegmentator, J. Wasserthal et al. 2023, as version 1 or 2 is unpacked.

    ``PATH`` holds ``meta.csv`` (columns separated by semicolons, among them ``image_id``, ``institute``, ``study_type``
    and ``split``) and for each scan ``s0004/ct.nii.gz`` and ``s0004/segmentations/spleen.nii.gz`` and so on. Its own
    ``split`` is an attribute, ``stated_split``, not the split: studies divide it in their own ways.

    Raises ``DataError`` without ``meta.csv`` or where it names no scan that is there.
    """
    return Dataset(spec, _entries(spec, root), ["image", "mask"], ("background", *ORGANS))


def read_tap(spec: str, root: Path) -> Dataset:
    """``totalsegmentator-tap:PATH``: the scans of thorax, abdomen and pelvis of the institute that has most of them."""
    entries = [e for e in _entries(spec, root) if _row(e).get("study_type", "").casefold() == THORAX_ABDOMEN_PELVIS]
    if not entries:
        raise DataError(f"data {spec!r}: {root / 'meta.csv'} names no scan of the type {THORAX_ABDOMEN_PELVIS}")
    ((most, _),) = Counter(_row(entry).get("institute", "") for entry in entries).most_common(1)
    chosen = [entry for entry in entries if _row(entry).get("institute", "") == most]
    return Dataset(spec, chosen, ["image", "mask"], ("background", *ORGANS))


def _row(entry: Entry) -> dict[str, str]:
    assert isinstance(entry.case, partial)
    return entry.case.args[1]


def _entries(spec: str, root: Path) -> list[Entry]:
    table = root / "meta.csv"
    if not table.is_file():
        raise DataError(f"data {spec!r}: there is no {table}")
    entries = []
    for row in _rows(table):
        folder = root / row["image_id"]
        if (folder / "ct.nii.gz").is_file():
            entries.append(Entry(row["image_id"], partial(_case, folder, row), patient=row["image_id"]))
    if not entries:
        raise DataError(f"data {spec!r}: {table} names no scan that is there, such as s0004/ct.nii.gz")
    return entries


def _rows(table: Path) -> list[dict[str, str]]:
    rows = [{name: str(value) for name, value in row.items()} for row in table_rows(table)]
    if not rows or any("image_id" not in row for row in rows):
        raise DataError(f"{table} has no column 'image_id', or a row without it; get the file again")
    if strange := [row["image_id"] for row in rows if not row["image_id"].isalnum()]:
        raise DataError(f"{table} names the scan {strange[0]!r}, which is no folder's name; get the file again")
    return rows


def _case(folder: Path, row: dict[str, str]) -> Case:
    """Every structure's mask by its name, and ``mask`` with the nine organs together."""
    paths = {path.name.partition(".")[0]: str(path) for path in sorted((folder / "segmentations").glob("*.nii*"))}
    if missing := [name for name in ORGANS if name not in paths]:
        raise DataError(f"{folder / 'segmentations'} has no {missing[0]}.nii.gz; unpack the set again")
    together: np.ndarray | None = None
    for value, name in enumerate(ORGANS, start=1):
        mask = media.read_labels(paths[name]).array
        together = np.zeros(mask.shape, np.uint8) if together is None else together
        together[mask > 0] = value
    assert together is not None
    attributes = {name: value for name, value in row.items() if name not in ("image_id", "split")}
    if "split" in row:
        attributes["stated_split"] = row["split"]
    return Case(str(folder / "ct.nii.gz"), row["image_id"], masks={"mask": together, **paths}, attributes=attributes)


layout = Layout("TotalSegmentator CT, 104 structures (meta.csv, s0004/segmentations/)", read, licence="CC BY 4.0")
layout_tap = Layout("TotalSegmentator's thorax-abdomen-pelvis scans of one institute", read_tap, licence="CC BY 4.0")
