"""What is painted over a picture, or made a picture of: masks, outlines, heat, boxes, points."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Integer, UInt8
from PIL import Image, ImageDraw

from zoo.figure.layout import PANEL_SIDE, RGB, colour, fit, font, to_picture

_STOPS = np.array([[0, 0, 40], [0, 114, 178], [0, 158, 115], [240, 228, 66]])
_STEPS = np.linspace(0, len(_STOPS) - 1, 1024)
_HEAT = np.stack([np.interp(_STEPS, range(len(_STOPS)), channel) for channel in _STOPS.T], 1).round().astype(np.uint8)


def overlay(picture: Image.Image | np.ndarray, mask: Integer[np.ndarray, "h w"], opacity: float = 0.75) -> Image.Image:
    """Paint each label over the picture, with a thin dark outline around it, for greyscale."""
    base = to_picture(picture)
    # Nearest neighbour would drop one-pixel structures when shrinking: take the largest label of each cell instead.
    labels = _resize_labels(mask, base.size)
    pixels = np.asarray(base, dtype=np.float32)
    out = pixels.copy()
    inside = labels > 0
    for label in np.unique(labels[inside]):
        where = labels == label
        out[where] = (1 - opacity) * pixels[where] + opacity * np.asarray(colour(int(label)), np.float32)
    out[grown(inside) & ~inside] *= 0.55
    return Image.fromarray(out.round().astype(np.uint8))


def contour(picture: Image.Image | np.ndarray, mask: Integer[np.ndarray, "h w"], ink: RGB | None = None) -> Image.Image:
    """The outline of each label with a dark rim; ``ink`` in place of the labels' own colours, as for a reference."""
    base = to_picture(picture)
    labels = _resize_labels(mask, base.size)
    out = np.asarray(base).copy()
    for label in np.unique(labels[labels > 0]):
        inside = labels == label
        line = inside & grown(grown(~inside))
        out[grown(line) & ~line] = 0
        out[line] = ink or colour(int(label))
    return Image.fromarray(out)


def grown(inside: np.ndarray) -> np.ndarray:
    """The region and its four neighbours; nothing comes in over the edge of the picture."""
    out = inside.copy()
    out[1:] |= inside[:-1]
    out[:-1] |= inside[1:]
    out[:, 1:] |= inside[:, :-1]
    out[:, :-1] |= inside[:, 1:]
    return out


def _resize_labels(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    width, height = size
    if mask.shape[0] > height and mask.shape[1] > width:
        rows = np.linspace(0, mask.shape[0], height + 1).astype(int)[:-1]
        columns = np.linspace(0, mask.shape[1], width + 1).astype(int)[:-1]
        return np.maximum.reduceat(np.maximum.reduceat(mask, rows, axis=0), columns, axis=1)
    return np.asarray(Image.fromarray(mask.astype(np.int32)).resize(size, Image.Resampling.NEAREST))


def heatmap(values: Float[np.ndarray, "h w"]) -> Image.Image:
    """Values in [0, 1] as a picture, dark blue through green to yellow, monotone in brightness."""
    position = np.clip(np.nan_to_num(values.astype(np.float32)), 0, 1) * (len(_HEAT) - 1)
    return Image.fromarray(_HEAT[position.round().astype(np.uint16)])


def heat_over(
    picture: Image.Image | np.ndarray, values: Float[np.ndarray, "h w"], opacity: tuple[float, float] = (0.25, 0.55)
) -> Image.Image:
    """Coarse values in [0, 1] laid smoothly over the picture; ``opacity`` where they are 0 and where they are 1."""
    base = to_picture(picture)
    coarse = Image.fromarray(values.astype(np.float32))
    share = np.clip(np.asarray(coarse.resize(base.size, Image.Resampling.BILINEAR)), 0, 1)
    weight = (opacity[0] + (opacity[1] - opacity[0]) * share)[..., None]
    mixed = np.asarray(base, np.float32) * (1 - weight) + np.asarray(heatmap(share), np.float32) * weight
    return Image.fromarray(mixed.round().astype(np.uint8))


def framed(picture: Image.Image, box: Sequence[float], ink: RGB = (255, 255, 255), name: str = "") -> Image.Image:
    """A frame around ``box`` (left, top, right, bottom in shares of the sides), black outside and ``ink`` inside."""
    picture = picture.copy()
    draw = ImageDraw.Draw(picture)
    left, top, right, bottom = (round(v * s) for v, s in zip(box, picture.size * 2, strict=True))
    draw.rectangle((left, top, max(right - 1, left + 1), max(bottom - 1, top + 1)), outline="black", width=7)
    if right - left > 6 and bottom - top > 6:
        draw.rectangle((left + 2, top + 2, right - 3, bottom - 3), outline=ink, width=3)
    if name:
        draw.text((left + 9, top + 7), name, fill=ink, font=font(18), stroke_width=2, stroke_fill="black")
    return picture


def absent(name: str, side: int = PANEL_SIDE) -> Image.Image:
    """A card in place of a picture that isn't stored."""
    card = Image.new("RGB", (side, side), (225, 225, 225))
    text = fit(name, side - 20, 26)
    ImageDraw.Draw(card).text((side // 2, side // 2), text, fill=(60, 60, 60), font=font(26), anchor="mm")
    return card


def point_overlay(
    sets: Sequence[tuple[Float[np.ndarray, "_ 2"], RGB]], box: Sequence[float] | None = None, side: int = PANEL_SIDE
) -> UInt8[np.ndarray, "h w 3"]:
    """Sets of points (x right, y down) over each other; where two fall on one pixel their colours mix to grey.

    ``box``: left, top, right and bottom in the units of the points; without it all of them and a margin.
    """
    if box is None:
        every = np.concatenate([points for points, _ in sets])
        low, high = every.min(0), every.max(0)
        margin = 0.03 * float((high - low).max())
        box = (*(low - margin), *(high + margin))
    left, top, right, bottom = map(float, box)
    scale = side / max(right - left, bottom - top, 1e-9)
    shape = (max(1, round((bottom - top) * scale)), max(1, round((right - left) * scale)))
    most = max(1, *(len(points) for points, _ in sets))
    spot = int(np.clip(round(0.35 * scale * math.sqrt((right - left) * (bottom - top) / most)), 1, 4))
    out = np.full((*shape, 3), 255.0)
    for points, ink in sets:
        where = np.zeros(shape, bool)
        columns = np.floor((points[:, 0] - left) * scale).astype(int)
        rows = np.floor((points[:, 1] - top) * scale).astype(int)
        for dy, dx in np.ndindex(spot, spot):
            r, c = rows + dy, columns + dx
            inside = (r >= 0) & (r < shape[0]) & (c >= 0) & (c < shape[1])
            where[r[inside], c[inside]] = True
        other = where & (out.min(-1) < 255)
        out[where & ~other] = ink
        out[other] = 0.5 * (out[other] + np.array(ink))
    return out.round().astype(np.uint8)
