"""What a user points at: boxes, points and masks in the pixels of the original image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Shaped

from zoo.errors import OptionError


@dataclass(frozen=True)
class Box:
    """Corners of a rectangle, px from the upper left corner of the image: ``x0 < x1`` and ``y0 < y1``."""

    x0: float
    y0: float
    x1: float
    y1: float

    def check(self, height: int, width: int) -> None:
        """Raise ``OptionError`` for a box that is inverted, empty or reaches out of the image."""
        shown = f"box {self.x0:g},{self.y0:g},{self.x1:g},{self.y1:g}"
        if not all(map(math.isfinite, (self.x0, self.y0, self.x1, self.y1))):
            raise OptionError(f"{shown} must be four finite numbers")
        if self.x0 >= self.x1 or self.y0 >= self.y1:
            raise OptionError(f"{shown} is empty or inverted; write x0,y0,x1,y1 with x0 < x1 and y0 < y1")
        if self.x0 < 0 or self.y0 < 0 or self.x1 > width or self.y1 > height:
            raise OptionError(f"{shown} reaches out of the image, which is {width} px wide and {height} px high")

    def fitted(self, height: int, width: int) -> Box:
        """The part of the box that lies on the image, where that is most of it; else the box as it is."""
        corners = [max(self.x0, 0.0), max(self.y0, 0.0), min(self.x1, float(width)), min(self.y1, float(height))]
        inside = max(corners[2] - corners[0], 0.0) * max(corners[3] - corners[1], 0.0)
        return Box(*corners) if inside >= (self.x1 - self.x0) * (self.y1 - self.y0) / 2 else self


@dataclass(frozen=True)
class Point:
    """A click, px from the upper left corner; ``inside`` says whether the object is there or the background."""

    x: float
    y: float
    inside: bool = True

    def check(self, height: int, width: int) -> None:
        """Raise ``OptionError`` for a point that isn't on the image."""
        if not (math.isfinite(self.x) and math.isfinite(self.y)):
            raise OptionError(f"point {self.x:g},{self.y:g} must be two finite numbers")
        if not (0 <= self.x < width and 0 <= self.y < height):
            raise OptionError(
                f"point {self.x:g},{self.y:g} is not on the image, which is {width} px wide and {height} px high"
            )


@dataclass(frozen=True)
class Mask:
    """A rough or previous mask of the object, as large as the image."""

    inside: Bool[np.ndarray, "h w"]

    def check(self, height: int, width: int) -> None:
        """Raise ``OptionError`` for a mask of another size, or one that marks nothing."""
        found = self.inside.shape
        if found != (height, width):
            size = " x ".join(map(str, reversed(found)))
            raise OptionError(
                f"the mask is {size} px and the image {width} x {height}; give a mask of the image's size"
            )
        if not self.inside.any():
            raise OptionError("the mask is empty; mark the object in it, or leave it out")


@dataclass(frozen=True)
class Prompt:
    """All that is said about one object. At least one of the parts."""

    box: Box | None = None
    points: tuple[Point, ...] = ()
    mask: Mask | None = None

    def check(self, height: int, width: int) -> None:
        """Raise ``OptionError`` for a part that doesn't fit the image, or a prompt that says nothing."""
        if self.box is None and not self.points and self.mask is None:
            raise OptionError("a prompt needs a box, a point or a mask; add --with box=x0,y0,x1,y1")
        for part in (self.box, *self.points, self.mask):
            if part is not None:
                part.check(height, width)


def fitted(prompts: Sequence[Prompt], height: int, width: int) -> tuple[tuple[Prompt, ...], list[str]]:
    """The prompts with boxes that reach a little over the edge cut there, and a note for each that was.

    Raises ``OptionError`` for a part that doesn't fit the image.
    """
    found, notes = [], []
    for prompt in prompts:
        box = prompt.box and prompt.box.fitted(height, width)
        if box is not None and box != prompt.box:
            notes.append(f"the box reached over the edge and was cut to {box.x0:g},{box.y0:g},{box.x1:g},{box.y1:g}")
        found.append(replace(prompt, box=box))
        found[-1].check(height, width)
    return tuple(found), notes


def prompts_from(
    box: Sequence[Sequence[float]] | None = None,
    point: Sequence[Sequence[float]] | None = None,
    background: Sequence[Sequence[float]] | None = None,
    mask: Shaped[np.ndarray, "h w"] | None = None,
) -> tuple[Prompt, ...]:
    """One prompt per object from what ``--with`` gave: every box is an object; points and a mask refine one object.

    Raises ``OptionError`` when points or a mask come with several boxes, for then nobody knows whose they are.
    """
    boxes = [Box(*map(float, one)) for one in box or ()]
    points = tuple(Point(float(x), float(y)) for x, y in point or ())
    points += tuple(Point(float(x), float(y), inside=False) for x, y in background or ())
    hint = Mask(np.asarray(mask) > 0) if mask is not None else None
    if not boxes and not points and hint is None:
        return ()
    if len(boxes) > 1 and (points or hint):
        raise OptionError(f"points and a mask belong to one object, but {len(boxes)} boxes were given; give one box")
    if len(boxes) > 1:
        return tuple(Prompt(one) for one in boxes)
    return (Prompt(boxes[0] if boxes else None, points, hint),)


NEAR = 0.1
"""How far beyond its box the mask of an object may reach, as a share of the box's sides."""


def near_box(size: tuple[int, int], prompt: Prompt) -> Bool[np.ndarray, "h w"]:
    """Where the object of a prompt may lie: in its box, a tenth of its sides beyond, and out to clicks inside."""
    box = prompt.box
    if box is None:
        return np.ones(size, bool)
    dx, dy = NEAR * (box.x1 - box.x0), NEAR * (box.y1 - box.y0)
    clicks = [point for point in prompt.points if point.inside]
    x0, x1 = (pick([at, *(p.x for p in clicks)]) for pick, at in ((min, box.x0), (max, box.x1)))
    y0, y1 = (pick([at, *(p.y for p in clicks)]) for pick, at in ((min, box.y0), (max, box.y1)))
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    return (x > x0 - dx) & (x < x1 + dx) & (y > y0 - dy) & (y < y1 + dy)


def box_around(mask: Bool[np.ndarray, "h w"]) -> Box:
    """The smallest box that holds the mask; its lower right corner is exclusive. Raises ``OptionError`` when empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        raise OptionError("an empty mask has no box around it")
    return Box(float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
