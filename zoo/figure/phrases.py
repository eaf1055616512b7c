"""Phrases with what speaks for and against them: long names above signed bars, and a sorted curve with marks on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw

from zoo.figure.charts import ticks
from zoo.figure.layout import FAINT, GREY, INK, PANEL_SIDE, RGB, colour, fit, font


@dataclass(frozen=True)
class PhraseBar:
    """A phrase, its value of either sign, the colour of its bar, and what is written at its right."""

    text: str
    value: float
    colour: RGB
    note: str = ""


def phrase_bars(groups: Mapping[str, Sequence[PhraseBar]], *, key: str = "", side: int = PANEL_SIDE) -> Image.Image:
    """Blocks of phrases, each above its bar; bars share one scale and one zero. ``key``: one line below.

    Phrases that find no room are counted.
    """
    image = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(image)
    most = max(1, min((side - 34) // len(groups) - 26, 10_000) // 32)
    shown = {name: list(some)[:most] for name, some in groups.items()}
    values = [bar.value for some in shown.values() for bar in some] or [1.0]
    low, high = min(0.0, *values), max(0.0, *values)
    reach = (high - low) or 1.0
    left, right = 12, side - 12

    def at(value: float) -> float:
        return left + (right - left) * (value - low) / reach

    top = 2
    for name, some in shown.items():
        draw.text((8, top), fit(name, side - 16), fill=INK, font=font(16))
        top += 24
        for bar in some:
            room = side - 28 - font(12).getlength(bar.note)
            draw.text((12, top), fit(bar.text[:120], room, 13), fill=(60, 60, 60), font=font(13))
            draw.text((side - 12, top), bar.note, fill=GREY, font=font(12), anchor="ra")
            a, b = sorted((at(0.0), at(bar.value)))
            draw.rectangle((a, top + 17, max(b, a + 1), top + 27), fill=bar.colour, outline=GREY)
            if low < 0:
                draw.line((at(0.0), top + 15, at(0.0), top + 29), fill=INK)
            top += 32
        if hidden := len(groups[name]) - len(some):
            draw.text((side - 12, top - 2), f"{hidden} more", fill=GREY, font=font(12), anchor="ra")
    draw.text((8, side - 19), fit(key, side - 16, 13), fill=GREY, font=font(13))
    return image


def sorted_curve(
    values: Float[np.ndarray, " n"],
    marked: Bool[np.ndarray, " n"],
    *,
    names: tuple[str, str],
    y: str,
    x: str,
    side: int = PANEL_SIDE,
) -> Image.Image:
    """Values from the highest to the lowest; the ``marked`` ones as upright strokes from the curve down.

    ``names``: of the marked ones and of the others, in the key.
    """
    scale = 2  # drawn large and shrunk, for smooth lines
    image = Image.new("RGB", (side * scale, side * scale), "white")
    draw = ImageDraw.Draw(image)
    order = np.argsort(-values, kind="stable")
    ranked, strokes = values[order], marked[order]
    low = min(0.0, float(ranked.min(initial=0.0)))
    marks = ticks(low, float(ranked.max(initial=0.0)) or 1.0)
    left, right, top, bottom = 70 * scale, (side - 16) * scale, 66 * scale, (side - 48) * scale

    def at(place: float, value: float) -> tuple[float, float]:
        share = (value - marks[0]) / (marks[-1] - marks[0])
        return left + (right - left) * (place + 0.5) / max(len(ranked), 1), bottom - (bottom - top) * share

    for mark in marks:
        height = at(0, mark)[1]
        draw.line((left, height, right, height), fill=FAINT, width=scale)
        draw.text((left - 6 * scale, height), f"{mark:.3g}", fill=INK, font=font(13 * scale), anchor="rm")
    width = max(scale, int((right - left) / max(len(ranked), 1) * 0.6))
    for place in np.flatnonzero(strokes).tolist():
        foot, head = at(place, marks[0]), at(place, float(ranked[place]))
        draw.line((*foot, *head), fill=colour(2), width=width)
    if len(ranked) > 1:
        draw.line([at(place, float(value)) for place, value in enumerate(ranked)], fill=INK, width=2 * scale)
    draw.line((left, top, left, bottom, right, bottom), fill=GREY, width=scale)
    draw.text((left, bottom + 6 * scale), "1", fill=INK, font=font(13 * scale), anchor="ma")
    draw.text((right, bottom + 6 * scale), str(len(ranked)), fill=INK, font=font(13 * scale), anchor="ra")
    draw.text(((left + right) / 2, bottom + 22 * scale), x, fill=INK, font=font(14 * scale), anchor="ma")
    draw.text((8 * scale, 6 * scale), y, fill=INK, font=font(14 * scale))
    start: float = left
    for ink, name in ((colour(2), names[0]), (INK, names[1])):
        draw.rectangle((start, 34 * scale, start + 14 * scale, 48 * scale), fill=ink)
        draw.text((start + 20 * scale, 41 * scale), name, fill=INK, font=font(14 * scale), anchor="lm")
        start += 40 * scale + font(14 * scale).getlength(name)
    return image.resize((side, side), Image.Resampling.LANCZOS)


def pale_to_dark(share: float) -> RGB:
    """From pale to dark blue as ``share`` goes from 0 to 1: an order that greyscale keeps."""
    a, b = (222, 235, 247), (8, 64, 129)
    t = min(max(share, 0.0), 1.0)
    return tuple(round((1 - t) * low + t * high) for low, high in zip(a, b, strict=True))  # type: ignore[return-value]
