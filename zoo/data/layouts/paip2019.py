"""PAIP 2019: liver cancer segmentation."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from zoo.data.layouts.slide_patches import CELLS, SIDE, patches, reach_of, reduced_mask
from zoo.data.sets import Dataset, Entry, Layout
from zoo.data.tables import files_like
from zoo.errors import DataError

MAGNIFICATION = 5.0


def read(spec: str, root: Path) -> Dataset:
    """``paip2019:PATH``: patches of 400 x 400 px at 5x whose viable tumour covers 20 to 80 %, cut out of the slides.

    ``PATH`` holds, flat or in folders, ``NAME.svs`` (``.SVS``) with ``NAME_viable.tif`` beside it, a mask of the
    slide's size (``NAME_whole.tif`` isn't used). A slide is a patient. Patches that were cut out before are read by
    ``pairs:PATH``. The masks are looked through once, which takes a while.

    Raises ``DataError`` for a mask without its slide or of another size, or where there is none.
    """
    marked = files_like(root, "**/*_viable.tif")
    if not marked:
        raise DataError(f"data {spec!r}: there are no *_viable.tif in {root}; unpack the slides there")
    entries: list[Entry] = []
    for note in marked:
        name = note.name.removesuffix("_viable.tif")
        slides = [note.with_name(name + suffix) for suffix in (".svs", ".SVS")]
        slide = next((path for path in slides if path.is_file()), None)
        if slide is None:
            raise DataError(f"data {spec!r}: {note} has no slide {slides[0].name} beside it")
        reach = reach_of(slide, MAGNIFICATION)
        factor = reach // SIDE
        mask = reduced_mask(str(note), factor)
        cell = SIDE // CELLS
        rows, columns = (side // cell for side in mask.shape)
        cover = mask[: rows * cell, : columns * cell].reshape(rows, cell, columns, cell).mean((1, 3))
        entries += patches(cover, slide, name, reach, partial(_mask, str(note), factor), None)
    return Dataset(spec, entries, ["image", "mask", "patient"])


def _mask(note: str, factor: int, left: int, top: int) -> Bool[np.ndarray, "s s"]:
    whole = reduced_mask(note, factor)
    part = whole[top // factor : top // factor + SIDE, left // factor : left // factor + SIDE]
    return np.pad(part, [(0, SIDE - side) for side in part.shape])


layout = Layout("PAIP 2019 liver cancer (NAME.svs, NAME_viable.tif), patches at 5x", read, licence="research use")
