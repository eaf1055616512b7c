"""Where points come from (Sec. 3, Keypoints), what the network sees of an image, and which class a case is of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from zoo import media
from zoo.data import phantoms
from zoo.data.images import IMAGENET_MEAN, IMAGENET_STD, resize, rgb_bytes
from zoo.data.keypoints import keypoints_of
from zoo.errors import OptionError
from zoo.models.tts_skin import plugin
from zoo.spec import is_kind

ALPHA, ALPHA_ARTIFACTS = 0.4, 0.2  # Sec. 3: generally, and where negatives mark artifacts
ARTIFACTS = ("dark_corner", "ruler", "ink", "patches")  # that the authors marked by points
UNMARKED = ("hair", "gel_bubble", "gel_border")  # "hard to describe with few keypoints": left out
ROLES = {"positive": "positive", "lesion": "positive", "negative": "negative", "background": "negative"}
WIDEST = 4 / 3  # aspect of the part of a photograph that the network sees, as the authors' transform

XY = Float[np.ndarray, "_ 2"]


def no_points() -> XY:
    return np.zeros((0, 2))


# ---- points --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Points:
    """What a person marked: pixels (x, y) of the original image, whole numbers at the centres of pixels."""

    positive: XY = field(default_factory=no_points)
    negative: XY = field(default_factory=no_points)
    origin: str = ""  # of both, in words
    artifacts: bool = False  # whether the negative ones mark artifacts
    notes: tuple[str, ...] = ()

    def inside(self, window: Window) -> Points:
        """Those in the part of the image that the network sees.

        Raises ``OptionError`` where no positive point is left.
        """
        left, top, width, height = window
        kept = []
        for points in (self.positive, self.negative):
            x, y = points[:, 0] + 0.5 - left, points[:, 1] + 0.5 - top
            kept.append(points[(x > 0) & (x < width) & (y > 0) & (y < height)])
        lost = len(self.positive) + len(self.negative) - len(kept[0]) - len(kept[1])
        if len(self.positive) and not len(kept[0]):
            raise OptionError(
                f"all positive points lie outside of what the network sees, {width:g} x {height:g} px from "
                f"({left:g}, {top:g}); mark the lesion there"
            )
        note = (f"{lost} points lie outside of what the network sees and don't count",) if lost else ()
        return replace(self, positive=kept[0], negative=kept[1], notes=(*self.notes, *note))


def gather(
    picture: media.Image,
    *,
    positive: Sequence[Sequence[float]] = (),
    negative: Sequence[Sequence[float]] = (),
    keypoints: Any = None,
    mask: Bool[np.ndarray, "h w"] | None = None,
    artifact_mask: Bool[np.ndarray, "h w"] | None = None,
    n_points: int = 20,
    rng: np.random.Generator,
) -> Points:
    """The points of one image. Nothing is made up: without points and masks there are none.

    Positive points are those given, else those of ``keypoints``, else drawn from the lesion's ``mask``; negative ones
    those given, else of ``keypoints``, else drawn from ``artifact_mask``, else from outside of ``mask``. An image whose
    artifact mask is empty has positive points only, as in the authors' code. Raises ``OptionError`` for points outside
    the image, and for negative ones without a positive.
    """
    h, w = picture.size
    told = from_file(keypoints, picture) if keypoints is not None else Points()
    places = {
        "positive": np.array(positive, float).reshape(-1, 2),
        "negative": np.array(negative, float).reshape(-1, 2),
    }
    for name, points in places.items():
        bad = points[((points < -0.5) | (points > (w - 0.5, h - 0.5))).any(1)]
        if len(bad):
            x, y = bad[0]
            raise OptionError(f"the {name} point {x:g},{y:g} lies outside of the image of {w} x {h} px; mark it inside")
    notes: list[str] = []
    plus, origin = places["positive"], "given"
    if not len(plus) and len(told.positive):
        plus, origin = told.positive, "keypoints"
    elif not len(plus) and mask is not None:
        plus, origin = draw(mask, n_points, rng), "lesion mask"
        notes += [] if len(plus) else ["the lesion mask is empty, so it gives no points"]
    minus, against, artifacts = places["negative"], "given", False
    if not len(minus) and len(told.negative):
        minus, against, artifacts = told.negative, "keypoints", told.artifacts
    elif not len(minus) and artifact_mask is not None:
        minus, against, artifacts = draw(artifact_mask, n_points, rng), "artifact mask", True
    elif not len(minus) and mask is not None and len(plus):
        minus, against = draw(~mask, n_points, rng), "background"
    if len(minus) and not len(plus):
        if mask is None:
            raise OptionError(
                f"{plugin.name} needs to know where the lesion is beside what is to be ignored; add --with positive=X,Y"
            )
        minus = no_points()
    if len(plus) and not len(minus):
        notes.append("no negative points: channels are ranked by the positive ones alone")
    sources = dict.fromkeys([origin, *([against] if len(minus) else [])] if len(plus) else [])
    return Points(plus, minus, " and ".join(sources), artifacts, tuple(notes))


def draw(mask: Bool[np.ndarray, "h w"], n: int, rng: np.random.Generator) -> XY:
    """``n`` different pixels of a mask, all equally likely; all of them where it has fewer."""
    inside = np.flatnonzero(mask)
    places = rng.choice(inside, min(n, len(inside)), replace=False)
    return np.stack([places % mask.shape[1], places // mask.shape[1]], 1).astype(float)


def mask_of(given: Any, picture: media.Image, name: str) -> Bool[np.ndarray, "h w"] | None:
    """A mask option as a mask of the image's size; of a phantom its own. Raises ``OptionError`` for another size."""
    if given is None:
        return None
    if is_kind(str(given) if isinstance(given, str | Path) else None, "phantom"):
        case = phantoms.make(str(given))
        kept = "artifact" if name == "artifact_mask" else "mask"
        if kept not in case.masks:
            raise OptionError(f"{given} has no {kept}, so it can't be the {name}; give a file")
        given = case.masks[kept]
    found = media.read_labels(given).require_2d(plugin.name).array > 0
    if found.shape != picture.size:
        sizes = (" x ".join(map(str, reversed(size))) for size in (found.shape, picture.size))
        raise OptionError("the {} is {} px and the image {}; give a mask of the image's size".format(name, *sizes))
    return found


def from_file(path: Any, picture: media.Image) -> Points:
    """The points of one image in a file that ``zoo.data.keypoints`` reads, by their kinds.

    ``positive`` (or ``lesion``), ``negative`` (or ``background``), or an artifact: dark_corner, ruler, ink or patches;
    hair, gel_bubble and gel_border are left out. Raises ``OptionError`` for an unknown kind.
    """
    found: dict[str, list[tuple[float, float]]] = {"positive": [], "negative": [], "artifact": []}
    for x, y, kind in keypoints_of(path, picture):
        if kind in UNMARKED:
            continue
        if kind not in ROLES and kind not in ARTIFACTS:
            raise OptionError(f"{path} has a point of the kind {kind!r}; write positive, negative or an artifact")
        found[ROLES.get(kind, "artifact")].append((x, y))
    plus, minus = (
        np.array(p, float).reshape(-1, 2) for p in (found["positive"], found["negative"] + found["artifact"])
    )
    return Points(plus, minus, "keypoints", bool(found["artifact"]) and not found["negative"])


# ---- views and labels ----------------------------------------------------------------------------------------------


class Window(NamedTuple):
    """The part of an image that a network sees, px."""

    left: float
    top: float
    width: float
    height: float

    def grid(self, points: XY) -> XY:
        """Pixels of the image as places from -1 to 1 between the edges of the window."""
        return (points + 0.5 - (self.left, self.top)) / (self.width, self.height) * 2 - 1


class View(NamedTuple):
    """What a network sees of an image, before it is normalised."""

    picture: UInt8[np.ndarray, "s s 3"]
    window: Window


def view_of(picture: media.Image, size: int) -> View:
    """The whole image squeezed into a square, as released; of a very long one the middle, 4:3 or 3:4."""
    pixels = rgb_bytes(picture)
    window = window_of(pixels.shape[0], pixels.shape[1])
    left, top, width, height = map(int, window)
    return View(resize(pixels[top : top + height, left : left + width], size, "bilinear"), window)


def window_of(h: int, w: int) -> Window:
    """Of an image of this size."""
    width, height = min(w, max(1, round(h * WIDEST))), min(h, max(1, round(w * WIDEST)))
    return Window((w - width) // 2, (h - height) // 2, width, height)


def noise_crop(
    picture: UInt8[np.ndarray, "s s 3"], mask: Bool[np.ndarray, "s s"], seed: int = 0
) -> UInt8[np.ndarray, "s s 3"]:
    """The lesion on one Gaussian noise image, the same behind all lesions of this size.

    The authors' noise isn't released; this has the mean and deviation of natural images.
    """
    noise = np.random.default_rng([0x501E, seed]).normal(IMAGENET_MEAN, IMAGENET_STD, picture.shape)
    return np.where(mask[..., None], picture, np.clip(noise * 255, 0, 255)).astype(np.uint8)
