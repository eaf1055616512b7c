"""Masks from Segment Anything's own files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zoo.errors import OptionError
from zoo.nn.promptable import read_masks

GOOD: dict[str, Any] = {"segmentation": {"size": [3, 4], "counts": [3, 2, 7]}, "stability_score": 0.9}


def stored(where: Path, content: Any) -> str:
    path = where / "masks.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_run_lengths_go_down_the_columns_and_empty_masks_are_left_out(tmp_path: Path) -> None:
    empty = {**GOOD, "segmentation": {"size": [3, 4], "counts": [12]}}
    for content in ([GOOD, empty], {"image": {}, "annotations": [GOOD, empty]}):  # of the generator, and of SA-1B
        (mask,) = read_masks(stored(tmp_path, content), (3, 4))
        assert mask.full().tolist() == [[0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
        assert (mask.box, mask.stability, mask.quality) == ((1, 0, 2, 2), 0.9, 1.0)


def test_compressed_run_lengths_are_those_of_coco(tmp_path: Path) -> None:
    full = np.zeros((40, 60), bool)
    full[3:35, 10:50] = full[0:2, 55:58] = True
    full[10:20, 20:30] = False
    counts = (
        "c<P18000000000000000000WO28NH28NH28NH28NH28NH28NH28NH28NH28N"
        "H28Na000000000000000000000000000000000000000U6ROiJ000`2"
    )  # by pycocotools 2.0.11
    row = {"segmentation": {"size": [40, 60], "counts": counts}, "stability_score": 1.0, "predicted_iou": 0.5}
    (mask,) = read_masks(stored(tmp_path, [row]), (40, 60))
    np.testing.assert_array_equal(mask.full(), full)
    assert mask.quality == 0.5


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("no JSON", "holds no masks"),
        ({"masks": []}, "holds no list"),
        ([{**GOOD, "segmentation": [[1, 2, 3, 4]]}], "mask 1 of .* has no run lengths"),
        ([{**GOOD, "segmentation": {"size": [4, 3], "counts": [12]}}], r"size \[4, 3\], but the image is 3 x 4 px"),
        ([{**GOOD, "segmentation": {"size": [3, 4], "counts": [3, 2]}}], "don't fill 3 x 4 px"),
        ([{**GOOD, "segmentation": {"size": [3, 4], "counts": [20, -8]}}], "don't fill 3 x 4 px"),
        ([{**GOOD, "segmentation": {"size": [3, 4], "counts": "~~~"}}], "don't fill 3 x 4 px"),
        ([GOOD, {**GOOD, "stability_score": None}], "mask 2 of .* needs a stability_score"),
    ],
)
def test_other_files_are_refused_in_one_sentence(tmp_path: Path, content: Any, sentence: str) -> None:
    with pytest.raises(OptionError, match=sentence):
        read_masks(stored(tmp_path, content), (3, 4))
    with pytest.raises(OptionError, match="holds no masks"):
        read_masks(str(tmp_path / "missing.json"), (3, 4))
