"""MoNuSeg: nuclei of several organs, outlined."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from jaxtyping import UInt16
from PIL import Image, ImageDraw

from zoo import media
from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry, Layout
from zoo.data.tables import files_like, images_in, stem_of
from zoo.errors import DataError

LARGEST = 64 * 2**20  # bytes of an annotation


def read(spec: str, root: Path) -> Dataset:
    """``monuseg:PATH``: images of 1000 x 1000 px at 40x from TCGA, Kumar et al. 2020, as unpacked.

    ``PATH`` holds, at any depth, ``Annotations/NAME.xml`` beside ``Tissue Images/NAME.tif`` (training) and
    ``MoNuSegTestData/NAME.xml`` beside ``NAME.tif`` (test; folders with "test" in their name). The first three parts of
    a name are the patient. Masks: ``mask`` (nuclei) and ``instances`` (a number for each).

    Raises ``DataError`` for an annotation without its image, or one that is malformed.
    """
    images = {stem_of(path): path for path in images_in(root, recursive=True)}
    entries = []
    for note in files_like(root, "**/*.xml"):
        if note.stem not in images:
            raise DataError(f"data {spec!r}: {note} has no image {note.stem}.tif; unpack the images too")
        test = any("test" in part.lower() for part in note.relative_to(root).parts[:-1])
        patient = "-".join(note.stem.split("-")[:3])
        case = partial(_case, str(images[note.stem]), note)
        entries.append(Entry(note.stem, case, patient, "test" if test else "train"))
    return Dataset(spec, entries, ["image", "mask", "split", "patient"])


def _case(image: str, note: Path) -> Case:
    instances = outlined(note, media.read(image).size)
    return Case(image, note.stem, masks={"mask": (instances > 0).astype(np.uint8), "instances": instances})


def outlined(note: Path, size: tuple[int, ...]) -> UInt16[np.ndarray, "h w"]:
    """The nuclei of an annotation in ImageScope's format, numbered; the later covers. Raises ``DataError``."""
    if note.stat().st_size > LARGEST:
        raise DataError(f"{note} is larger than {LARGEST >> 20} MiB; no annotation is")
    text = note.read_bytes()
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise DataError(f"{note} declares entities, which no annotation does; download it again")
    canvas = Image.new("I", (size[1], size[0]))
    draw = ImageDraw.Draw(canvas)
    try:
        number = 0
        for region in ElementTree.fromstring(text).iter("Region"):
            corners = [(float(one.attrib["X"]), float(one.attrib["Y"])) for one in region.iter("Vertex")]
            if len(corners) > 2:
                number += 1
                draw.polygon(corners, fill=number)
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise DataError(f"{note} is no annotation of MoNuSeg ({error}); download it again") from error
    return np.asarray(canvas).astype(np.uint16)


layout = Layout(
    "MoNuSeg: nuclei (Annotations/*.xml, Tissue Images/*.tif; MoNuSegTestData/)", read, licence="CC BY-NC-SA 4.0"
)
