from __future__ import annotations

import numpy as np
import pytest

from zoo.media import read
from zoo.media.doubts import doubts


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3), (20, 30, 4)])
def test_one_level_everywhere_is_nothing_to_look_at(shape):
    for colour in (True, False):
        (note,) = doubts(read(np.full(shape, 77, np.uint8)), "fundus photographs", colour=colour)
        assert "single level" in note


def test_colour_is_doubted_only_where_grey_is_meant():
    rng = np.random.default_rng(3)
    picture = read(rng.integers(0, 256, (20, 30, 3), np.uint8))
    assert doubts(picture, "fundus photographs", colour=True) == ()
    (note,) = doubts(picture, "chest radiographs", colour=False)
    assert "made for chest radiographs" in note


def test_a_grey_image_saved_in_colour_or_slightly_tinted_is_fine():
    rng = np.random.default_rng(4)
    grey = rng.integers(20, 236, (20, 30, 1), np.uint8).repeat(3, axis=2)
    tinted = grey + np.array([6, 0, 12], np.uint8)
    for array in (grey, tinted, grey[..., 0]):
        assert doubts(read(array), "chest radiographs", colour=False) == ()


def test_real_photographs_are_colourful():
    pytest.importorskip("skimage")
    for name in ("sample:retina", "sample:ihc"):
        assert doubts(read(name), "chest radiographs", colour=False)
