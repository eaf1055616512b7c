"""The MICCAI 2018 challenge on robotic scenes (EndoVis), with the types of instruments that ISINet's authors added."""

from __future__ import annotations

import re
from pathlib import Path

from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry, Layout
from zoo.data.tables import by_stem, images_in
from zoo.errors import DataError

TYPES = (
    "bipolar forceps",
    "prograsp forceps",
    "large needle driver",
    "monopolar curved scissors",
    "ultrasound probe",
    "suction instrument",
    "clip applier",
)
"""Values 1 to 7 of a mask."""


def read(spec: str, root: Path) -> Dataset:
    """``train`` and ``val``, each with ``images/seq_N_frameNNN.png`` and ``annotations/`` of the same names.

    The split is that of González et al. (ISINet, MICCAI 2020): ``val`` holds sequences 2, 5, 9 and 15, which everybody
    tests on; it is the test here, and validation frames are taken from the training sequences.
    """
    entries = []
    for folder, part in ((root / "train", "train"), (root / "val", "test")):
        masks = by_stem(folder / "annotations")
        for path in images_in(folder / "images"):
            match = re.match(r"seq_?(\d+)_frame\d+$", path.stem)
            if match is None:
                raise DataError(f"data {spec!r}: {path} isn't called seq_N_frameNNN, so its sequence isn't known")
            if path.stem not in masks:
                raise DataError(f"data {spec!r}: {path} has no mask of that name in {folder / 'annotations'}")
            case = Case(str(path), path.stem, masks={"mask": str(masks[path.stem])})
            entries.append(Entry(path.stem, case, patient=f"sequence {match[1]}", split=part))
    if not entries:
        raise DataError(f"data {spec!r}: there are no train/images and val/images with seq_N_frameNNN.png below {root}")
    return Dataset(spec, entries, ["image", "mask", "patient", "split"], ("background", *TYPES))


layout = Layout(
    "EndoVis 2018 with types of instruments (train/ and val/ with images/ and annotations/, as ISINet's)",
    read,
    licence="research use, registration with the challenge",
)
