"""What every fundus method does to a photograph before its network: field of view, size, contrast."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from zoo.media.image import Image, per_image


@per_image
def field_of(image: Image) -> Bool[np.ndarray, "h w"]:
    """:func:`field_of_view` of a photograph, looked for once."""
    return field_of_view(image.rgb())


def field_of_view(rgb: Float[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"]:
    """Where the camera saw the retina: the largest bright region, its holes filled.

    ``rgb`` is in [0, 1]. An image without a dark surround is all field of view.
    """
    from scipy import ndimage

    brightness = ndimage.uniform_filter(np.maximum(np.maximum(rgb[..., 0], rgb[..., 1]), rgb[..., 2]), 5)
    bright = brightness > 0.5 * _valley(brightness)
    regions, count = ndimage.label(bright)
    if count == 0:
        return np.ones(bright.shape, dtype=bool)
    largest = int(np.bincount(regions.ravel())[1:].argmax()) + 1
    field = ndimage.binary_fill_holes(regions == largest)
    return field if np.count_nonzero(field) > 0.1 * field.size else np.ones_like(field)


def colourless(rgb: Float[np.ndarray, "h w 3"]) -> bool:
    """Whether the channels differ by no more than a hundredth on average, as those of an angiogram."""
    red, green, blue = (rgb[..., channel] for channel in range(3))
    grey = (red + green + blue) / 3
    return sum(float(np.abs(one - grey).mean()) for one in (red, green, blue)) <= 0.03


def _valley(brightness: np.ndarray) -> float:
    """Brightness that parts surround and retina (Otsu), never above a third of the bright level."""
    from skimage.filters import threshold_otsu

    bright = float(np.percentile(brightness, 95))
    if brightness.min() > 0.25 * bright:
        return 0.0  # no surround at all
    return min(float(threshold_otsu(brightness)), bright / 3)


def lines_are_dark(grey: Float[np.ndarray, "h w"]) -> bool:
    """Whether thin lines are rather darker than their ground, as vessels on a fundus photograph, than brighter, as on
    an angiogram.

    ``grey`` is in [0, 1]. By the eigenvalues of the Hessian at two scales (A. F. Frangi et al., Multiscale vessel
    enhancement filtering, MICCAI 1998), where one is more than twice the other; what the strongest tenth says.
    """
    from scipy import ndimage

    scale = min(1.0, 256 / max(grey.shape))
    small = ndimage.zoom(ndimage.gaussian_filter(grey, 0.4 / scale), scale, order=1) if scale < 1 else grey
    seen = ndimage.binary_fill_holes(ndimage.gaussian_filter(small, 2) > 0.06)
    seen = ndimage.binary_erosion(seen, iterations=9)  # without the rim of the field of view
    seen = seen if seen.mean() > 0.1 else np.ones_like(seen)
    strength: dict[str, list[float]] = {"dark": [], "bright": []}
    for sigma in (1.5, 2.5):
        rr, rc, cc = (ndimage.gaussian_filter(small, sigma, order=order) for order in ((2, 0), (1, 1), (0, 2)))
        middle, reach = (rr + cc) / 2, np.hypot((rr - cc) / 2, rc)
        across = {"dark": (middle + reach, middle - reach), "bright": (reach - middle, -middle - reach)}
        for name, (one, other) in across.items():
            line = np.sort(np.clip(one - 2 * np.abs(other), 0, None)[seen])
            strength[name].append(float(line[-max(1, len(line) // 10) :].mean()) * sigma**2)
    return sum(strength["dark"]) > 1.05 * sum(strength["bright"])


def vessel_contrast(
    green: Float[np.ndarray, "h w"], field: Bool[np.ndarray, "h w"], *, clip_limit: float = 2.0, tiles: int = 8
) -> Float[np.ndarray, "h w"]:
    """Inverted green channel after CLAHE: vessels bright, outside of the field 0, values in [0, 1].

    ``clip_limit`` is on OpenCV's scale (multiples of a flat histogram over 256 bins) and ``tiles`` the number of
    tiles along each axis, as in ``cv2.createCLAHE``; scikit-image's limit is the same number over its bins.
    """
    from skimage.exposure import equalize_adapthist

    h, w = green.shape
    tile = (max(1, -(-h // tiles)), max(1, -(-w // tiles)))
    inverted = np.where(field, 1 - np.clip(green, 0, 1), 0)
    equalised = equalize_adapthist(inverted, kernel_size=tile, clip_limit=clip_limit / 256, nbins=256)
    return np.where(field, equalised, 0).astype(np.float32)
