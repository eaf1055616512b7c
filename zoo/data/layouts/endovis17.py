"""The training data of the MICCAI 2017 challenge on robotic instruments (EndoVis)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from zoo import media
from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry, Layout, read_mask
from zoo.data.tables import images_in
from zoo.errors import DataError

TYPES = (
    "bipolar forceps",
    "prograsp forceps",
    "large needle driver",
    "vessel sealer",
    "grasping retractor",
    "monopolar curved scissors",
    "other",
)
"""Values 1 to 7 of a mask."""

FULL, CAMERA = (1080, 1920), (28, 320, 1024, 1280)  # px: the video's frame, and top, left, height, width of the image


def read(spec: str, root: Path) -> Dataset:
    """``instrument_dataset_N/left_frames`` and one folder of labels for each instrument in ``ground_truth``.

    A patient is a sequence. Frames as large as the video are cut to the camera's image, as the challenge asks for.
    """
    entries = []
    for folder in sorted(root.glob("instrument_dataset_*")):
        labels = {path: type_of(path) for path in sorted((folder / "ground_truth").glob("*_labels")) if path.is_dir()}
        for path in images_in(folder / "left_frames"):
            name = f"{folder.name}/{path.stem}"
            entries.append(Entry(name, partial(_case, path, name, labels), patient=folder.name))
    if not entries:
        raise DataError(
            f"data {spec!r}: there is no image instrument_dataset_*/left_frames/*.png; unpack EndoVis there"
        )
    return Dataset(spec, entries, ["image", "mask", "patient"], ("background", *TYPES))


def type_of(folder: Path) -> int:
    """The type that a folder such as ``Left_Prograsp_Forceps_labels`` is of. Raises ``DataError``."""
    said = folder.name.lower().replace("_", " ")
    for value, name in enumerate(TYPES, start=1):
        if name in said:
            return value
    raise DataError(f"{folder} names none of the types {', '.join(TYPES)}")


def _case(path: Path, name: str, labels: dict[Path, int]) -> Case:
    frame = media.read(str(path)).require_2d("EndoVis 2017")
    mask, instances = np.zeros(frame.size, np.uint8), np.zeros(frame.size, np.uint8)
    for number, (folder, value) in enumerate(labels.items(), start=1):
        if (file := folder / path.name).is_file():
            inside = read_mask(Case(str(path), name, masks={"mask": str(file)})) > 0
            if inside.shape != frame.size:
                raise DataError(f"{file} and {path} differ in size")
            mask[inside], instances[inside] = value, number
    image: Any = str(path)
    if frame.size == FULL:
        top, left, height, width = CAMERA
        window = (slice(top, top + height), slice(left, left + width))
        image, mask, instances = frame.array[window], mask[window], instances[window]
    return Case(image, name, masks={"mask": mask, "instances": instances})


layout = Layout(
    "EndoVis 2017, robotic instruments (instrument_dataset_N/ with left_frames/ and ground_truth/*_labels/)",
    read,
    licence="research use, registration with the challenge",
)
