"""The training part of the SIIM-ISIC 2020 challenge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry, Layout
from zoo.data.tables import by_stem, table_rows
from zoo.errors import DataError


def read(spec: str, root: Path) -> Dataset:
    """``siim2020:PATH``: the training part of the SIIM-ISIC 2020 challenge as it is unpacked.

    ``PATH`` holds ``train.csv`` (image_name, patient_id, sex, age_approx, anatom_site_general_challenge, target, ...)
    and the images as ``jpeg/train/*.jpg``, ``jpeg/*.jpg`` or ``train/*.dcm``. A case is an image, benign or melanoma;
    images of one patient stay together in splits. Age, sex and site become attributes where they are stated. With
    ``ISIC_2020_Training_Duplicates.csv`` beside them, the second image of every pair that it lists is left out.

    Raises ``DataError`` for files that are missing or don't fit each other.
    """
    truth, twins = root / "train.csv", root / "ISIC_2020_Training_Duplicates.csv"
    if not truth.is_file():
        raise DataError(f"data {spec!r}: there is no {truth}; unpack the training part of SIIM-ISIC 2020 there")
    folders = (root / "jpeg" / "train", root / "jpeg", root / "train")
    files: dict[str, Path] = next(filter(None, map(by_stem, folders)), {})
    if not files:
        raise DataError(f"data {spec!r}: there are no images in {folders[0]} or {folders[2]}; unpack them there")
    left_out = {row.get("image_name_2") for row in table_rows(twins)} if twins.is_file() else set()
    entries = []
    for row in table_rows(truth):
        name, patient, target = (str(row.get(column, "")) for column in ("image_name", "patient_id", "target"))
        if not name or not patient or target not in ("0", "1"):
            raise DataError(f"{truth}: the row of {name!r} must state image_name, patient_id and a target of 0 or 1")
        if name in left_out:
            continue
        if name not in files:
            raise DataError(f"{truth} names the image {name!r}, which is not in {next(iter(files.values())).parent}")
        facts: dict[str, Any] = {"patient": patient}
        for column, attribute in (("age_approx", "age"), ("sex", "sex"), ("anatom_site_general_challenge", "site")):
            if column in row:
                facts[attribute] = row[column]
        label = ("benign", "melanoma")[int(target)]
        entries.append(Entry(name, Case(str(files[name]), name, label=label, attributes=facts), patient=patient))
    return Dataset(spec, entries, ["image", "label", "patient"])


layout = Layout(
    "SIIM-ISIC 2020 melanoma classification, training part (train.csv, and jpeg/train/ or train/ with DICOM files)",
    read,
    licence="CC BY-NC 4.0",
)
