"""JSRT: chest radiographs with and without a lung nodule, with the outlines of SCR."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt16

from zoo.data.case import Case
from zoo.data.layouts.lungs import case_of
from zoo.data.sets import Dataset, Entry, Layout
from zoo.data.tables import files_like
from zoo.errors import DataError

SIDE, BITS = 2048, 12  # of an image without header: rows and columns of big-endian 16-bit numbers, 12 of them used
LABELS = {"JPCLN": "nodule", "JPCNN": "no nodule"}


def read(spec: str, root: Path) -> Dataset:
    """``jsrt:PATH``: the JSRT set, J. Shiraishi et al. 2000, with the SCR masks, B. van Ginneken et al. 2006.

    ``PATH`` holds the images, ``JPCLN001.IMG`` (a nodule) and ``JPCNN001.IMG`` (none), in any folder, and SCR's
    ``fold1/masks/left lung/JPCLN001.gif`` ... with ``right lung/`` and ``fold2/`` beside it, in any folder. Masks are
    ``left_lung``, ``right_lung`` and ``mask``, both. Images without masks are left out.

    Raises ``DataError`` where there are no images or masks, or an image isn't 2048 x 2048 px.
    """
    images = {path.stem: path for path in files_like(root, "**/JPC*.[Ii][Mm][Gg]")}
    sides = [
        {
            path.stem: path
            for path in files_like(root, "**/*.gif")
            if path.parent.name.replace("_", " ") == f"{side} lung"
        }
        for side in ("left", "right")
    ]
    both = [name for name in images if all(name in side for side in sides)]
    if not both:
        raise DataError(f"data {spec!r}: {root} holds no JPC*.IMG with 'left lung/' and 'right lung/' masks of SCR")
    entries = []
    for name in both:
        masks = (str(sides[0][name]), str(sides[1][name]))
        made = partial(_case, str(images[name]), name, masks, LABELS.get(name[:5], "nodule"))
        entries.append(Entry(name, made, patient=name))
    return Dataset(spec, entries, ["image", "mask", "label"])


def _case(path: str, name: str, masks: tuple[str, str], label: str) -> Case:
    return case_of(pixels(Path(path)), name, masks, label, (SIDE, SIDE))


def pixels(path: Path) -> UInt16[np.ndarray, "h w"]:
    """The image with air dark, as radiographs are looked at; in the file 0 is the brightest."""
    if path.stat().st_size != 2 * SIDE * SIDE:
        raise DataError(f"{path} isn't an image of {SIDE} x {SIDE} numbers of 16 bits; download it again")
    stored = np.fromfile(path, ">u2").reshape(SIDE, SIDE)
    return (2**BITS - 1 - np.minimum(stored, 2**BITS - 1)).astype(np.uint16)


layout = Layout("JSRT chest X-rays with SCR's lung masks (*.IMG, fold1/masks/left lung/)", read, licence="research use")
