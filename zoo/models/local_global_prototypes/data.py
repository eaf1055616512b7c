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
from zoo.models.local_global_prototypes import plugin


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
        return PILImage.fromarray(resize(self.plain, side, "lanczos"))


def prepare(image: Any, size: int, colour_constancy: bool) -> Prepared:
    """Read, balance the colours on the whole picture, cut the largest centred square and scale it."""
    picture = media.read(image).require_2d(plugin.name)
    exact = rgb_bytes(picture)
    window = Window(*square_of(exact.shape))
    digest = hashlib.sha256(exact.tobytes() + repr(exact.shape).encode()).digest()[:8]
    balanced = np.round(shades_of_gray(picture.rgb()) * 255).astype(np.uint8) if colour_constancy else exact
    view, plain = (resize(window.cut(array), size) for array in (balanced, exact))
    return Prepared(picture, window, view, plain, int.from_bytes(digest, "big", signed=True))


@dataclass(frozen=True)
class Photographs(ImageSet):
    """Labelled images as the network takes them, with what a gallery keeps."""

    digests: tuple[int, ...] = ()
    pictures: tuple[PILImage.Image, ...] = ()
