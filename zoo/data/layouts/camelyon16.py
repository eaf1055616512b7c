"""CAMELYON16: metastases of breast cancer in lymph nodes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Bool

from zoo.data.layouts.slide_patches import CELLS, SIDE, Ring, open_slide, patches, rasterised, reach_of
from zoo.data.sets import Dataset, Entry, Layout
from zoo.data.tables import files_like
from zoo.errors import DataError

PLACES = (  # slides, annotations, split
    ("training/tumor", "training/lesion_annotations", "train"),
    ("testing/images", "testing/lesion_annotations", "test"),
    ("images", "annotations", None),
)
HOLES = "_2"  # the group of what is normal within a tumour
LARGEST = 64 * 2**20  # bytes of an annotation


def read(spec: str, root: Path, magnification: float = 5.0) -> Dataset:
    """``camelyon16:PATH``: patches of 400 x 400 px at 5x whose tumour covers 20 to 80 %, cut out of the slides.

    ``PATH`` holds the slides (``*.tif``) and their annotations (``*.xml``, one file for each slide with tumour) as the
    challenge has them, ``training/tumor/`` with ``training/lesion_annotations/`` and ``testing/images/`` with
    ``testing/lesion_annotations/``, or as the later release, ``images/`` with ``annotations/``. A slide is a patient.
    ``camelyon16-10x:PATH`` gives the patches at 10x. Patches that were cut out before are read by ``pairs:PATH``.

    Raises ``DataError`` for annotations without their slide, and files that are malformed.
    """
    entries: list[Entry] = []
    found = [(root / slides, root / notes, split) for slides, notes, split in PLACES if (root / notes).is_dir()]
    if not found:
        raise DataError(f"data {spec!r}: there is no folder {root / PLACES[0][1]}; unpack the set there")
    for slides, notes, split in found:
        for note in files_like(notes, "*.xml"):
            slide = slides / f"{note.stem}.tif"
            if not slide.is_file():
                raise DataError(f"data {spec!r}: {note} has no slide {slide}; unpack it there")
            inside, holes = polygons(note)
            (width, height), _ = open_slide(slide)
            reach = reach_of(slide, magnification)
            cell = reach / CELLS
            size = (-(-height * CELLS // reach), -(-width * CELLS // reach))
            cover = rasterised(inside, holes, 0, 0, cell, size).astype(float)
            mask = partial(_mask, inside, holes, reach)
            entries += patches(cover, slide, note.stem, reach, mask, split)
    return Dataset(spec, entries, ["image", "mask", "patient"])


def _mask(inside: list[Ring], holes: list[Ring], reach: int, left: int, top: int) -> Bool[np.ndarray, "s s"]:
    return rasterised(inside, holes, left, top, reach / SIDE, (SIDE, SIDE))


def polygons(note: Path) -> tuple[list[Ring], list[Ring]]:
    """Outlines of tumour, and of what is normal within; ASAP's format. Raises ``DataError`` for a malformed file."""
    if note.stat().st_size > LARGEST:
        raise DataError(f"{note} is larger than {LARGEST >> 20} MiB; no annotation is")
    text = note.read_bytes()
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise DataError(f"{note} declares entities, which no annotation does; download it again")
    try:
        root = ElementTree.fromstring(text)
        found: tuple[list[Ring], list[Ring]] = ([], [])
        for item in root.iter("Annotation"):
            corners = sorted(item.iter("Coordinate"), key=lambda corner: int(corner.attrib["Order"]))
            ring = np.array([[float(corner.attrib[axis]) for axis in "XY"] for corner in corners])
            if len(ring) > 2:
                found[item.attrib.get("PartOfGroup") == HOLES].append(ring)
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise DataError(f"{note} is no annotation of CAMELYON16 ({error}); download it again") from error
    return found


TITLE = "CAMELYON16 (training/, testing/ with lesion_annotations/, or images/ with annotations/), patches at {}"
layout = Layout(TITLE.format("5x"), read, licence="CC0")
layout_10x = Layout(TITLE.format("10x"), partial(read, magnification=10.0), licence="CC0")
