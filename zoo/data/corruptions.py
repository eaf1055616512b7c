"""Images as a worse camera, worse weather or a worse file would have them: 18 kinds of corruption in 5 severities.

For asking how much of a model's accuracy is left (``zoo robustness``). Kinds and constants are those of D. Hendrycks
and T. Dietterich, Benchmarking neural network robustness to common corruptions and perturbations, ICLR 2019, with their
four extra kinds and without the elastic one, which moves pixels away from their labels. Lengths are in pixels of the
image as it is given, as there; nothing is scaled with its size.

Where a kind differs from the published one: ``frost`` lays a made-up texture of ice needles over the image instead of
photographs, and ``glass_blur`` swaps pixels in another order.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image as PILImage
from scipy import ndimage

from zoo.data.images import resize
from zoo.errors import MissingExtraError, OptionError
from zoo.text import nearest

RGB = Float[np.ndarray, "h w 3"]  # in [0, 1]
GROUPS: dict[str, tuple[str, ...]] = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "gaussian_blur"),
    "weather": ("snow", "frost", "fog", "brightness", "spatter"),
    "digital": ("contrast", "pixelate", "jpeg", "saturate"),
}
KINDS = tuple(kind for kinds in GROUPS.values() for kind in kinds)
SEVERITIES = (1, 2, 3, 4, 5)


def corrupt(image: UInt8[np.ndarray, "h w 3"], kind: str, severity: int, seed: int = 0) -> UInt8[np.ndarray, "h w 3"]:
    """``image`` with one of ``KINDS`` at a severity of 1 to 5; a pure function of its arguments.

    Raises ``OptionError`` for another kind or severity, or an image below 32 px.
    """
    if kind not in KINDS:
        raise OptionError(f"there is no corruption {kind!r}; {nearest(kind, KINDS)}")
    if severity not in SEVERITIES:
        raise OptionError(f"the severity of a corruption is 1 to 5, not {severity!r}")
    if min(image.shape[:2]) < 32:
        raise OptionError(f"corruptions need an image of at least 32 px, not {image.shape[1]} x {image.shape[0]}")
    rng = np.random.default_rng([0xC0AA, KINDS.index(kind), severity, seed])
    changed = _HOW[kind](image.astype(np.float64) / 255, severity - 1, rng)
    return np.floor(np.clip(changed, 0, 1) * 255 + 1e-6).astype(np.uint8)


# ---- noise -----------------------------------------------------------------------------------------------------------


def gaussian_noise(x: RGB, level: int, rng: np.random.Generator) -> RGB:
    return x + rng.normal(scale=(0.08, 0.12, 0.18, 0.26, 0.38)[level], size=x.shape)


def shot_noise(x: RGB, level: int, rng: np.random.Generator) -> RGB:
    photons = (60, 25, 12, 5, 3)[level]
    return rng.poisson(x * photons) / photons


def impulse_noise(x: RGB, level: int, rng: np.random.Generator) -> RGB:
    """Salt and pepper, each channel by itself."""
    struck = rng.random(x.shape) < (0.03, 0.06, 0.09, 0.17, 0.27)[level]
    return np.where(struck, (rng.random(x.shape) < 0.5).astype(float), x)


def speckle_noise(x: RGB, level: int, rng: np.random.Generator) -> RGB:
    return x * (1 + rng.normal(scale=(0.15, 0.2, 0.35, 0.45, 0.6)[level], size=x.shape))


# ---- blur ------------------------------------------------------------------------------------------------------------


def gaussian_blur(x: RGB, level: int, rng: np.random.Generator) -> RGB:
    return _smooth(x, (1, 2, 3, 4, 6)[level])


def defocus_blur(x: RGB, level: int, rng: np.random.Generator) -> RGB:
    """By a disc, whose edge is smoothed."""
    radius, soft = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[level]
    reach = max(8, radius)
    y, x_ = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = (x_**2 + y**2 <= radius**2).astype(float)
    return _convolve(x, ndimage.gaussian_filter(disc / disc.sum(), soft, truncate=(1 if radius <= 8 else 2) / soft))


def glass_blur(x: RGB, level: int, rng: np.random.Generator) -> RGB:
    """Neighbours change places, between two smoothings."""
    sigma, reach, rounds = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[level]
    x = _smooth(x, sigma).copy()
    height, width = x.shape[:2]
    step = 2 * reach  # places so far apart can swap at once: no two reach for the same pixel
    for _ in range(rounds):
        for top in range(reach, reach + step):
            for left in range(reach, reach + step):
                rows, columns = np.meshgrid(
                    np.arange(top, height - reach, step), np.arange(left, width - reach, step), indexing="ij"
                )
                dy, dx = rng.integers(-reach, reach, size=(2, *rows.shape))
                here, there = (rows, columns), (rows + dy, columns + dx)
                x[here], x[there] = x[there], x[here]
    return _smooth(x, sigma)


def motion_blur(x: RGB, level: int, rng: np.random.Generator) -> RGB:
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[level]
    return _along(x, radius, sigma, rng.uniform(-45, 45))


def zoom_blur(x: RGB, level: int, rng: np.random.Generator) -> RGB:
    """The mean of enlarged views."""
    most, step = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))[level]
    factors = np.arange(1, most, step)
    return (x + sum(_enlarged(x, factor) for factor in factors)) / (len(factors) + 1)


# ---- weather ---------------------------------------------------------------------------------------------------------


def snow(x: RGB, level: int, rng: np.random.Generator) -> RGB:
    mean, spread, zoom, least, radius, sigma, kept = (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[level]
    flakes = _enlarged(rng.normal(mean, spread, (*x.shape[:2], 1)), zoom)
    flakes = np.clip(np.where(flakes < least, 0, flakes), 0, 1)
    flakes = _along(flakes, radius, sigma, rng.uniform(-135, -45))
    pale = np.maximum(x, _grey(x)[..., None] * 1.5 + 0.5)
    return kept * x + (1 - kept) * pale + flakes + np.rot90(flakes, 2)


def frost(x: RGB, level: int, rng: np.random.Generator) -> RGB:
    kept, ice = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))[level]
    return kept * x + ice * _ice(x.shape[0], x.shape[1], rng)


def fog(x: RGB, level: int, rng: np.random.Generator) -> RGB:
    """A cloud laid over the image, which then fills the range that it had."""
    density, decay = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))[level]
    cloud = _cloud(max(x.shape[:2]), decay, rng)[: x.shape[0], : x.shape[1], None]
    brightest = x.max()
    return (x + density * cloud) * brightest / (brightest + density)


def brightness(x: RGB, level: int, rng: np.random.Generator) -> RGB:
    hsv = _hsv(x)
    hsv[..., 2] = np.clip(hsv[..., 2] + (0.1, 0.2, 0.3, 0.4, 0.5)[level], 0, 1)
    return _rgb(hsv)


def spatter(x: RGB, level: int, rng: np.random.Generator) -> RGB:
    """Drops of water (severity 1 to 3) or mud (4 and 5) on the lens."""
    mean, spread, sigma, least, strength = (
        (0.65, 0.3, 4, 0.69, 0.6),
        (0.65, 0.3, 3, 0.68, 0.6),
        (0.65, 0.3, 2, 0.68, 0.5),
        (0.65, 0.3, 1, 0.65, 1.5),
        (0.67, 0.4, 1, 0.65, 1.5),
    )[level]
    wet = _smooth(rng.normal(mean, spread, (*x.shape[:2], 1)), sigma)[..., 0]
    if level >= 3:
        mud = _smooth((wet > least).astype(float)[..., None], strength)
        mud[mud < 0.8] = 0
        return x * (1 - mud) + mud * np.array([63, 42, 20]) / 255
    wet = np.where(wet < least, 0, wet)
    lit = wet * _relief(wet)
    lit = lit / max(lit.max(), 1e-9) * strength
    return x + lit[..., None] * np.array([175, 238, 238]) / 255


# ---- digital ---------------------------------------------------------------------------------------------------------


def contrast(x: RGB, level: int, rng: np.random.Generator) -> RGB:
    mean = x.mean((0, 1), keepdims=True)
    return (x - mean) * (0.4, 0.3, 0.2, 0.1, 0.05)[level] + mean


def pixelate(x: RGB, level: int, rng: np.random.Generator) -> RGB:
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[level]
    height, width = x.shape[:2]
    picture = PILImage.fromarray(np.round(x * 255).astype(np.uint8))
    small = picture.resize((int(width * share), int(height * share)), PILImage.Resampling.BOX)
    return np.asarray(small.resize((width, height), PILImage.Resampling.NEAREST)) / 255


def jpeg(x: RGB, level: int, rng: np.random.Generator) -> RGB:
    file = io.BytesIO()
    PILImage.fromarray(np.round(x * 255).astype(np.uint8)).save(file, "JPEG", quality=(25, 18, 15, 10, 7)[level])
    return np.asarray(PILImage.open(file)) / 255


def saturate(x: RGB, level: int, rng: np.random.Generator) -> RGB:
    """Less colour at severity 1 and 2, more from 3 on, as published."""
    factor, added = ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))[level]
    hsv = _hsv(x)
    hsv[..., 1] = np.clip(hsv[..., 1] * factor + added, 0, 1)
    return _rgb(hsv)


_HOW: dict[str, Callable[[Any, int, np.random.Generator], Any]] = {kind: globals()[kind] for kind in KINDS}


# ---- what they are made of -------------------------------------------------------------------------------------------


def _smooth(x: Float[np.ndarray, "h w c"], sigma: float) -> Float[np.ndarray, "h w c"]:
    return ndimage.gaussian_filter(x, (sigma, sigma, 0), mode="nearest")


def _convolve(x: Float[np.ndarray, "h w c"], kernel: Float[np.ndarray, "k k"]) -> Float[np.ndarray, "h w c"]:
    from scipy.signal import oaconvolve

    reach = len(kernel) // 2
    padded = np.pad(x, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    return oaconvolve(padded, kernel[..., None], mode="valid", axes=(0, 1))


def _along(x: Float[np.ndarray, "h w c"], radius: int, sigma: float, degrees: float) -> Float[np.ndarray, "h w c"]:
    """Smeared to one side along a direction, with the weights of half a Gaussian."""
    weights = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
    reach = 2 * radius
    padded = np.pad(x, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    height, width = x.shape[:2]
    total = np.zeros_like(x)
    for i, weight in enumerate(weights / weights.sum()):
        dy, dx = round(i * math.sin(math.radians(degrees))), round(i * math.cos(math.radians(degrees)))
        total += weight * padded[reach + dy : reach + dy + height, reach + dx : reach + dx + width]
    return total


def _enlarged(x: Float[np.ndarray, "h w c"], factor: float) -> Float[np.ndarray, "h w c"]:
    """The middle of the image, enlarged to its size."""
    height, width = x.shape[:2]
    h, w = math.ceil(height / factor), math.ceil(width / factor)
    top, left = (height - h) // 2, (width - w) // 2
    return resize(x[top : top + h, left : left + w].astype(np.float32), (height, width), "bilinear").astype(np.float64)


def _cloud(side: int, decay: float, rng: np.random.Generator) -> Float[np.ndarray, "p p"]:
    """A plasma of midpoint displacement, in [0, 1]: ``p`` is the next power of two, and its edges fit each other."""
    p = 1 << max(1, side - 1).bit_length()
    cloud = np.zeros((p, p))
    step, roughness = p, 100.0
    while step > 1:
        half = step // 2
        corners = cloud[::step, ::step]
        around = corners + np.roll(corners, -1, 0)
        middle = (around + np.roll(around, -1, 1)) / 4
        cloud[half::step, half::step] = middle + roughness * rng.uniform(-1, 1, middle.shape)
        middle = cloud[half::step, half::step]
        above = (middle + np.roll(middle, 1, 0) + corners + np.roll(corners, -1, 1)) / 4
        beside = (middle + np.roll(middle, 1, 1) + corners + np.roll(corners, -1, 0)) / 4
        cloud[::step, half::step] = above + roughness * rng.uniform(-1, 1, above.shape)
        cloud[half::step, ::step] = beside + roughness * rng.uniform(-1, 1, beside.shape)
        step, roughness = half, roughness / decay
    cloud -= cloud.min()
    return cloud / cloud.max()


def _ice(height: int, width: int, rng: np.random.Generator) -> RGB:
    """Needles of ice that grow in from the border: ridges of noise at several scales, pale blue."""
    ice = np.zeros((height, width))
    for scale, weight in ((24, 0.5), (10, 0.3), (4, 0.2)):
        field = ndimage.gaussian_filter(rng.normal(size=(height, width)), (scale / 4, scale), mode="wrap")
        other = ndimage.gaussian_filter(rng.normal(size=(height, width)), (scale, scale / 4), mode="wrap")
        ridges = [np.exp(-np.abs(one) / (0.35 * one.std())) for one in (field, other)]
        ice += weight * np.maximum(*ridges)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    border = np.clip(0.35 + 0.65 * np.maximum(np.abs(x), np.abs(y)) ** 2, 0, 1)
    return np.clip(0.25 + ice, 0, 1)[..., None] * border[..., None] * np.array([0.86, 0.93, 1.0])


def _relief(wet: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """How drops catch the light: bright on the upper left of their rims."""
    rim = (wet > 0) ^ ndimage.binary_erosion(wet > 0)
    depth = np.minimum(ndimage.distance_transform_edt(~rim), 20)
    depth = ndimage.uniform_filter(depth, 3)
    ranks = np.searchsorted(np.sort(depth.ravel()), depth) / depth.size
    lit = ndimage.convolve(ranks, np.array([[-2.0, -1, 0], [-1, 1, 1], [0, 1, 2]]), mode="nearest")
    return ndimage.uniform_filter(np.clip(lit, 0, 1), 3)


def _grey(x: RGB) -> Float[np.ndarray, "h w"]:
    return x @ np.array([0.299, 0.587, 0.114])


def _hsv(x: RGB) -> RGB:
    return _colour("rgb2hsv", x)


def _rgb(hsv: RGB) -> RGB:
    return _colour("hsv2rgb", hsv)


def _colour(name: str, x: RGB) -> RGB:
    try:
        from skimage import color
    except ImportError as error:
        raise MissingExtraError("this corruption", "scikit-image", "imaging") from error
    return getattr(color, name)(x)
