"""Cases in the working square, their boxes and their sub-groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Shaped

from zoo import media
from zoo.data.case import Case
from zoo.data.images import resize
from zoo.data.sets import read_mask
from zoo.errors import DataError
from zoo.models.cemb_sam.model import BUSI, CEmbSamConfig, working_image
from zoo.nn.promptable import Box, box_around


@dataclass(frozen=True)
class Item:
    """A case in the working square."""

    grey: Float[np.ndarray, "s s"]
    mask: Bool[np.ndarray, "s s"]
    target: Shaped[np.ndarray, "s s"]  # the mask itself, or a soft one in [0, 1]
    condition: int
    id: str


def box_of(mask: Bool[np.ndarray, "h w"]) -> Box:
    """Around the mask; the whole image where there is nothing, as BUSI's normal images have it."""
    return box_around(mask) if mask.any() else Box(0, 0, mask.shape[1], mask.shape[0])


def loose_box(item: Item, jitter: int, empty: Literal["image", "centre"], rng: np.random.Generator) -> Box:
    """The box around an item's target, loosened; of an empty one the whole image or a point at its centre."""
    inside = item.target > 0
    x, y = inside.shape[1] // 2, inside.shape[0] // 2
    box = Box(x, y, x + 1, y + 1) if empty == "centre" and not inside.any() else box_of(inside)
    return loosened(box, jitter, inside.shape, rng)


def loosened(box: Box, jitter: int, size: tuple[int, ...], rng: np.random.Generator) -> Box:
    """Each side moved outwards by 0 to ``jitter`` px, within the image (Sec. 3.2)."""
    x0, y0, x1, y1 = map(int, rng.integers(0, jitter + 1, 4))
    return Box(max(0, box.x0 - x0), max(0, box.y0 - y0), min(size[1], box.x1 + x1), min(size[0], box.y1 + y1))


def conditions_of(cases: Sequence[Case]) -> tuple[str, ...]:
    """The sub-groups that cases state; BUSI's in its own order. Raises ``DataError`` when one states none."""
    found = sorted({condition_of(case) for case in cases})
    return tuple(BUSI) if set(found) <= set(BUSI) else tuple(found)


def condition_of(case: Case) -> str:
    """The attribute ``condition`` of a case, else its label. Raises ``DataError``."""
    value = case.attributes.get("condition", case.label)
    if value in (None, ""):
        raise DataError(
            f"case {case.id} states no sub-group; cemb-sam needs a column 'condition' or a label for every case"
        )
    return str(value)


def load(case: Case, config: CEmbSamConfig, *, soft: bool = False) -> Item:
    """Raises ``DataError`` for a case without mask, of an unknown sub-group, or whose mask has another size."""
    picture = media.read(case.image).require_2d("cemb-sam")
    mask = read_mask(case) > 0
    if mask.shape != picture.size:
        raise DataError(f"image and mask of case {case.id} differ in size: {picture.size} and {mask.shape}")
    name, names, side = condition_of(case), config.conditions, config.working_size
    if name not in names:
        raise DataError(f"case {case.id} is of the sub-group {name!r}, which is none of {', '.join(names)}")
    small = resize(mask, side, "nearest")
    target = resize(mask.astype(np.float32), side, "bilinear") if soft else small
    return Item(working_image(picture, config), small, target, names.index(name), case.id)
