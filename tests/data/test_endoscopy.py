"""HyperKvasir as it is unpacked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.data.layouts.hyperkvasir import HYPERKVASIR_CLASSES
from zoo.data.sets import load_dataset
from zoo.errors import DataError


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)


def test_findings_are_the_folders_below_tract_and_category(tmp_path: Path) -> None:
    picture(tmp_path / "labeled-images/lower-gi-tract/pathological-findings/polyps/a.jpg")
    picture(tmp_path / "labeled-images/lower-gi-tract/anatomical-landmarks/cecum/b.jpg")
    picture(tmp_path / "labeled-images/upper-gi-tract/anatomical-landmarks/z-line/c.jpg")
    picture(tmp_path / "labeled-images/upper-gi-tract/anatomical-landmarks/notes/d.jpg")
    dataset = load_dataset(f"hyperkvasir:{tmp_path}")
    assert sorted(str(case.label) for case in dataset) == ["cecum", "polyps", "z-line"]
    assert {case.attributes["tract"] for case in dataset} == {"lower-gi-tract", "upper-gi-tract"}


def test_a_folder_without_findings_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "polyps/a.jpg")
    with pytest.raises(DataError, match="holds no images in TRACT/CATEGORY/FINDING/"):
        load_dataset(f"hyperkvasir:{tmp_path}")


def test_there_are_23_findings() -> None:
    assert len(set(HYPERKVASIR_CLASSES)) == 23
