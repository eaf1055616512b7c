"""PROMISE12: T2 MR of the prostate with the outline of the gland."""

from __future__ import annotations

import re
from pathlib import Path

from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry, Layout
from zoo.errors import DataError

NAME = re.compile(r"Case\d{2,3}")


def read(spec: str, root: Path) -> Dataset:
    """``promise12:PATH``: G. Litjens et al. 2014, as unpacked.

    ``PATH`` holds, in any folders, ``Case00.mhd`` with ``Case00.raw`` (or ``.zraw``) and ``Case00_segmentation.mhd``
    with its own; the 30 cases of the test come without a segmentation and are left out.

    Raises ``DataError`` where there is no such pair, or two images of one name.
    """
    images: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    for path in sorted(root.rglob("Case*.mhd")):
        name = path.stem.removesuffix("_segmentation")
        if not NAME.fullmatch(name):
            continue
        where = masks if path.stem != name else images
        if name in where:
            raise DataError(f"data {spec!r}: {path.name} lies in {where[name].parent} and in {path.parent}; keep one")
        where[name] = path
    both = sorted(images.keys() & masks.keys())
    if not both:
        raise DataError(f"data {spec!r}: {root} holds no CaseNN.mhd with CaseNN_segmentation.mhd")
    entries = [
        Entry(name, Case(str(images[name]), name, masks={"mask": str(masks[name])}), patient=name) for name in both
    ]
    return Dataset(spec, entries, ["image", "mask"], ("background", "gland"))


layout = Layout("PROMISE12 (Case00.mhd and Case00_segmentation.mhd)", read, licence="research use")
