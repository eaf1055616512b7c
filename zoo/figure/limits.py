"""Numbers of several things, each with a limit of its own: a bar each, the limit as a mark across it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from zoo.figure.layout import FAINT, GREY, INK, PANEL_SIDE, colour, fit, font

SHOWN = 10


def limited_bars(
    names: Sequence[str], values: Sequence[float], limits: Sequence[float], chosen: int, side: int = PANEL_SIDE
) -> Image.Image:
    """Horizontal bars from 0, in one unit; that of ``chosen`` is coloured. Infinite ones reach the right edge."""
    image = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(image)
    some = list(zip(names, values, limits, strict=True))
    some = [*some[:SHOWN]] if chosen < SHOWN else [*some[: SHOWN - 1], some[chosen]]
    high = 1.08 * max((v for _, *pair in some for v in pair if math.isfinite(v)), default=1.0) or 1.0
    step = min(84, (side - 30) // max(len(some), 1))
    for row, (name, value, limit) in enumerate(some):
        top = 4 + row * step
        draw.text((8, top), fit(name, side - 90), fill=INK, font=font(16))
        draw.text((side - 8, top), f"{value:.2f}", fill=INK, font=font(16), anchor="ra")
        low, bottom = top + 22, top + max(28, min(48, step - 8))
        draw.rectangle((8, low, side - 8, bottom), outline=FAINT)
        own = name == names[chosen]
        right = 8 + (side - 16) * min(value, high) / high
        draw.rectangle((8, low, right, bottom), fill=colour(5) if own else (170, 170, 170), outline=GREY)
        mark = 8 + (side - 16) * min(limit, high) / high
        draw.line((mark, low - 4, mark, bottom + 4), fill=colour(6), width=4)
    if len(names) > len(some):
        draw.text((8, side - 20), f"{len(names) - len(some)} more not shown", fill=GREY, font=font(13))
    return image
