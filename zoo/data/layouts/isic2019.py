"""The training part of the ISIC 2019 challenge."""

from __future__ import annotations

from pathlib import Path

from zoo.data.case import Case
from zoo.data.dermoscopy import DIAGNOSES
from zoo.data.sets import Dataset, Entry, Layout
from zoo.data.tables import images_in, table_rows
from zoo.errors import DataError


def read(spec: str, root: Path) -> Dataset:
    """``isic2019:PATH``: the training part of the ISIC 2019 challenge as it is unpacked.

    ``PATH`` holds ``ISIC_2019_Training_Input/*.jpg`` and ``ISIC_2019_Training_GroundTruth.csv`` (one column of 0 and 1
    for each diagnosis). With ``ISIC_2019_Training_Metadata.csv`` beside them, images of one lesion stay together in
    splits, and age, sex and site become attributes. Images of the class UNK, which the training part doesn't have,
    are left out.

    Raises ``DataError`` for files that are missing or don't fit each other.
    """
    folder = root / "ISIC_2019_Training_Input"
    truth = root / "ISIC_2019_Training_GroundTruth.csv"
    about = root / "ISIC_2019_Training_Metadata.csv"
    for path, there in ((folder, folder.is_dir()), (truth, truth.is_file())):
        if not there:
            raise DataError(f"data {spec!r}: there is no {path}; unpack the training part of ISIC 2019 there")
    files = {path.stem: path for path in images_in(folder)}
    metadata = {row.get("image"): row for row in table_rows(about)} if about.is_file() else {}
    entries = []
    for row in table_rows(truth):
        name = row.get("image", "")
        try:
            classes = [column for column, value in row.items() if column != "image" and float(value) == 1]
        except ValueError:
            classes = []
        if len(classes) != 1 or classes[0] not in (*DIAGNOSES, "UNK"):
            raise DataError(f"{truth}: the row of {name!r} must have a 1 in one of {', '.join(DIAGNOSES)}, UNK")
        if classes[0] == "UNK":
            continue
        if name not in files:
            raise DataError(f"{truth} names the image {name!r}, which is not in {folder}; unpack all images there")
        extra = {key: value for key, value in metadata.get(name, {}).items() if key != "image"}
        lesion = extra.get("lesion_id")
        entries.append(Entry(name, Case(str(files[name]), name, label=classes[0], attributes=extra), patient=lesion))
    return Dataset(spec, entries, ["image", "label", *(["lesion_id"] if metadata else [])])


layout = Layout(
    "ISIC 2019 challenge, training part (ISIC_2019_Training_Input/ and ISIC_2019_Training_GroundTruth.csv)",
    read,
    licence="CC BY-NC 4.0",
)
