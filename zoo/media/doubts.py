"""What makes an image unusable for any model, or plainly not what a model is for."""

from __future__ import annotations

import numpy as np

from zoo.errors import MediaError
from zoo.media.image import Image

COLOURFUL = 0.08  # mean distance of the strongest and the weakest channel; scans that were saved as RGB stay below
EMPTY = 0.999  # share of the pixels, of one level or at the two ends of the range, from which nothing is left to see
SEEN = 1024  # px: of larger images every n-th pixel is looked at


def require_content(picture: Image) -> Image:
    """The 2-D image or volume itself. Raises ``MediaError`` where it is empty, of one level, or saturated.

    A network would answer all the same. Saturated is what lies almost wholly at black or white, the sign of a wrong
    window.
    """
    step = tuple(slice(None, None, max(1, n // SEEN)) for n in picture.size)
    values = picture.unit()[step]
    if values.size == 0:
        raise MediaError(f"{picture.source} has no pixels")
    low, high = np.quantile(values, ((1 - EMPTY) / 2, (1 + EMPTY) / 2))
    if high - low < 1 / 512:
        raise MediaError(
            f"{picture.source} is empty: it has a single level almost everywhere, so that no answer would mean anything"
        )
    extreme = np.count_nonzero((values <= 0) | (values >= 1))
    if extreme >= EMPTY * values.size and (values > 0).any():
        raise MediaError(
            f"{picture.source} is saturated: almost all of it is wholly black or white, so that no answer would mean "
            "anything; check its window, or whether it is a mask"
        )
    return picture


def doubts(picture: Image, made_for: str, *, colour: bool) -> tuple[str, ...]:
    """Notes on a 2-D image for a model ``made_for`` something, in ``colour`` or in grey; none where it looks right."""
    pixels = picture.rgb()
    if not colour and float((pixels.max(-1) - pixels.min(-1)).mean()) > COLOURFUL:
        return (f"this is a colour image and the model is made for {made_for}, so the answer means nothing",)
    return ()
