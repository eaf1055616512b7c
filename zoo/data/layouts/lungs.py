"""What sets with a mask for each lung have in common."""

from __future__ import annotations

from typing import Any

import numpy as np

from zoo.data.case import Case
from zoo.data.sets import read_mask
from zoo.errors import DataError


def case_of(image: Any, name: str, masks: tuple[str, str], label: str, size: tuple[int, int] | None = None) -> Case:
    """A frontal radiograph with ``left_lung``, ``right_lung`` and ``mask``, both together.

    The patient's left lung is the one farther to the right of the image, whatever the files are called. ``size``: that
    of the image, where the masks are drawn at a whole fraction of it. Raises ``DataError`` for masks that are empty or
    differ in size.
    """
    found = [read_mask(Case(None, name, masks={"mask": path})) > 0 for path in masks]
    if found[0].shape != found[1].shape or not all(mask.any() for mask in found):
        raise DataError(f"the masks of {name} are empty or differ in size; unpack them again")
    if size is not None:
        factor = size[0] // found[0].shape[0]
        found = [np.kron(mask, np.ones((factor, factor), bool)) for mask in found]
    right, left = sorted(found, key=lambda mask: float(np.flatnonzero(mask.any(0)).mean()))
    named = {"mask": left | right, "left_lung": left, "right_lung": right}
    return Case(image, name, masks={key: mask.astype(np.uint8) for key, mask in named.items()}, label=label)
