"""``python docs/_gallery.py``: a picture for each family of models in docs/images, as the demo weights answer now.

The first page and the README show ``gallery.png``, which has them all.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from PIL import Image, ImageDraw

import zoo
from zoo import options
from zoo.cards import example
from zoo.figure import font

IMAGES = Path(__file__).resolve().parent / "images"
WIDTH, GAP, HEADING = 760, 16, 34  # px of a picture, between them, and above each
FAMILIES = {
    "retina": "map-vessel",
    "skin": "local-global-prototypes",
    "ultrasound, from a box": "cemb-sam",
    "histology": "sam-path",
    "surgery": "surgical-sam-lora",
    "volumes": "fseft",
}


def answered(name: str) -> Image.Image:
    """The figure of a model for its own example, without running a command."""
    words = shlex.split(example(zoo.info(name)))
    given = [words[place + 1] for place, word in enumerate(words) if word == "--with"]
    model = zoo.load(name, device="cpu")
    return model.predict(words[3], **options.parse(zoo.info(name), given)).figure()


def main() -> None:
    """Two columns, each picture under its family and model."""
    pictures = []
    for family, name in FAMILIES.items():
        picture = answered(name)
        scale = WIDTH / picture.width
        small = picture.resize((WIDTH, round(picture.height * scale)), Image.Resampling.LANCZOS)
        pictures.append((f"{family}: {name}", small))
        print(f"{name}: {picture.width} x {picture.height}")
    columns = [pictures[::2], pictures[1::2]]
    height = max(sum(one.height + HEADING + GAP for _, one in column) for column in columns)
    sheet = Image.new("RGB", (2 * WIDTH + 3 * GAP, height + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for place, column in enumerate(columns):
        left, top = GAP + place * (WIDTH + GAP), GAP
        for title, one in column:
            draw.text((left, top), title, fill=(0, 0, 0), font=font(22))
            sheet.paste(one, (left, top + HEADING))
            top += one.height + HEADING + GAP
    path = IMAGES / "gallery.png"
    sheet.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
