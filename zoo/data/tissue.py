"""Where an image shows tissue at all: Otsu's threshold on stain, or on grey level. Needs the extra ``imaging``."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage
from skimage.filters import threshold_otsu

LEAST_CONTRAST = 0.06  # below it everything is glass: Otsu would part its noise


def tissue_mask(rgb: UInt8[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"]:
    """Where a stained section is not glass: Otsu's threshold on the saturation."""
    high = rgb.max(-1).astype(np.float32)
    saturation = np.where(high > 0, (high - rgb.min(-1)) / np.maximum(high, 1), 0)
    return _above_otsu(ndimage.uniform_filter(saturation, 3))


def dense_mask(grey: UInt8[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Dense structure of an image without stain: what is brighter, or darker where the border is bright."""
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    values = ndimage.uniform_filter(grey.astype(np.float32) / 255, 3)
    return _above_otsu(1 - values if float(np.median(border)) > 127 else values)


def _above_otsu(values: Float[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    if float(values.max() - values.min()) < LEAST_CONTRAST:
        return np.zeros(values.shape, bool)
    return values > max(float(threshold_otsu(values)), LEAST_CONTRAST)


def patches_on(inside: Bool[np.ndarray, "h w"], size: int, least: float = 0.0) -> list[tuple[int, int]]:
    """Top and left of the patches of a grid that hold something of ``inside``, at least a share ``least`` of them.

    The last row and column may overlap their neighbours.
    """

    def starts(length: int) -> list[int]:
        return sorted({*range(0, max(1, length - size + 1), size), max(0, length - size)})

    corners = [(top, left) for top in starts(inside.shape[0]) for left in starts(inside.shape[1])]
    shares = [inside[top : top + size, left : left + size].mean() for top, left in corners]
    return [corner for corner, share in zip(corners, shares, strict=True) if share > 0 and share >= least]
