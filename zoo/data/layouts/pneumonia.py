"""Paediatric pneumonia radiographs, Kermany et al. 2018."""

from __future__ import annotations

import re
from pathlib import Path

from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry, Layout
from zoo.data.tables import images_in, split_folders
from zoo.errors import DataError


def read(spec: str, root: Path) -> Dataset:
    """Finding and patient are in the paths: ``train/PNEUMONIA/person23_bacteria_78.jpeg``, ``IM-0115-0001.jpeg``.

    Patients are numbered anew in each split and finding, so that equal numbers there are different patients.
    """
    if (root / "chest_xray" / "train").is_dir():  # the archive's outer folder
        root = root / "chest_xray"
    parts = split_folders(root)
    if "train" not in [split for _, split in parts]:
        raise DataError(f"data {spec!r}: there is no folder {root / 'train'}; give the folder with train/ and test/")
    entries: list[Entry] = []
    for folder, split in parts:
        for finding in ("NORMAL", "PNEUMONIA"):
            if not (folder / finding).is_dir():
                raise DataError(f"data {spec!r}: there is no folder {folder / finding}")
            for path in images_in(folder / finding):
                if match := re.match(r"(?i)(person\d+)_(bacteria|virus)_", path.name):
                    label, person = {"bacteria": "bacterial", "virus": "viral"}[match[2].lower()], match[1]
                elif finding == "NORMAL":
                    label, person = "normal", re.sub(r"(IM-\d+)-.*", r"\1", path.stem)
                else:
                    raise DataError(
                        f"{path} doesn't say whether the pneumonia is bacterial or viral; its name must read like "
                        "person1_bacteria_2.jpeg or person1_virus_2.jpeg"
                    )
                case = Case(str(path), path.relative_to(root).as_posix(), label=label)
                entries.append(Entry(case.id, case, f"{split} {label} {person}", split))
    return Dataset(spec, entries, ["image", "label", "patient", "split"])


layout = Layout(
    "Paediatric pneumonia radiographs, Kermany et al. 2018 (train/ and test/, each NORMAL/ and PNEUMONIA/)",
    read,
    licence="CC BY 4.0",
)
