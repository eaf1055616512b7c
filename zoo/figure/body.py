"""A person seen from the front, parted by the sites that skin lesions are recorded with."""

from __future__ import annotations

from collections.abc import Mapping

from PIL import Image, ImageDraw

from zoo.figure.layout import GREY, PANEL_SIDE, RGB, font

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


def body(sites: Mapping[str, tuple[int, RGB]]) -> Image.Image:
    """A figure whose parts have the colours given; ``sites``: by site, how many lesions and the colour of the part."""
    big = 3 * PANEL_SIDE
    drawing = Image.new("RGB", (big, big), "white")
    draw = ImageDraw.Draw(drawing)
    for site, shapes in _PARTS.items():
        fill = sites[site][1] if site in sites else (238, 238, 238)
        for kind, corners in shapes:
            box = [c * big / 100 for c in corners]
            if kind == "box":
                draw.rounded_rectangle(box, radius=0.03 * big, fill=fill, outline=GREY, width=4)
            else:
                draw.ellipse(box, fill=fill, outline=GREY, width=4)
    image = drawing.resize((PANEL_SIDE, PANEL_SIDE), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(image)
    for site, (label, end) in _CALLOUTS.items():
        x, y = label[0] * PANEL_SIDE / 100, label[1] * PANEL_SIDE / 100
        count = sites[site][0] if site in sites else 0
        right = label[0] > 50
        line = (x + (-4 if right else 4), y, end[0] * PANEL_SIDE / 100, end[1] * PANEL_SIDE / 100)
        draw.line(line, fill=(120, 120, 120), width=1)
        ink = "black" if count else (160, 160, 160)
        draw.text((x, y), f"{site}: {count}", fill=ink, font=font(14), anchor="lm" if right else "rm")
    return image
