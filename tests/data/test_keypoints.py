"""Points by image, from a table in pixels or a Label Studio export in percent."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from zoo import media
from zoo.data.keypoints import keypoints_of
from zoo.errors import DataError

PICTURE = media.Image(np.zeros((50, 200, 3), np.uint8), source="photos/a.jpg")


def test_a_table_states_pixels_and_names_images_by_their_stem(tmp_path: Path):
    table = tmp_path / "points.csv"
    table.write_text("image,x,y,kind\na,3,4,Dark corner\nother/a.png,5.5,6,lesion\nb.png,1,1,lesion\n")
    assert keypoints_of(table, PICTURE) == [(3, 4, "dark_corner"), (5.5, 6, "lesion")]


def test_label_studio_states_percent_of_the_sides(tmp_path: Path):
    marks = [{"x": 50, "y": 50, "keypointlabels": ["ruler", "ink"]}, {"x": 0, "y": 100, "keypointlabels": ["hair"]}]
    file = tmp_path / "points.json"
    file.write_text(json.dumps([{"img": "/data/a.jpg", "kp-1": marks}, {"img": "/data/b.jpg"}]))
    assert keypoints_of(file, PICTURE) == [(99.5, 24.5, "ruler"), (99.5, 24.5, "ink"), (-0.5, 49.5, "hair")]


@pytest.mark.parametrize(
    ("name", "text"), [("p.csv", "image,x\na,1\n"), ("p.csv", "image,x,y,kind\na,one,2,lesion\n"), ("p.json", "[3]"),
                       ("p.json", "{"), ("p.json", '[{"img": "a", "kp-1": [{"x": 1}]}]')]
)  # fmt: skip
def test_what_is_neither_is_refused(tmp_path: Path, name: str, text: str):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError):
        keypoints_of(tmp_path / name, PICTURE)
