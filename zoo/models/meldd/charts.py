"""The drawings of a patient's result: contact sheet, attention between lesions, sites on a body, evidence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from PIL import Image as PILImage
from PIL import ImageDraw

from zoo import figure as fig

SIDE = fig.PANEL_SIDE
_GREY = (90, 90, 90)
_SHADES = ((222, 235, 247), (158, 202, 225), (254, 178, 76), (189, 60, 0))  # below the operating point blue, above red
EVIDENCE = {
    "V0": "lesion alone",
    "V1": "+ other lesions",
    "V2": "+ others, site",
    "V3": "+ others, age, sex",
    "V4": "+ all of these",
}


def severity(p: float, operating_point: float) -> float:
    """0 to 1 with the operating point at 0.5, linear on both sides of it."""
    t = min(max(operating_point, 1e-6), 1 - 1e-6)
    return 0.5 * p / t if p < t else 0.5 + 0.5 * (p - t) / (1 - t)


def shade(level: float) -> tuple[int, int, int]:
    """Pale to darker blue below 0.5, orange to dark red from it on: told apart in greyscale and by the colour-blind."""
    low, high, share = (_SHADES[0], _SHADES[1], 2 * level) if level < 0.5 else (_SHADES[2], _SHADES[3], 2 * level - 1)
    r, g, b = (round((1 - share) * a + share * b) for a, b in zip(low, high, strict=True))
    return r, g, b


@dataclass(frozen=True)
class Tile:
    """One lesion on the contact sheet."""

    picture: PILImage.Image
    number: int
    probability: float
    malignant: bool
    site: str
    level: float


def contact_sheet(tiles: Sequence[Tile]) -> PILImage.Image:
    """Lesions in rows, each framed by the colour of its probability; number, probability of melanoma and site below."""
    columns = max(2, math.ceil(math.sqrt(len(tiles))))
    rows = math.ceil(len(tiles) / columns)
    cell = SIDE // columns
    size = 15 if columns <= 3 else 13 if columns == 4 else 11
    text = 2 * size + 10
    image = PILImage.new("RGB", (SIDE, min(SIDE, rows * cell)), "white")
    draw = ImageDraw.Draw(image)
    frame = max(4, cell // 22)
    for place, tile in enumerate(tiles):
        left, top = place % columns * cell, place // columns * cell
        side = cell - text - 2
        x = left + (cell - side) // 2
        draw.rectangle((x, top, x + side - 1, top + side - 1), fill=shade(tile.level), outline=_GREY)
        inner = side - 2 * frame
        image.paste(tile.picture.resize((inner, inner), PILImage.Resampling.LANCZOS), (x + frame, top + frame))
        mark = " !" if tile.malignant else ""
        middle = left + cell // 2
        draw.text((middle, top + side + 2), f"{tile.number}: {tile.probability:.0%}{mark}", fill="black",
                  font=fig.font(size), anchor="ma", stroke_width=0.3 if tile.malignant else 0)  # fmt: skip
        draw.text((middle, top + side + size + 4), tile.site, fill=_GREY, font=fig.font(size - 1), anchor="ma")
    return image


def matrix(table: Float[np.ndarray, "n n"], numbers: Sequence[int], flagged: Sequence[bool]) -> PILImage.Image:
    """The table in shades of grey, rows attend to columns; flagged lesions have an exclamation mark.

    Mid grey is even attention to all that are shown, black twice as much or more.
    """
    n = len(numbers)
    left, top, right, bottom = 52, 40, 6, 30
    cell = min((SIDE - left - right) // n, (SIDE - top - bottom) // n)
    image = PILImage.new("RGB", (SIDE, SIDE), "white")
    draw = ImageDraw.Draw(image)
    even = float(table.mean()) or 1.0
    size = max(8, min(14, cell - 2))
    for i in range(n):
        for j in range(n):
            level = round(255 * (1 - min(float(table[i, j]) / (2 * even), 1)))
            x, y = left + j * cell, top + i * cell
            draw.rectangle((x, y, x + cell - 1, y + cell - 1), fill=(level, level, level))
        name = f"{numbers[i]}{'!' if flagged[i] else ''}"
        colour = shade(1.0) if flagged[i] else _GREY
        draw.text((left - 4, top + i * cell + cell / 2), name, fill=colour, font=fig.font(size), anchor="rm")
        draw.text((left + i * cell + cell / 2, top - 3), name, fill=colour, font=fig.font(size), anchor="mb")
    draw.rectangle((left - 1, top - 1, left + n * cell, top + n * cell), outline=_GREY)
    draw.text((left, 2), "is looked at", fill=_GREY, font=fig.font(14))
    side = PILImage.new("RGB", (200, 20), "white")
    ImageDraw.Draw(side).text((100, 1), "looks", fill=_GREY, font=fig.font(14), anchor="ma")
    turned = side.rotate(90, expand=True)
    image.paste(turned.crop((0, 60, 20, 140)), (0, top + n * cell // 2 - 40))
    key = "white: none, mid grey: as to all others, black: twice as much"
    draw.text((left, top + n * cell + 8), key, fill=_GREY, font=fig.font(13))
    return image


_PARTS: dict[str, tuple[tuple[str, tuple[float, ...]], ...]] = {
    # ellipses and rounded rectangles (x0, y0, x1, y1) in hundredths of the panel
    "torso": (("box", (39, 22, 61, 52)),),
    "upper extremity": (("box", (29, 23, 37, 53)), ("box", (63, 23, 71, 53))),
    "lower extremity": (("box", (39, 54, 48.5, 91)), ("box", (51.5, 54, 61, 91))),
    "head/neck": (("ellipse", (43, 4, 57, 18)), ("box", (47, 17, 53, 22))),
    "palms/soles": (("ellipse", (28, 53, 37, 61)), ("ellipse", (63, 53, 72, 61)), ("ellipse", (37, 91, 48.5, 97)),
                    ("ellipse", (51.5, 91, 63, 97))),
    "oral/genital": (("ellipse", (47, 12.5, 53, 15.5)), ("ellipse", (46, 48, 54, 54))),
}  # fmt: skip
_CALLOUTS = {  # where a label stands, and the point of the body that its line leads to
    "head/neck": ((73, 7), (56, 9)),
    "oral/genital": ((27, 14), (47.5, 14)),
    "torso": ((73, 34), (59, 38)),
    "upper extremity": ((25, 34), (31, 37)),
    "palms/soles": ((73, 66), (69, 60)),
    "lower extremity": ((27, 75), (41, 75)),
}


def body(worst: Mapping[str, tuple[int, float]]) -> PILImage.Image:
    """A figure whose parts have the colour of their most suspicious lesion; ``worst``: by site, count and level."""
    big = 3 * SIDE
    drawing = PILImage.new("RGB", (big, big), "white")
    draw = ImageDraw.Draw(drawing)
    for site, shapes in _PARTS.items():
        fill = shade(worst[site][1]) if site in worst else (238, 238, 238)
        for kind, corners in shapes:
            box = [c * big / 100 for c in corners]
            if kind == "box":
                draw.rounded_rectangle(box, radius=0.03 * big, fill=fill, outline=_GREY, width=4)
            else:
                draw.ellipse(box, fill=fill, outline=_GREY, width=4)
    image = drawing.resize((SIDE, SIDE), PILImage.Resampling.LANCZOS)
    draw = ImageDraw.Draw(image)
    for site, (label, end) in _CALLOUTS.items():
        x, y = label[0] * SIDE / 100, label[1] * SIDE / 100
        count = worst[site][0] if site in worst else 0
        ink = "black" if count else (160, 160, 160)
        anchor = "lm" if label[0] > 50 else "rm"
        gap = -4 if label[0] > 50 else 4
        draw.line((x + gap, y, end[0] * SIDE / 100, end[1] * SIDE / 100), fill=(120, 120, 120), width=1)
        draw.text((x, y), f"{site}: {count}", fill=ink, font=fig.font(14), anchor=anchor)
    return image


def evidence(rows: Mapping[int, Mapping[str, tuple[float, float]]]) -> PILImage.Image:
    """Bars of probability by variant for each lesion; ``rows``: number, then variant to probability and level."""
    image = PILImage.new("RGB", (SIDE, SIDE), "white")
    draw = ImageDraw.Draw(image)
    names = list(next(iter(rows.values())))
    block = min(SIDE // len(rows), 24 * len(names) + 34)
    bar = min(18, (block - 26) // len(names) - 2)
    size = max(9, min(13, bar))
    left, right = 166, SIDE - 62
    for k, (number, found) in enumerate(rows.items()):
        top = k * block
        draw.text((4, top + 2), f"lesion {number}", fill="black", font=fig.font(14))
        for j, name in enumerate(names):
            p, level = found[name]
            y = top + 22 + j * (bar + 2)
            label = f"{name} {EVIDENCE[name]}"
            draw.text((left - 6, y + bar / 2), label, fill=_GREY, font=fig.font(size), anchor="rm")
            draw.rectangle((left, y, right, y + bar - 1), outline=(215, 215, 215))
            if p > 0:
                draw.rectangle((left, y, left + max(1, (right - left) * p), y + bar - 1), fill=shade(level),
                               outline=_GREY)  # fmt: skip
            mark = "!" if level >= 0.5 else ""
            draw.text((right + 4, y + bar / 2), f"{p:.0%} {mark}", fill="black", font=fig.font(size), anchor="lm")
    return image
