"""Sets with one folder for each sub-group and masks beside their images: ``NAME.png``, ``NAME_mask.png``."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np

from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry, read_mask
from zoo.data.tables import images_in
from zoo.errors import DataError

_MASK = re.compile(r"(.+)_mask(_\d+)?")


def read_groups(spec: str, root: Path, groups: tuple[str, ...], least: int | None = None) -> Dataset:
    there = [group for group in groups if (root / group).is_dir()]
    if len(there) < (len(groups) if least is None else least):
        missing = [group for group in groups if group not in there]
        raise DataError(f"data {spec!r}: there is no folder {root / missing[0]}; unpack the set there")
    entries = []
    for group in there:
        masks: dict[str, list[Path]] = {}
        images: list[Path] = []
        for path in images_in(root / group):
            if match := _MASK.fullmatch(path.stem):
                masks.setdefault(match[1], []).append(path)
            else:
                images.append(path)
        for path in images:
            if path.stem not in masks:
                raise DataError(f"data {spec!r}: {path} has no mask {path.stem}_mask{path.suffix} beside it")
            name = f"{group}/{path.stem}"
            case = partial(_case, str(path), name, group, tuple(map(str, masks[path.stem])))
            entries.append(Entry(name, case() if len(masks[path.stem]) == 1 else case))
    return Dataset(spec, entries, ["image", "mask", "label", "condition"])


def _case(image: str, name: str, group: str, masks: tuple[str, ...]) -> Case:
    attributes = {"condition": group}
    if len(masks) == 1:
        return Case(image, name, masks={"mask": masks[0]}, label=group, attributes=attributes)
    parts = [read_mask(Case(image, name, masks={"mask": mask})) > 0 for mask in masks]
    if len({part.shape for part in parts}) > 1:
        raise DataError(f"the masks of {image} differ in size")
    union = np.any(parts, axis=0).astype(np.uint8)
    return Case(image, name, masks={"mask": union}, label=group, attributes=attributes)
