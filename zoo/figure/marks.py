"""What is written over a finished figure so that nobody takes it for more than it is."""

from __future__ import annotations

import math

from PIL import Image, ImageDraw

from zoo.figure.layout import colour, font, wrap

_WARNING = colour(6)


def banner(picture: Image.Image, text: str) -> Image.Image:
    """The picture under a coloured strip with ``text``."""
    size, margin = 20, 16
    lines = wrap(text, picture.width - 2 * margin, size, lines=4)
    height = (size + 6) * len(lines) + 16
    image = Image.new("RGB", (picture.width, picture.height + height), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, picture.width, height - 4), fill=_WARNING)
    for k, line in enumerate(lines):
        draw.text((margin, 6 + (size + 6) * k), line, fill="white", font=font(size), stroke_width=0.3)
    image.paste(picture, (0, height))
    return image


def across(picture: Image.Image, word: str) -> Image.Image:
    """The picture with a ``word`` over it, half transparent, from its lower left to its upper right."""
    width, height = picture.size
    size = max(12, round(0.8 * math.hypot(width, height) / font(100).getlength(word) * 100))
    length = math.ceil(font(size).getlength(word))
    mask = Image.new("L", (length, size + size // 2))
    ImageDraw.Draw(mask).text((length // 2, mask.height // 2), word, fill=95, font=font(size), anchor="mm")
    mask = mask.rotate(math.degrees(math.atan2(height, width)), Image.Resampling.BICUBIC, expand=True)
    mask.thumbnail(picture.size)
    image = picture.convert("RGB")
    image.paste((60, 60, 60), ((width - mask.width) // 2, (height - mask.height) // 2), mask)
    return image
