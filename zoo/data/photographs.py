"""From photographs to the network: colours balanced, the largest centred square, and what a gallery keeps of each."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image as PILImage

from zoo import media
from zoo.data.dermoscopy import shades_of_gray
from zoo.data.images import ImageSet, Window, resize, rgb_bytes, square_of
from zoo.data.views import kept


@dataclass(frozen=True)
class Prepared:
    """An image on its way into the network."""

    image: media.Image
    window: Window  # what the network sees of it
    view: UInt8[np.ndarray, "s s 3"]  # that part, colours constant
    plain: UInt8[np.ndarray, "s s 3"]  # that part, colours as they came
    digest: int  # of the pixels: tells whether two files hold the same picture

    def thumbnail(self, side: int) -> PILImage.Image:
        """What the network saw, in the colours of the photograph."""
        return thumbnail(self.plain, side)


def thumbnail(plain: UInt8[np.ndarray, "s s 3"], side: int) -> PILImage.Image:
    """A picture of ``side`` px for the gallery."""
    return PILImage.fromarray(resize(plain, side, "lanczos"))


def prepare(image: Any, size: int, colour_constancy: bool, needed_by: str) -> Prepared:
    """Read, balance the colours by the whole picture, cut the largest centred square and scale it.

    A photograph much larger than the view is first reduced to about twice its size: its light is that of the thumbnail.
    """
    picture = media.read(image).require_2d(needed_by)
    exact = rgb_bytes(picture)
    window = Window(*square_of(exact.shape))
    digest = hashlib.sha256(exact.tobytes() + repr(exact.shape).encode()).digest()[:8]
    factor = max(1, window.side // (2 * size))
    small = np.asarray(PILImage.fromarray(exact).reduce(factor)) if factor > 1 else exact
    light = small / np.float32(255) if factor > 1 else picture.rgb()
    balanced = np.round(shades_of_gray(light) * 255).astype(np.uint8) if colour_constancy else small
    inside = Window(*square_of(small.shape))
    view, plain = (resize(inside.cut(array), size) for array in (balanced, small))
    return Prepared(picture, window, view, plain, int.from_bytes(digest, "big", signed=True))


def views_of(image: Any, size: int, colour_constancy: bool, needed_by: str) -> dict[str, np.ndarray]:
    """``view``, ``plain`` and ``digest`` of ``prepare``, from disk where an earlier training left them."""

    def make() -> dict[str, np.ndarray]:
        item = prepare(image, size, colour_constancy, needed_by)
        return {"view": item.view, "plain": item.plain, "digest": np.array([item.digest], np.int64)}

    return dict(kept(image, f"{needed_by} {size} {colour_constancy} reduced", make))


@dataclass(frozen=True)
class Photographs(ImageSet):
    """Labelled images as the network takes them, with what a gallery keeps."""

    digests: tuple[int, ...] = ()
    pictures: tuple[PILImage.Image, ...] = ()
