"""BCSS: tissue classes of breast cancer."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from zoo import media
from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry, Layout
from zoo.data.tables import by_stem
from zoo.errors import DataError

LABELS = ("unlabelled", "tumour", "stroma", "inflammatory", "necrosis", "other")
IMAGES = ("rgbs_colorNormalized", "rgbs", "images")
TEST = ("OL", "LL", "E2", "EW", "GM", "S3")  # institutes of the official test part
# of the set's own 22 codes: 0 is outside of the region, 7 was left out by its annotators
_TUMOUR, _STROMA, _INFLAMMATORY, _NECROSIS, _NOTHING = (1, 19, 20), (2,), (3, 10, 11), (4,), (0, 7)


def read(spec: str, root: Path) -> Dataset:
    """``bcss:PATH``: regions of 151 slides at 0.25 um per px, Amgad et al. 2019, as its authors' script saves them.

    ``PATH`` holds (itself, or one folder below) ``rgbs_colorNormalized/`` (or ``rgbs/``, ``images/``) and ``masks/``
    with files of the same names, which begin with TCGA's: ``TCGA-A1-A0SK-DX1_xmin..._MPP-0.2500.png``. The institute,
    second part of the name, decides the split; the first three parts are the patient. The 22 codes become 0 unlabelled,
    1 tumour, 2 stroma, 3 inflammatory, 4 necrosis, 5 other.

    Raises ``DataError`` for folders or masks that are missing.
    """
    places = [place for place in (root, *sorted(p for p in root.iterdir() if p.is_dir())) if (place / "masks").is_dir()]
    folder = places[0] if places else root
    images = next((folder / name for name in IMAGES if (folder / name).is_dir()), None)
    if images is None or not places:
        raise DataError(f"data {spec!r}: there is no folder {folder / IMAGES[0]} beside masks; unpack the set there")
    masks = by_stem(folder / "masks")
    entries = []
    for stem, path in by_stem(images).items():
        if stem not in masks:
            raise DataError(f"data {spec!r}: {path} has no mask of its name")
        parts = stem.split("-")
        if len(parts) < 3:
            raise DataError(f"data {spec!r}: {path} is not named as TCGA's slides are, such as TCGA-A1-A0SK-DX1_...")
        split = "test" if parts[1] in TEST else "train"
        entries.append(Entry(stem, partial(_case, str(path), str(masks[stem]), stem), "-".join(parts[:3]), split))
    return Dataset(spec, entries, ["image", "mask", "split", "patient"], LABELS)


def _case(image: str, mask: str, name: str) -> Case:
    return Case(image, name, masks={"mask": of_five(media.read_labels(mask).array)})


def of_five(codes: np.ndarray) -> np.ndarray:
    """The set's codes as 0 for nothing and 1 to 5; codes it doesn't have are other."""
    table = np.full(256, 5, np.uint8)
    for value, chosen in enumerate((_NOTHING, _TUMOUR, _STROMA, _INFLAMMATORY, _NECROSIS)):
        table[list(chosen)] = value
    return table[np.minimum(codes, 255)]


layout = Layout("BCSS: tissue of breast cancer (rgbs_colorNormalized/ and masks/)", read, licence="CC0")
