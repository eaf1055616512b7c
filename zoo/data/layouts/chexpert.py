"""CheXpert-v1.0-small."""

from __future__ import annotations

import re
from pathlib import Path

from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry, Layout
from zoo.data.tables import inside, table_rows
from zoo.errors import DataError

CHEXPERT_LABELS = (
    "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation", "Pneumonia",
    "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip


def read(spec: str, root: Path) -> Dataset:
    """Labels joined by ``|``; uncertain ones (-1) count as absent, and lateral views are left out.

    The column ``Path`` begins with the archive's own folder, whatever it's called here.
    """
    entries: list[Entry] = []
    for name, split in (("train.csv", "train"), ("valid.csv", "test")):
        table = root / name
        if not table.is_file():
            raise DataError(f"data {spec!r}: there is no {table}; give the folder of CheXpert-v1.0-small")
        for row in table_rows(table):
            stated = str(row.get("Path", ""))
            if "frontal" not in stated:
                continue
            path = inside(root, stated.partition("/")[2], table)
            patient = re.search(r"patient\d+", stated)
            about = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", "No Finding")
            found = [key for key, value in row.items() if key not in about and value in ("1.0", "1")]
            label = "|".join(found) or "No Finding"
            case = Case(str(path), path.relative_to(root).with_suffix("").as_posix(), label=label)
            entries.append(Entry(case.id, case, None if patient is None else patient[0], split))
    return Dataset(spec, entries, ["image", "label", "patient", "split"])


layout = Layout(
    "CheXpert-v1.0-small, frontal views (train.csv, valid.csv and the folders that they name)",
    read,
    licence="Stanford University dataset research use agreement",
)
