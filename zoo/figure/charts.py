"""Small charts for the panels of a prediction, drawn with Pillow alone: they need no extra."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw

from zoo.figure.layout import FAINT, GREY, INK, OKABE_ITO, PANEL_SIDE, RGB, colour, fit, font


@dataclass(frozen=True)
class Bar:
    """One bar of a group: a share in [0, 1], and a mark behind its number."""

    name: str
    value: float
    colour: RGB = OKABE_ITO[5]
    mark: str = ""


@dataclass(frozen=True)
class Curve:
    """One line of a chart, named at its end with its last value."""

    name: str
    values: Sequence[float]
    colour: RGB


def bars(
    probabilities: Mapping[str, float], side: int = PANEL_SIDE, colours: Mapping[str, RGB] | None = None
) -> Image.Image:
    """A horizontal bar for each class, most probable first, with its probability; ``colours`` by class."""
    ranked = sorted(probabilities.items(), key=lambda item: -item[1])[:12]
    image, draw = _sheet(side)
    height = min(56, side // max(len(ranked), 1))
    thick = max(6, height // 4)
    for row, (name, probability) in enumerate(ranked):
        top = row * height + 4
        draw.text((8, top), fit(name, side - 110), fill=INK, font=font(16))
        draw.text((side - 8, top), f"{probability:.1%}", fill=INK, font=font(16), anchor="ra")
        _bar(draw, (8, top + 22, side - 8, top + 22 + thick), probability, (colours or {}).get(name, colour(5)))
    return image


def grouped_bars(
    groups: Mapping[str, Sequence[Bar]], side: int = PANEL_SIDE, rest: str = "more not shown", digits: int = 1
) -> Image.Image:
    """A block of bars for each name, first things first; ``rest`` says what the blocks are that found no room."""
    count = max(map(len, groups.values()))
    some = list(groups.items())[: max(1, min(5, (side - 20) // (26 + 15 * count)))]  # a bar needs 15 px to be read
    step = min(22, ((side - 20) // len(some) - 30) // count)
    size = max(11, min(14, step - 2))
    widest = max(font(size).getlength(bar.name) for _, group in some for bar in group)
    indent = 18 + int(min(widest, side / 2))
    right = side - 62 - (14 if any(bar.mark for _, group in some for bar in group) else 0)
    image, draw = _sheet(side)
    top = 2
    for name, group in some:
        draw.text((8, top), fit(name, side - 16), fill=INK, font=font(16))
        top += 22
        for bar in group:
            label = fit(bar.name, indent - 12, size)
            draw.text((indent - 6, top), label, fill=(60, 60, 60), font=font(size), anchor="ra")
            _bar(draw, (indent, top + 1, right, top + step - 4), bar.value, bar.colour)
            draw.text((right + 54, top), f"{bar.value:.{digits}%}", fill=INK, font=font(size), anchor="ra")
            draw.text((right + 58, top), bar.mark, fill=INK, font=font(size))
            top += step
        top += 8
    if len(groups) > len(some):
        draw.text((8, side - 16), f"{len(groups) - len(some)} {rest}", fill=GREY, font=font(13))
    return image


def columns(
    names: Sequence[str], series: Mapping[str, Sequence[float | None]], *, x: str = "", side: int = PANEL_SIDE
) -> Image.Image:
    """Upright bars side by side: for each name one of every series, a dash where there is no number."""
    image, draw = _sheet(side)
    top, bottom, left, right = 44, side - 46, 58, side - 8
    inks = [colour(label) for label in (5, 1, 3, 7, 2, 6, 4)]
    known = [value for values in series.values() for value in values if value is not None]
    marks = ticks(0.0, max(known, default=0.0) or 1.0)
    ceiling = marks[-1]
    for mark in marks:
        y = bottom - (bottom - top) * mark / ceiling
        draw.line((left, y, right, y), fill=FAINT)
        draw.text((left - 6, y), f"{mark:.3g}", fill=INK, font=font(14), anchor="rm")
    pitch = (right - left) / max(len(names), 1)
    widest = max((font(14).getlength(name) for name in names), default=0.0) + 8
    every = max(1, math.ceil(widest / pitch))
    thick = 0.72 * pitch / len(series)
    for place, name in enumerate(names):
        middle = left + (place + 0.5) * pitch
        start = middle - 0.36 * pitch
        for k, values in enumerate(series.values()):
            value, a = values[place], start + k * thick
            if value is not None:
                draw.rectangle((a, bottom - (bottom - top) * value / ceiling, a + thick, bottom), fill=inks[k])
            else:
                draw.text((a + thick / 2, bottom - 10), "-", fill=GREY, font=font(14), anchor="ms")
        if place % every == 0:
            draw.text((middle, bottom + 6), name, fill=INK, font=font(14), anchor="ma")
    draw.line((left, bottom, right, bottom), fill=INK)
    draw.text(((left + right) / 2, side - 6), x, fill=INK, font=font(14), anchor="ms")
    _key(draw, left, dict(zip(series, inks, strict=False)))
    return image


def curves(
    charts: Mapping[str, Sequence[Curve]], *, low: float, high: float = 1.0, x: str = "", side: int = PANEL_SIDE
) -> Image.Image:
    """Charts one above the other on a common scale; each line is named at its end."""
    scale = 2  # drawn large and shrunk, for smooth lines
    image, draw = _sheet(side * scale)
    height = side * scale / len(charts)
    marks = ticks(low, high)
    low = marks[0]
    size = 12 * scale
    ends = [f"{curve.name} {curve.values[-1]:.2f}" for some in charts.values() for curve in some]
    left, right = 44 * scale, side * scale - 10 * scale - max(font(size).getlength(text) for text in ends)
    for row, (name, some) in enumerate(charts.items()):
        top, bottom = row * height + 24 * scale, (row + 1) * height - 20 * scale
        last = max(max(len(curve.values) for curve in some) - 1, 1)
        draw.text((left, row * height + 2 * scale), name, fill=INK, font=font(14 * scale))

        def at(
            step: float, value: float, top: float = top, bottom: float = bottom, last: int = last
        ) -> tuple[float, float]:
            return left + (right - left) * step / last, bottom - (bottom - top) * (value - low) / (marks[-1] - low)

        for mark in marks:
            y = at(0, mark)[1]
            draw.line((left, y, right, y), fill=FAINT, width=scale)
            draw.text((left - 6 * scale, y), f"{mark:g}", fill=GREY, font=font(11 * scale), anchor="rm")
        draw.line((left, top, left, bottom, right, bottom), fill=GREY, width=scale)
        draw.text((left, bottom + 4 * scale), "0", fill=GREY, font=font(11 * scale), anchor="ma")
        draw.text((right, bottom + 4 * scale), f"{x} {last}", fill=GREY, font=font(11 * scale), anchor="ra")
        for curve in some:
            draw.line([at(*point) for point in enumerate(curve.values)], fill=curve.colour, width=2 * scale)
        names = [(at(last, c.values[-1])[1], f"{c.name} {c.values[-1]:.2f}", c.colour) for c in some]
        for y, text, ink in _apart(names, 13 * scale, bottom):
            draw.text((right + 6 * scale, y), text, fill=ink, font=font(size), anchor="lm")
    return image.resize((side, side), Image.Resampling.LANCZOS)


def _apart(ends: list[tuple[float, str, RGB]], gap: float, bottom: float) -> list[tuple[float, str, RGB]]:
    """The names at their heights, moved so far that none covers another."""
    placed: list[tuple[float, str, RGB]] = []
    for y, text, ink in sorted(ends):
        placed.append((max(y, placed[-1][0] + gap) if placed else y, text, ink))
    overshoot = max(0.0, placed[-1][0] - bottom) if placed else 0.0
    return [(y - overshoot, text, ink) for y, text, ink in placed]


def matrix(
    table: Float[np.ndarray, "n m"], names: Sequence[str], *, rows: str, columns: str, key: str = "",
    inks: Sequence[RGB] | None = None, side: int = PANEL_SIDE,
) -> Image.Image:  # fmt: skip
    """Values in [0, 1] in shades of grey, white to black; both sides of the table have the same names."""
    n = len(names)
    left, top, right, bottom = 52, 40, 6, 30
    cell = min((side - left - right) // n, (side - top - bottom) // n)
    size = max(8, min(14, cell - 2))
    image, draw = _sheet(side)
    for i, name in enumerate(names):
        for j in range(n):
            level = round(255 * (1 - min(float(table[i, j]), 1)))
            x, y = left + j * cell, top + i * cell
            draw.rectangle((x, y, x + cell - 1, y + cell - 1), fill=(level, level, level))
        ink = inks[i] if inks else GREY
        draw.text((left - 4, top + i * cell + cell / 2), name, fill=ink, font=font(size), anchor="rm")
        draw.text((left + i * cell + cell / 2, top - 3), name, fill=ink, font=font(size), anchor="mb")
    draw.rectangle((left - 1, top - 1, left + n * cell, top + n * cell), outline=GREY)
    draw.text((left, 2), columns, fill=GREY, font=font(14))
    across = Image.new("RGB", (int(font(14).getlength(rows)) + 4, 20), "white")
    ImageDraw.Draw(across).text((2, 1), rows, fill=GREY, font=font(14))
    turned = across.rotate(90, expand=True)
    image.paste(turned, (0, top + (n * cell - turned.height) // 2))
    draw.text((left, top + n * cell + 8), fit(key, side - left, 13), fill=GREY, font=font(13))
    return image


def statement(
    headline: str, under: str, facts: Mapping[str, str], *, fill: RGB, ink: RGB = INK, side: int = PANEL_SIDE
) -> Image.Image:
    """A coloured badge that says one thing, and below it the facts it rests on, name left and value right."""
    image, draw = _sheet(side)
    draw.rounded_rectangle((8, 12, side - 8, 132), radius=14, fill=fill)
    draw.text((side // 2, 58), fit(headline, side - 32, 44), fill=ink, font=font(44), anchor="mm")
    draw.text((side // 2, 106), fit(under, side - 32, 22), fill=ink, font=font(22), anchor="mm")
    for row, (name, value) in enumerate(facts.items()):
        top = 160 + 44 * row
        draw.text((16, top), name, fill=GREY, font=font(20))
        room = side - 48 - font(20).getlength(name)
        draw.text((side - 16, top), fit(value, room, 20), fill=INK, font=font(20), anchor="ra")
        draw.line((16, top + 34, side - 16, top + 34), fill=FAINT)
    return image


def gauge(
    name: str, value: float, band: tuple[float, float, float] | None = None, *, side: int = PANEL_SIDE
) -> Image.Image:
    """A bar from 0 to ``value`` beside the band that was allowed: lowest, middle, highest; in the unit of ``name``."""
    image, draw = _sheet(side)
    marks = ticks(0.0, max([value, *(band or ()), 1e-9]) * 1.05)
    left, right, top, bottom = 20, side - 20, side // 2 - 40, side // 2 + 40

    def at(number: float) -> float:
        return left + (right - left) * number / marks[-1]

    for mark in marks:
        draw.line((at(mark), top - 30, at(mark), bottom + 30), fill=FAINT)
        draw.text((at(mark), bottom + 36), f"{mark:g}", fill=GREY, font=font(14), anchor="ma")
    inside = band is None or band[0] <= value <= band[2]
    if band is not None:
        low, middle, high = band
        draw.rectangle((at(low), top - 18, at(high), bottom + 18), fill=(214, 234, 248), outline=GREY)
        draw.line((at(middle), top - 18, at(middle), bottom + 18), fill=GREY, width=2)
        text = f"allowed: {low:.4g} to {high:.4g}, mean {middle:.4g}"
        draw.text((left, bottom + 66), fit(text, right - left), fill=INK, font=font(16))
    else:
        draw.text((left, bottom + 66), "no prior, so no band", fill=GREY, font=font(16))
    draw.rectangle((left, top, max(left + 1, at(value)), bottom), fill=colour(5 if inside else 6), outline=GREY)
    verdict = "" if band is None else ", within the band" if inside else ", outside of the band"
    draw.text((left, 40), name, fill=INK, font=font(16))
    draw.text((left, 64), fit(f"{value:.4g}{verdict}", right - left, 26), fill=INK, font=font(26))
    return image


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """At most ``most`` steps of 1, 2 or 5 times a power of ten, from ``low`` or below to ``high`` or above."""
    size = 10 ** math.floor(math.log10(max(high - low, 1e-12) / most))
    step = next(k * size for k in (1, 2, 5, 10) if (high - low) / (k * size) <= most + 1e-9)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def _sheet(side: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (side, side), "white")
    return image, ImageDraw.Draw(image)


def _bar(draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float], share: float, ink: RGB) -> None:
    left, top, right, bottom = box
    draw.rectangle(box, outline=(195, 195, 195))
    if share > 0:
        rim = GREY if sum(ink) > 450 else None  # a pale bar on white
        draw.rectangle((left, top, left + max(1, (right - left) * share), bottom), fill=ink, outline=rim)


def _key(draw: ImageDraw.ImageDraw, left: float, inks: Mapping[str, RGB]) -> None:
    for name, ink in inks.items():
        draw.rectangle((left, 12, left + 14, 26), fill=ink)
        draw.text((left + 20, 19), name, fill=INK, font=font(15), anchor="lm")
        left += 44 + font(15).getlength(name)
