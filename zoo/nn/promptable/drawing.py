"""Prompts on a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from zoo import figure
from zoo.nn.promptable.prompts import Prompt

BOX, INSIDE, OUTSIDE = figure.colour(4), figure.colour(3), figure.colour(6)


def draw_prompts(picture: Image.Image | np.ndarray, prompts: Sequence[Prompt], size: tuple[int, ...]) -> Image.Image:
    """Boxes yellow (numbered, if several), clicks inside green with a plus, outside red with a minus, masks dotted.

    ``size``: height and width of the image that the prompts are in pixels of.
    """
    shown = figure.to_picture(picture)
    for prompt in prompts:
        if prompt.mask is not None:
            shown = _dotted(shown, prompt.mask.inside)
    draw = ImageDraw.Draw(shown)
    sy, sx = shown.height / size[0], shown.width / size[1]
    for number, prompt in enumerate(prompts, start=1):
        if prompt.box is not None:
            box = prompt.box
            corners = (box.x0 * sx, box.y0 * sy, min(box.x1 * sx, shown.width - 1), min(box.y1 * sy, shown.height - 1))
            draw.rectangle(corners, outline="black", width=5)
            draw.rectangle([corners[0] + 1, corners[1] + 1, corners[2] - 1, corners[3] - 1], outline=BOX, width=3)
            if len(prompts) > 1:
                place = (corners[0] + 6, corners[1] + 4)
                draw.text(place, str(number), fill=BOX, font=figure.font(18), stroke_width=2, stroke_fill="black")
        for point in prompt.points:
            x, y, r = (point.x + 0.5) * sx, (point.y + 0.5) * sy, 9
            draw.ellipse(
                (x - r, y - r, x + r, y + r), fill=INSIDE if point.inside else OUTSIDE, outline="black", width=2
            )
            draw.line((x - 5, y, x + 5, y), fill="white", width=3)
            if point.inside:
                draw.line((x, y - 5, x, y + 5), fill="white", width=3)
    return shown


def _dotted(picture: Image.Image, mask: np.ndarray) -> Image.Image:
    inside = np.asarray(Image.fromarray(mask.astype(np.uint8)).resize(picture.size, Image.Resampling.NEAREST)) > 0
    y, x = np.mgrid[: picture.height, : picture.width]
    dots = inside & (x % 8 < 2) & (y % 8 < 2)
    pixels = np.asarray(picture).copy()
    pixels[dots] = BOX
    return Image.fromarray(pixels)
