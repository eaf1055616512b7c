"""Palette, text, and how panels and tiles are laid out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

RGB = tuple[int, int, int]
PANEL_SIDE = 512  # pixels of a panel's longer side
INK, GREY, FAINT = (0, 0, 0), (90, 90, 90), (215, 215, 215)
_GAP, _TEXT = 16, 18

# Okabe and Ito's, made to be told apart by colour-blind readers
OKABE_ITO: tuple[RGB, ...] = (
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
    colour: RGB


@dataclass(frozen=True)
class Tile:
    """A small picture with lines of text below it, the first in black; ``frame`` is the colour around it."""

    picture: Image.Image | np.ndarray
    lines: Sequence[str] = ()
    frame: RGB | None = None
    bold: bool = False


def colour(label: int) -> RGB:
    """Colour of a label; 0 is the background, labels past the palette repeat it."""
    return OKABE_ITO[0] if label == 0 else OKABE_ITO[1 + (label - 1) % 7]


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def fit(text: str, width: float, size: int = 16) -> str:
    """The text, cut with an ellipsis where it is wider than ``width``."""
    if font(size).getlength(text) <= width:
        return text
    while text and font(size).getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def wrap(text: str, width: float, size: int = 16, lines: int = 2) -> list[str]:
    """The text on at most ``lines`` lines, broken at spaces; only what is still too long is cut."""
    done: list[str] = []
    line = ""
    words = text.split(" ")
    for place, word in enumerate(words):
        longer = f"{line} {word}" if line else word
        if not line or font(size).getlength(longer) <= width:
            line = longer
        elif len(done) == lines - 1:
            return [*done, fit(" ".join([line, *words[place:]]), width, size)]
        else:
            done.append(fit(line, width, size))
            line = word
    return [*done, fit(line, width, size)]


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


def compose(panels: Sequence[Panel], *, legend: Sequence[LegendEntry] = (), title: str, footer: str) -> Image.Image:
    """Panels side by side under a title, legend and footer below."""
    return rows([("", panels)], legend=legend, title=title, footer=footer, side=PANEL_SIDE)


def rows(
    parts: Sequence[tuple[str, Sequence[Panel]]],
    *,
    legend: Sequence[LegendEntry] = (),
    title: str,
    footer: str,
    side: int = 288,
) -> Image.Image:
    """Rows of panels, each under its heading; ``side`` is the longer side of a panel."""
    pictures = [[to_picture(panel.picture, side) for panel in panels] for _, panels in parts]
    width = max(sum(picture.width + _GAP for picture in row) for row in pictures) + _GAP
    inner = width - 2 * _GAP
    size = 16 if side >= PANEL_SIDE else 14
    headline, notes = wrap(title, inner, 20), wrap(footer, inner, 14)
    captions = [
        [wrap(panel.title, picture.width, size) for panel, picture in zip(panels, row, strict=True)]
        for (_, panels), row in zip(parts, pictures, strict=True)
    ]
    entries = _legend_rows(legend, width)
    headings = [wrap(name, inner, 16) if name else [] for name, _ in parts]
    heading = [(_TEXT + 4) * len(lines) + 4 if lines else 0 for lines in headings]
    above = [top + (size + 5) * max(map(len, names)) + 4 for top, names in zip(heading, captions, strict=True)]
    bodies = [max(picture.height for picture in row) + _GAP for row in pictures]
    height = 2 * _GAP + 6 + 26 * len(headline) + sum(above) + sum(bodies) + 28 * len(entries) + 20 * len(notes)
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    y = _lines(draw, headline, _GAP, _GAP, 20, 26, INK) + 6
    for k, (_, panels) in enumerate(parts):
        _lines(draw, headings[k], _GAP, y, 16, _TEXT + 4, INK)
        left, top = _GAP, y + above[k]
        for panel, picture, lines in zip(panels, pictures[k], captions[k], strict=True):
            _lines(draw, lines, left, top - 4 - (size + 5) * len(lines), size, size + 5, (70, 70, 70))
            image.paste(picture, (left, top))
            if panel.spacing:
                _scale_bar(draw, left, top, picture, panel.spacing * (panel.pixels or picture.width) / picture.width)
            left += picture.width + _GAP
        y += above[k] + bodies[k]
    y -= _GAP // 2
    for row in entries:
        x = _GAP
        for entry in row:
            draw.rectangle((x, y + 2, x + 16, y + 18), fill=entry.colour, outline=INK)
            draw.text((x + 24, y), entry.name, fill=INK, font=font(16))
            x += 48 + int(font(16).getlength(entry.name))
        y += 28
    _lines(draw, notes, _GAP, y, 14, 20, GREY)
    return image


def _lines(draw: ImageDraw.ImageDraw, lines: Sequence[str], x: int, y: int, size: int, step: int, ink: RGB) -> int:
    for line in lines:
        draw.text((x, y), line, fill=ink, font=font(size))
        y += step
    return y


def _legend_rows(legend: Sequence[LegendEntry], width: int) -> list[list[LegendEntry]]:
    lines: list[list[LegendEntry]] = []
    used = width
    for entry in legend:
        length = 48 + int(font(16).getlength(entry.name))
        if used + length > width - 2 * _GAP:
            lines.append([])
            used = 0
        lines[-1].append(entry)
        used += length
    return lines


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


def tiles(some: Sequence[Tile], side: int = PANEL_SIDE, columns: int | None = None) -> Image.Image:
    """Small pictures in rows with their text below: a contact sheet, the same under several conditions, slices."""
    columns = columns or max(2, math.ceil(math.sqrt(len(some))))
    cell = side // columns
    size = 15 if cell >= side / 3 else 13 if cell >= side / 4 else 11
    text = (size + 3) * max(len(tile.lines) for tile in some) + 6
    edge = max(4, cell // 22)
    room = (cell - 8, cell - text)
    pictures = []
    for tile in some:
        picture = to_picture(tile.picture)
        inner = [n - (2 * edge if tile.frame else 0) for n in room]
        scale = min(inner[0] / picture.width, inner[1] / picture.height)
        shape = (max(1, int(picture.width * scale)), max(1, int(picture.height * scale)))
        pictures.append(picture.resize(shape, Image.Resampling.LANCZOS))
    height = max(picture.height + (2 * edge if tile.frame else 0) for tile, picture in zip(some, pictures, strict=True))
    image = Image.new("RGB", (side, math.ceil(len(some) / columns) * (height + text)), "white")
    draw = ImageDraw.Draw(image)
    for place, (tile, picture) in enumerate(zip(some, pictures, strict=True)):
        middle, top = place % columns * cell + cell // 2, place // columns * (height + text)
        x, y = middle - picture.width // 2, top + (height - picture.height) // 2
        if tile.frame:
            box = (x - edge, y - edge, x + picture.width + edge - 1, y + picture.height + edge - 1)
            draw.rectangle(box, fill=tile.frame, outline=GREY)
        image.paste(picture, (x, y))
        for k, line in enumerate(tile.lines):
            draw.text((middle, top + height + 2 + k * (size + 3)), fit(line, cell - 4, size), fill=GREY if k else INK,
                      font=font(size), anchor="ma", stroke_width=0.3 if tile.bold and not k else 0)  # fmt: skip
    return image


def slices(volume: Float[np.ndarray, "z h w"], count: int = 9, aspect: float | None = None) -> Image.Image:
    """Evenly spaced slices of a volume in [0, 1], each with its number; ``aspect`` is width over height of a slice."""
    places = np.unique(np.linspace(0, len(volume) - 1, count).round().astype(int))
    return tiles([Tile(to_picture(volume[z], aspect=aspect), [f"slice {z}"]) for z in places])
