"""What makes an image plainly not what a model is for. A network answers anyway, so it's said beside the answer."""

from __future__ import annotations

import numpy as np

from zoo.media.image import Image

COLOURFUL = 0.08  # mean distance of the strongest and the weakest channel; scans that were saved as RGB stay below


def doubts(picture: Image, made_for: str, *, colour: bool) -> tuple[str, ...]:
    """Notes on a 2-D image for a model ``made_for`` something, in ``colour`` or in grey; none where it looks right."""
    pixels = picture.rgb()
    if not np.ptp(pixels, axis=(0, 1)).any():
        return ("the image has a single level everywhere, so the answer means nothing",)
    if not colour and float((pixels.max(-1) - pixels.min(-1)).mean()) > COLOURFUL:
        return (f"this is a colour image and the model is made for {made_for}, so the answer means nothing",)
    return ()
