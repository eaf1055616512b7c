"""BreaKHis histology at 400x."""

from __future__ import annotations

import re
from pathlib import Path

from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry, Layout
from zoo.data.tables import images_in
from zoo.errors import DataError


def read(spec: str, root: Path) -> Dataset:
    """Diagnosis, patient and magnification are in the names: ``SOB_M_DC-14-2523-400-001.png``. 400x alone is read."""
    entries: list[Entry] = []
    for path in images_in(root, recursive=True):
        match = re.match(r"SOB_([BM])_[A-Z]+-(\d+-[0-9A-Z]+)-400-", path.name)
        if match is None:
            continue
        label = {"B": "benign", "M": "malignant"}[match[1]]
        entries.append(Entry(path.stem, Case(str(path), path.stem, label=label), f"{match[1]} {match[2]}"))
    if not entries:
        raise DataError(f"data {spec!r}: there is no image SOB_*-400-*.png below {root}; unpack BreaKHis there")
    return Dataset(spec, entries, ["image", "label", "patient"])


layout = Layout(
    "BreaKHis histology at 400x (benign/ and malignant/ with SOB_*-400-*.png in any folders below)",
    read,
    licence="CC BY 4.0",
)
