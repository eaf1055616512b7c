"""DRIVE: Digital Retinal Images for Vessel Extraction."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry, Layout
from zoo.data.tables import SPLITS, images_in

if TYPE_CHECKING:
    import numpy as np


def read(spec: str, root: Path) -> Dataset:
    entries = []
    for part in ("training", "test"):
        manual = {path.name[:2]: path for path in images_in(root / part / "1st_manual")}
        views = {path.name[:2]: path for path in images_in(root / part / "mask")}
        for path in images_in(root / part / "images"):
            number = path.name[:2]
            masks: dict[str, np.ndarray | str] = {}
            if number in manual:
                masks["mask"] = str(manual[number])
            if number in views:
                masks["fov"] = str(views[number])
            entries.append(Entry(number, Case(str(path), number, masks=masks), split=SPLITS[part]))
    return Dataset(spec, entries, ["image", "mask", "split"])


layout = Layout(
    "DRIVE: Digital Retinal Images for Vessel Extraction (training/ and test/, 1st_manual/, mask/)",
    read,
    licence="research use, registration with its authors",
)
