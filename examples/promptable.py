"""The zoo's small SAM, trained on phantoms alone, asked on two real images: ``python examples/promptable.py OUT.png``.

A stained tissue section and a fundus photograph, both of scikit-image; the boxes were drawn by hand.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from skimage import data

from zoo import figure
from zoo.nn.promptable import Box, Prompt, Promptable, load_sam
from zoo.nn.promptable.drawing import draw_prompts


def asked() -> dict[str, tuple[np.ndarray, list[Box]]]:
    """By name: an image ``[h w 3]`` and the boxes around what is to be found."""
    nuclei = [
        Box(113, 45, 122, 58),
        Box(79, 49, 94, 59),
        Box(20, 108, 27, 123),
        Box(90, 8, 104, 17),
        Box(38, 75, 44, 88),
    ]
    return {
        "nuclei": (data.immunohistochemistry()[240:368, 200:328], nuclei),
        "optic disc": (data.retina(), [Box(195, 535, 330, 760)]),
    }


def answered(promptable: Promptable, image: np.ndarray, boxes: list[Box]) -> np.ndarray:
    """``[n h w]`` bool: what lies in each box."""
    embedded = promptable.embed(image)
    answer = promptable.ask(embedded, [Prompt(box) for box in boxes])
    return (embedded.frame.logits(answer.logits)[:, 0] > 0).numpy()


def main(out: Path) -> None:
    promptable = Promptable(load_sam("demo", needed_by="this example"))
    panels = []
    for name, (image, boxes) in asked().items():
        masks = answered(promptable, image, boxes)
        labels = np.zeros(image.shape[:2], np.uint8)
        for number, mask in enumerate(masks, start=1):
            labels[mask] = number
        panels += [
            figure.Panel(f"boxes: {name}", draw_prompts(image, [Prompt(box) for box in boxes], image.shape[:2])),
            figure.Panel(f"answers: {name}", figure.overlay(image, labels, opacity=0.6)),
        ]
    footer = "zoo's small SAM · trained on phantoms; not for clinical use · images: scikit-image"
    figure.compose(panels, title="A small SAM trained on phantoms, on real images", footer=footer).save(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
