"""Trap sets of ISIC 2019: training and test parts in which artifacts tell melanoma in opposite ways.

Source: A. Bissoto et al., Artifact-Based Domain Generalization of Skin Lesion Models, ECCV 2022 Workshops; the files
lie in github.com/alceubissoto/artifact-generalization-skin under ``trap_sets/``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry, Layout
from zoo.data.tables import by_stem, table_rows
from zoo.errors import DataError

ARTIFACTS = ("dark_corner", "hair", "gel_border", "gel_bubble", "ruler", "ink", "patches")
"""The columns of artifacts: how sure a classifier was that each is in the picture, 0 to 1."""
THERE = 0.6  # from which an artifact counts as there
PARTS = {"train": "train", "val": "validation", "test": "test"}
FILE = re.compile(r"(?:train|val|test)_bias_([0-9.]+)_([0-9]+)\.csv")
IMAGES = ("ISIC_2019_Training_Input", "images")
MASKS = ("isic2019-seg-299", "masks")


def read(spec: str, path: Path) -> Dataset:
    """``isic2019-traps:FILE``: one of ``{train,val,test}_bias_B_K.csv``, which brings the two beside it along.

    ``B`` is the bias (0, 0.3, 0.5, 0.7, 0.9 or 1) and ``K`` the draw (1 to 10). The images are those of ISIC 2019, in
    ``ISIC_2019_Training_Input/`` beside the file or in a folder above it; masks of the lesions, where there are any, in
    ``isic2019-seg-299/`` or ``masks/`` there. A case is melanoma or benign; attributes are the seven soft scores of
    artifacts, and ``artifacts``, those from 0.6 on. The splits are the files'.

    Raises ``DataError`` for files that are missing, name no image, or share one between two parts.
    """
    match = FILE.fullmatch(path.name)
    if not path.is_file() or match is None:
        raise DataError(f"data {spec!r}: name one of the files {{train,val,test}}_bias_B_K.csv, not {path}")
    images, where = _folder(path, IMAGES)
    masks, _ = _folder(path, MASKS)
    if not images:
        raise DataError(f"data {spec!r}: there is no {IMAGES[0]}/ beside {path} or above it; unpack ISIC 2019 there")
    entries: dict[str, Entry] = {}
    for part, split in PARTS.items():
        table = path.with_name(f"{part}_bias_{match[1]}_{match[2]}.csv")
        if not table.is_file():
            raise DataError(f"data {spec!r}: there is no {table}; the three files of a trap set belong together")
        for row in table_rows(table):
            name, case = _case(row, table, images, masks, where)
            if name in entries:
                raise DataError(f"{table} names {name!r}, which another file of this trap set has too")
            entries[name] = Entry(name, case, split=split)
    return Dataset(spec, list(entries.values()), ["image", "label", "split", *(["mask"] if masks else [])])


def _folder(path: Path, names: tuple[str, ...]) -> tuple[dict[str, Path], Path]:
    """The images of the first folder of one of these names, beside a file or above it, by stem."""
    for folder in path.resolve().parents[:3]:
        for name in names:
            if (folder / name).is_dir():
                return by_stem(folder / name), folder / name
    return {}, path


def _case(
    row: dict[str, Any], table: Path, images: dict[str, Path], masks: dict[str, Path], where: Path
) -> tuple[str, Case]:
    name, label = Path(str(row.get("image", ""))).stem, str(row.get("label", ""))
    if label not in ("0", "1", "0.0", "1.0"):
        raise DataError(f"{table}: the row of {name!r} must have 0 or 1 in the column label")
    if name not in images:
        raise DataError(f"{table} names the image {name!r}, which is not in {where}; unpack all images there")
    try:
        scores = {artifact: float(row[artifact]) for artifact in ARTIFACTS}
    except (KeyError, ValueError, TypeError):
        raise DataError(f"{table}: the row of {name!r} must have numbers in {', '.join(ARTIFACTS)}") from None
    facts = {**scores, "artifacts": [artifact for artifact in ARTIFACTS if scores[artifact] >= THERE]}
    mask = next((masks[stem] for stem in (name, f"{name}_segmentation") if stem in masks), None)
    found: dict[str, Any] = {} if mask is None else {"mask": str(mask)}
    melanoma = float(label) == 1
    return name, Case(str(images[name]), name, found, ("benign", "melanoma")[melanoma], facts)


layout = Layout(
    "trap sets of ISIC 2019 (a file of trap_sets/, and the images of ISIC 2019 beside or above it)",
    read,
    licence="CC BY-NC 4.0",
)
