"""Values with their intervals, and text, as pictures for the panels of a prediction; Pillow alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from zoo.figure.charts import ticks
from zoo.figure.layout import FAINT, GREY, INK, PANEL_SIDE, colour, fit, font


@dataclass(frozen=True)
class Span:
    """A value in its unit, the interval it may lie in, and what is normal; both from low to high."""

    value: float
    unit: str = ""
    interval: tuple[float, float] | None = None
    normal: tuple[float, float] | None = None


def spans(values: Mapping[str, Span], *, side: int = PANEL_SIDE) -> Image.Image:
    """A row for each value: its name and number, and below an axis of its own with its interval and what is normal."""
    image = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(image)
    most = max(1, side // 110)
    shown = list(values.items())[:most]
    for row, (name, span) in enumerate(shown):
        _row(draw, name, span, top=8 + row * (side - 16) / max(len(shown), 3), side=side)
    if len(values) > most:
        draw.text((16, side - 20), f"and {len(values) - most} more", fill=GREY, font=font(14))
    return image


def _row(draw: ImageDraw.ImageDraw, name: str, span: Span, top: float, side: int) -> None:
    pairs = [pair for pair in (span.interval, span.normal) if pair is not None]
    every = [span.value, *(v for pair in pairs for v in pair)]
    low, high = min(every), max(every)
    margin = max(0.15 * (high - low), 0.01 * max(abs(low), abs(high)), 1e-6)
    marks = ticks(low - margin, high + margin, most=4)
    left, right = 28, side - 28

    def at(number: float) -> float:
        return left + (right - left) * (number - marks[0]) / (marks[-1] - marks[0])

    number = f"{span.value:.4g} {span.unit}".rstrip()
    draw.text((16, top), fit(name, side - 48 - font(20).getlength(number), 16), fill=INK, font=font(16))
    draw.text((side - 16, top - 2), number, fill=INK, font=font(20), anchor="ra")
    line = top + 50
    if span.normal is not None:
        draw.rectangle((at(span.normal[0]), line - 16, at(span.normal[1]), line + 16), fill=(214, 234, 248))
        draw.text((at(sum(span.normal) / 2), line - 17), "normal", fill=GREY, font=font(12), anchor="mb")
    draw.line((left, line, right, line), fill=FAINT, width=2)
    for mark in marks:
        draw.line((at(mark), line - 5, at(mark), line + 5), fill=GREY)
        draw.text((at(mark), line + 18), f"{mark:g}", fill=GREY, font=font(13), anchor="ma")
    if span.interval is not None:
        first, last = map(at, span.interval)
        draw.line((first, line, last, line), fill=colour(5), width=6)
        for end in (first, last):
            draw.line((end, line - 9, end, line + 9), fill=colour(5), width=3)
    draw.ellipse((at(span.value) - 7, line - 7, at(span.value) + 7, line + 7), fill=colour(6), outline="white")


def prose(words: Sequence[tuple[str, bool]], *, side: int = PANEL_SIDE, size: int = 18) -> Image.Image:
    """Text, broken into lines; pieces that are marked have a coloured ground and a line below, for greyscale."""
    image = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(image)
    face, step, x, y = font(size), size + 9, 16.0, 14.0
    pieces = [(part, marked) for text, marked in words for part in _broken(text)]
    for place, (part, marked) in enumerate(pieces):
        wide = face.getlength(part)
        if part == "\n" or (x > 16 and x + face.getlength(part.rstrip()) > side - 16):
            x, y = 16.0, y + step
            if part == "\n":
                continue
        if y + 2 * step > side - 8 and (x + wide > side - 60) and place < len(pieces) - 1:
            draw.text((x, y), "…", fill=INK, font=face)
            break
        if marked and part.strip():
            draw.rectangle((x, y - 1, x + wide, y + size + 4), fill=(253, 226, 200))
            draw.line((x, y + size + 5, x + wide, y + size + 5), fill=colour(6), width=2)
        draw.text((x, y), fit(part, side - 16 - x, size), fill=INK, font=face)
        x += wide
    return image


def _broken(text: str) -> list[str]:
    """The words of a text, each with the space that follows it, and its line breaks."""
    parts: list[str] = []
    for row, line in enumerate(text.split("\n")):
        if row:
            parts.append("\n")
        words = line.split(" ")
        parts += [
            word + (" " if k < len(words) - 1 else "") for k, word in enumerate(words) if word or k < len(words) - 1
        ]
    return parts
