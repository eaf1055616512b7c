"""Masks of a whole image that somebody else's SAM found, from the files that Segment Anything writes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from zoo.errors import OptionError
from zoo.nn.promptable.everything import AutoMask
from zoo.storage import user_path
from zoo.text import strict_json

LARGEST = 1 << 28  # bytes of a file
MOST = 1 << 16  # masks


def read_masks(path: str | os.PathLike[str], size: Sequence[int]) -> list[AutoMask]:
    """The masks of an image of ``size`` (height and width, px), in their order; empty ones are left out.

    ``path``: JSON with a list of masks, or an object with that list as ``annotations``, as SA-1B has it. A mask has
    ``segmentation`` (COCO's run lengths, compressed or as a list), ``stability_score`` and perhaps ``predicted_iou``:
    what Segment Anything's ``SamAutomaticMaskGenerator(..., output_mode="coco_rle")`` gives.

    Raises ``OptionError`` for another file, and for masks of an image of another size.
    """
    place = user_path(path, OptionError)
    try:
        if place.stat().st_size > LARGEST:
            raise OptionError(f"{path} is larger than {LARGEST >> 20} MiB; give the masks of one image alone")
        found = strict_json(place.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError(f"{path} holds no masks; give JSON as Segment Anything writes it") from error
    rows = found.get("annotations") if isinstance(found, dict) else found
    if not isinstance(rows, list) or len(rows) > MOST:
        raise OptionError(f"{path} holds no list of at most {MOST:,} masks; give JSON as Segment Anything writes it")
    height, width = int(size[0]), int(size[1])
    made = (_mask(row, height, width, f"mask {i} of {path}") for i, row in enumerate(rows, start=1))
    return [mask for mask in made if mask is not None]


def _mask(row: Any, height: int, width: int, where: str) -> AutoMask | None:
    segmentation = row.get("segmentation") if isinstance(row, dict) else None
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= segmentation.keys():
        raise OptionError(f'{where} has no run lengths; write it with output_mode="coco_rle"')
    if segmentation["size"] != [height, width]:
        raise OptionError(f"{where} is of the size {segmentation['size']}, but the image is {height} x {width} px")
    stability, quality = row.get("stability_score"), row.get("predicted_iou", 1.0)
    if not (_number(stability) and 0 <= stability <= 1 and _number(quality)):
        raise OptionError(f"{where} needs a stability_score from 0 to 1, and predicted_iou must be a number")
    full = _pixels(segmentation["counts"], height, width, where)
    rows, columns = np.flatnonzero(full.any(1)), np.flatnonzero(full.any(0))
    if not len(rows):
        return None
    y0, y1, x0, x1 = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    return AutoMask((x0, y0, x1, y1), full[y0:y1, x0:x1].copy(), (height, width), float(quality), float(stability))


def _pixels(counts: Any, height: int, width: int, where: str) -> Bool[np.ndarray, "h w"]:
    """Of run lengths, which go down the columns and begin with a run outside."""
    lengths: Any = _lengths(counts) if isinstance(counts, str) else counts
    whole = isinstance(lengths, list) and all(type(n) is int and 0 <= n <= height * width for n in lengths)
    if not whole or sum(lengths) != height * width:
        raise OptionError(f"the run lengths of {where} don't fill {height} x {width} px; the file may be damaged")
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(width, height).T


def _lengths(text: str) -> list[int] | None:
    """COCO's compressed form: five bits a letter from ``0`` on, and from the fourth run on differences to the last but
    one. None for a text that is none."""
    lengths: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 60:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) << (shift - 4)  # the sign
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value = shift = 0
    return lengths if shift == 0 else None


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
