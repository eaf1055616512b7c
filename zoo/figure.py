"""How pictures look: one palette, one layout, drawn with Pillow alone.

The palette is Okabe and Ito's, made to be told apart by colour-blind readers; overlays also carry a dark outline so
that they read in greyscale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from jaxtyping import Float, Integer

PANEL_SIDE = 512  # pixels of a panel's longer side
_GAP, _TEXT = 16, 18

_OKABE_ITO = (
    (0, 0, 0),
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)


@dataclass(frozen=True)
class Panel:
    """One picture with its title; ``spacing`` (mm per pixel of the original) draws a scale bar."""

    title: str
    picture: Image.Image | np.ndarray  # uint8 [h w] or [h w 3], or float in [0, 1]
    spacing: float | None = None
    pixels: int | None = None  # width of the original, when the picture was scaled


@dataclass(frozen=True)
class LegendEntry:
    name: str
    colour: tuple[int, int, int]


def colour(label: int) -> tuple[int, int, int]:
    """Colour of a label; 0 is the background, labels past the palette repeat it."""
    return _OKABE_ITO[0] if label == 0 else _OKABE_ITO[1 + (label - 1) % 7]


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def to_picture(array: Image.Image | np.ndarray, side: int = PANEL_SIDE, aspect: float | None = None) -> Image.Image:
    """An RGB picture whose longer side is ``side``; ``aspect`` is width over height where pixels are not square."""
    if isinstance(array, Image.Image):
        picture = array.convert("RGB")
    else:
        values = np.asarray(array)
        if values.dtype != np.uint8:
            values = (np.clip(values.astype(np.float32), 0, 1) * 255).round().astype(np.uint8)
        picture = Image.fromarray(values).convert("RGB")
    width, height = (picture.width, picture.height) if aspect is None else (aspect, 1.0)
    scale = side / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return picture if size == picture.size else picture.resize(size, Image.Resampling.BICUBIC)


def overlay(picture: Image.Image | np.ndarray, mask: Integer[np.ndarray, "h w"], opacity: float = 0.75) -> Image.Image:
    """Paint each label over the picture, with a thin dark outline around it."""
    base = to_picture(picture)
    # Nearest neighbour would drop one-pixel structures when shrinking: take the largest label of each cell instead.
    labels = _resize_labels(mask, base.size)
    pixels = np.asarray(base, dtype=np.float32)
    out = pixels.copy()
    inside = labels > 0
    for label in np.unique(labels[inside]):
        where = labels == label
        out[where] = (1 - opacity) * pixels[where] + opacity * np.asarray(colour(int(label)), np.float32)
    rim = np.zeros_like(inside)
    for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
        rim |= np.roll(inside, step, axis)
    rim &= ~inside
    out[rim] *= 0.55
    return Image.fromarray(out.round().astype(np.uint8))


def _resize_labels(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    width, height = size
    if mask.shape[0] > height and mask.shape[1] > width:
        rows = np.linspace(0, mask.shape[0], height + 1).astype(int)[:-1]
        columns = np.linspace(0, mask.shape[1], width + 1).astype(int)[:-1]
        return np.maximum.reduceat(np.maximum.reduceat(mask, rows, axis=0), columns, axis=1)
    return np.asarray(Image.fromarray(mask.astype(np.int32)).resize(size, Image.Resampling.NEAREST))


def heatmap(values: Float[np.ndarray, "h w"]) -> Image.Image:
    """Values in [0, 1] as a picture, dark blue through green to yellow, monotone in brightness."""
    stops = np.array([[0, 0, 40], [0, 114, 178], [0, 158, 115], [240, 228, 66]], np.float32)
    position = np.clip(np.nan_to_num(values.astype(np.float32)), 0, 1) * (len(stops) - 1)
    low = np.minimum(position.astype(int), len(stops) - 2)
    share = (position - low)[..., None]
    return Image.fromarray(((1 - share) * stops[low] + share * stops[low + 1]).round().astype(np.uint8))


def bars(probabilities: dict[str, float], side: int = PANEL_SIDE) -> Image.Image:
    """A horizontal bar for each class, most probable first, with its probability."""
    ranked = sorted(probabilities.items(), key=lambda item: -item[1])[:12]
    image = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(image)
    height = min(56, side // max(len(ranked), 1))
    for row, (name, probability) in enumerate(ranked):
        top = row * height + 4
        draw.text((8, top), _fit(draw, name, side - 110), fill="black", font=font(16))
        draw.text((side - 8, top), f"{probability:.1%}", fill="black", font=font(16), anchor="ra")
        draw.rectangle((8, top + 22, side - 8, top + 22 + height // 4), outline=(190, 190, 190))
        if probability > 0:
            draw.rectangle((8, top + 22, 8 + max(1, (side - 16) * probability), top + 22 + height // 4), fill=colour(5))
    return image


def compose(panels: Sequence[Panel], *, legend: Sequence[LegendEntry] = (), title: str, footer: str) -> Image.Image:
    """Panels side by side under a title, legend and footer below."""
    pictures = [to_picture(panel.picture) for panel in panels]
    body = max(picture.height for picture in pictures)
    width = sum(picture.width for picture in pictures) + _GAP * (len(pictures) + 1)
    top = 2 * _GAP + 2 * _TEXT + 8
    rows = _legend_rows(legend, width)
    image = Image.new("RGB", (width, top + body + _GAP + len(rows) * (_TEXT + 10) + _TEXT + _GAP), "white")
    draw = ImageDraw.Draw(image)
    draw.text((_GAP, _GAP), _fit(draw, title, width - 2 * _GAP, 20), fill="black", font=font(20))
    left = _GAP
    for panel, picture in zip(panels, pictures, strict=True):
        caption = _fit(draw, panel.title, picture.width)
        draw.text((left, top - _TEXT - 6), caption, fill=(70, 70, 70), font=font(16))
        image.paste(picture, (left, top))
        if panel.spacing:
            _scale_bar(draw, left, top, picture, panel.spacing * (panel.pixels or picture.width) / picture.width)
        left += picture.width + _GAP
    y = top + body + _GAP // 2
    for row in rows:
        x = _GAP
        for entry in row:
            draw.rectangle((x, y + 2, x + 16, y + 18), fill=entry.colour, outline="black")
            draw.text((x + 24, y), entry.name, fill="black", font=font(16))
            x += 24 + int(draw.textlength(entry.name, font=font(16))) + 24
        y += _TEXT + 10
    draw.text((_GAP, y), _fit(draw, footer, width - 2 * _GAP, 14), fill=(90, 90, 90), font=font(14))
    return image


def _legend_rows(legend: Sequence[LegendEntry], width: int) -> list[list[LegendEntry]]:
    rows: list[list[LegendEntry]] = []
    used = width
    for entry in legend:
        length = 48 + int(font(16).getlength(entry.name))
        if used + length > width - 2 * _GAP:
            rows.append([])
            used = 0
        rows[-1].append(entry)
        used += length
    return rows


def _scale_bar(draw: ImageDraw.ImageDraw, left: int, top: int, picture: Image.Image, mm_per_pixel: float) -> None:
    target = picture.width * mm_per_pixel / 4
    length = max((step for step in (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 20, 50, 100) if step <= target), default=target)
    x, y = left + 12, top + picture.height - 16
    end = x + length / mm_per_pixel
    draw.line((x, y, end, y), fill="black", width=7)
    draw.line((x, y, end, y), fill="white", width=3)
    draw.text(
        (x, y - 6), f"{length:g} mm", fill="white", font=font(14), anchor="ls", stroke_width=2, stroke_fill="black"
    )


def _fit(draw: ImageDraw.ImageDraw, text: str, width: float, size: int = 16) -> str:
    if draw.textlength(text, font=font(size)) <= width:
        return text
    while text and draw.textlength(text + "…", font=font(size)) > width:
        text = text[:-1]
    return text + "…"
