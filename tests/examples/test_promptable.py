"""``examples/promptable.py``: nuclei and an optic disc on real images, and the picture of them."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "promptable.py"

if not EXAMPLE.is_file():
    pytest.skip("needs the source checkout", allow_module_level=True)
pytest.importorskip("transformers")


def test_nuclei_are_found_where_the_boxes_are_and_are_darker_than_what_surrounds_them() -> None:
    example = runpy.run_path(str(EXAMPLE))
    image, boxes = example["asked"]()["nuclei"]
    promptable = example["Promptable"](example["load_sam"](needed_by="test"))
    for box, mask in zip(boxes, example["answered"](promptable, image, boxes), strict=True):
        grey = image.mean(2)
        within = np.zeros_like(mask)
        within[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)] = True
        assert (mask & within).sum() > 0.7 * mask.sum()
        assert grey[within & mask].mean() < grey[within & ~mask].mean() - 10


def test_it_draws_its_picture(tmp_path: Path) -> None:
    runpy.run_path(str(EXAMPLE))["main"](tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.width > 3 * picture.height
