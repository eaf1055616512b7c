"""Numbers that say what a picture is like, whatever is on it: by them one tells whether an image is of a known kind."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image as PILImage

from zoo.media.image import Image, per_image

SIDE = 32  # px: statistics are of the picture at this size, so that resolution hardly matters
TEXTURE_SIDE = 48
BAND_SIDE, FINE_SIDE, LEVELS = 64, 128, 4
BANDS, GREY_BANDS = 107, 83  # numbers that ``bands`` gives; those beyond the first 83 tell nothing of a grey picture
COLOURS = 9

# What is measured, what a person calls it, and the size of a difference that one would see.
MEASURES: tuple[tuple[str, str, float], ...] = (
    ("luminance", "brightness", 0.1),
    ("dark end", "brightness", 0.1),
    ("bright end", "brightness", 0.1),
    ("black share", "black and white areas", 0.1),
    ("white share", "black and white areas", 0.1),
    ("contrast", "contrast", 0.3),
    ("red to green", "colour", 0.1),
    ("blue to green", "colour", 0.1),
    ("spread of red against green", "colour", 0.02),
    ("spread of blue against yellow", "colour", 0.02),
    ("saturation", "colour", 0.1),
    ("border", "border and ground", 0.1),
    ("corners", "border and ground", 0.1),
    ("spread of the border", "border and ground", 0.1),
    ("centre", "border and ground", 0.1),
    ("coarse structure", "texture", 0.3),
    ("middling structure", "texture", 0.3),
    ("fine structure", "texture", 0.3),
    ("sharpness", "sharpness", 0.3),
    ("edges", "sharpness", 0.3),
    ("direction", "texture", 0.3),
    ("left and right alike", "shape", 0.2),
    ("top and bottom alike", "shape", 0.2),
)


def statistics(image: Image) -> Float[np.ndarray, " p"]:
    """The ``MEASURES`` of a 2-D image, each in units of a difference that one would see."""
    rgb = _small(image, SIDE)
    grey = rgb.mean(-1)
    red, blue = rgb[..., 0] - rgb[..., 1], rgb[..., 2] - rgb[..., :2].mean(-1)
    edge = SIDE // 16
    inner = np.zeros((SIDE, SIDE), bool)
    inner[edge:-edge, edge:-edge] = True
    border, corner = grey[~inner], np.concatenate([grey[y, x] for y in _ENDS for x in _ENDS], None)
    middle = grey[SIDE // 4 : -SIDE // 4, SIDE // 4 : -SIDE // 4]
    power = np.abs(np.fft.fft2((grey - grey.mean()) * _WINDOW)) ** 2 / SIDE**2
    rings = [float(power[(low <= _RADIUS) & (high > _RADIUS)].mean()) for low, high in ((1, 3), (3, 6), (6, 11))]
    dy, dx = np.abs(np.diff(grey, axis=0)), np.abs(np.diff(grey, axis=1))
    low, high = np.percentile(grey, (5, 95))
    values = [
        grey.mean(), low, high, math.sqrt((grey < 0.04).mean()), math.sqrt((grey > 0.96).mean()), _log(grey.std()),
        *(_log(rgb[..., c].mean()) - _log(rgb[..., 1].mean()) for c in (0, 2)),
        red.std(), blue.std(), (rgb.max(-1) - rgb.min(-1)).mean(),
        border.mean(), corner.mean(), border.std(), middle.mean() - border.mean(),
        *(_log(math.sqrt(ring)) for ring in rings),
        _log(dx.mean() + dy.mean()), _log(np.percentile(dx, 99) + np.percentile(dy, 99)),
        _log(dx.mean()) - _log(dy.mean()), _alike(grey, grey[:, ::-1]), _alike(grey, grey[::-1]),
    ]  # fmt: skip
    return np.array(values, np.float64) / np.array([unit for _, _, unit in MEASURES])


def colours(image: Image) -> Float[np.ndarray, " c"]:
    """Orders of magnitude and shares of colour on a 2-D image, each in units of a difference that one would see.

    ``statistics`` has amounts, in which no colour at all is like little colour.
    """
    rgb = _small(image, SIDE)
    red, blue = rgb[..., 0] - rgb[..., 1], rgb[..., 2] - rgb[..., :2].mean(-1)
    saturation, grey = rgb.max(-1) - rgb.min(-1), rgb.mean(-1)
    amounts = (red.std(), blue.std(), saturation.mean(), saturation.std(), saturation.max())
    orders = [math.log(float(amount) + 0.02) for amount in amounts]
    others = [(red > 0.01).mean(), (blue < -0.01).mean(), _slope(red, grey), _slope(blue, grey)]
    return np.array([*orders, *(5 * other for other in others)], np.float64)


def _slope(of: np.ndarray, on: np.ndarray) -> float:
    """By how much one rises where the other does, within -1 and 1."""
    rise = ((of - of.mean()) * (on - on.mean())).mean() / (on.var() + 1e-3)
    return float(np.clip(rise, -1, 1))


_ENDS = (slice(None, SIDE // 8), slice(-SIDE // 8, None))
_HANN = np.hanning(SIDE + 2)[1:-1]
_WINDOW = np.outer(_HANN, _HANN)
_RADIUS = np.hypot(*np.meshgrid(*[np.fft.fftfreq(SIDE, 1 / SIDE)] * 2))


def _log(value: Any) -> float:
    return math.log(float(value) + 0.003)  # about a level of 8 bits


def _alike(a: np.ndarray, b: np.ndarray) -> float:
    return float(((a - a.mean()) * (b - b.mean())).mean() / (a.var() + 1e-4))


def textures(image: Image) -> Float[np.ndarray, " f"]:
    """Mean and spread of what 24 and, on top of them, 32 random 3x3 filters make of a 2-D image.

    Random filters tell textures apart nearly as trained ones do: K. Jarrett et al., What is the Best Multi-Stage
    Architecture for Object Recognition?, ICCV 2009, Sec. 5.
    """
    x = _small(image, TEXTURE_SIDE) - np.float32(0.5)
    found = []
    for filters in _FILTERS:
        windows = sliding_window_view(x, (3, 3), axis=(0, 1))
        x = np.maximum(windows.reshape(*windows.shape[:2], -1) @ filters, 0)
        found += [x.mean((0, 1)), x.std((0, 1))]
        side = len(x) // 2 * 2
        x = x[:side, :side].reshape(side // 2, 2, side // 2, 2, -1).max((1, 3))
    return np.concatenate(found).astype(np.float64)


_RNG = np.random.default_rng(1)
_FILTERS = [_RNG.normal(0, 1 / math.sqrt(9 * n), (9 * n, m)).astype(np.float32) for n, m in ((3, 24), (24, 32))]


def fine_bands(image: Image) -> Float[np.ndarray, " b"]:
    """The ``GREY_BANDS`` at twice the resolution, which smaller images are enlarged to."""
    return np.array(_grey_bands(_small(image, FINE_SIDE)), np.float64)


def bands(image: Image) -> Float[np.ndarray, " b"]:
    """How a 2-D image's details are distributed, by scale and direction: first ``GREY_BANDS`` of grey, then of colour.

    Of the Haar details at each scale their spread, how peaked and how lopsided they are, and how their sizes go with
    each other, with the level, with their neighbours and with the next finer scale. By these one tells pictures of
    different making: J. Portilla and E. P. Simoncelli, A Parametric Texture Model Based on Joint Statistics of Complex
    Wavelet Coefficients, IJCV 2000, Sec. 3.
    """
    rgb = _small(image, BAND_SIDE)
    found = _grey_bands(rgb)
    for level in (rgb[..., 0] - rgb[..., 1], rgb[..., 2] - rgb[..., :2].mean(-1)):
        for _ in range(LEVELS - 1):
            level, details = _details(level)
            found += [*(_log(one.std()) for one in details), 3 * _peaked(details[0])]
    return np.array(found, np.float64)


def _grey_bands(rgb: Float[np.ndarray, "s s 3"]) -> list[float]:
    found: list[float] = []
    level, finer = rgb.mean(-1), None
    for _ in range(LEVELS):
        level, (dx, dy, dd) = _details(level)
        sizes = np.sqrt(dx**2 + dy**2 + dd**2)
        for one in (dx, dy, dd):
            found += [_log(one.std()), 3 * _peaked(one)]
        pairs = [
            (abs(dx), abs(dy)), (abs(dx), abs(dd)), (sizes, level), (dx[:, 1:], dx[:, :-1]), (dy[1:], dy[:-1]),
            (dx[1:], dx[:-1]), (dy[:, 1:], dy[:, :-1]), (sizes[1:], sizes[:-1]), (sizes[:, 1:], sizes[:, :-1]),
        ]  # fmt: skip
        if finer is not None:
            pairs.append((_details(finer)[0], sizes))
        found += [_lopsided(dx), _lopsided(dy), *(2 * _together(a, b) for a, b in pairs)]
        found += [_log(share) for share in np.percentile(sizes, (10, 50, 99))]
        finer = sizes
    return found


def _details(x: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The picture at half its size, and its details across, down and aslant."""
    a, b, c, d = x[::2, ::2], x[::2, 1::2], x[1::2, ::2], x[1::2, 1::2]
    return (a + b + c + d) / 4, ((b - a + d - c) / 2, (c - a + d - b) / 2, (a + d - b - c) / 2)


def _peaked(details: np.ndarray) -> float:
    away = details - details.mean()
    return math.log((float(np.abs(away).mean()) + 0.001) / (float(away.std()) + 0.001))


def _lopsided(details: np.ndarray) -> float:
    return float(np.clip((((details - details.mean()) / (details.std() + 0.003)) ** 3).mean(), -5, 5))


def _together(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).mean() / math.sqrt(float((a * a).mean() * (b * b).mean()) + 1e-10))


def _small(image: Image, side: int) -> Float[np.ndarray, "s s 3"]:
    """The picture as a small square, in [0, 1]."""
    how = PILImage.Resampling.BICUBIC if side == FINE_SIDE > min(image.size) else PILImage.Resampling.BOX
    return np.asarray(_thinned(image).resize((side, side), how), np.float32) / 255


@per_image
def _thinned(image: Image) -> PILImage.Image:
    step = max(1, min(image.size) // (8 * SIDE))
    rgb = replace(image, array=image.array[::step, ::step]).rgb()
    return PILImage.fromarray(np.round(255 * rgb).astype(np.uint8))
