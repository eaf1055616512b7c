from __future__ import annotations

import numpy as np
import pytest

from zoo.errors import MediaError
from zoo.media import Image, read
from zoo.media.doubts import doubts, require_content


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3), (9, 20, 30)])
@pytest.mark.parametrize("level", [0, 77, 255])
def test_one_level_everywhere_is_nothing_to_look_at(shape, level):
    with pytest.raises(MediaError, match="single level"):
        require_content(read(np.full(shape, level, np.uint8), mode="volume" if shape[0] == 9 else "auto"))
    specks = np.full((1000, 1000), level, np.uint8)
    specks[500, 500:520] = 100
    with pytest.raises(MediaError, match="single level"):
        require_content(read(specks))


def test_what_lies_wholly_at_black_and_white_is_saturated():
    rng = np.random.default_rng(1)
    stencil = (rng.random((64, 64)) < 0.3).astype(np.uint8) * 255
    with pytest.raises(MediaError, match="saturated"):
        require_content(read(stencil))
    values = rng.normal(0, 400, (64, 64)).astype(np.float32)
    narrow = Image(values, "ct", meta={"window": (40.0, 0.5)})
    with pytest.raises(MediaError, match="ct is saturated"):
        require_content(narrow)
    assert require_content(Image(values, "ct", meta={"window": (40.0, 400.0)})).source == "ct"


def test_a_small_thing_on_black_is_an_image():
    picture = np.zeros((200, 200), np.uint8)
    picture[90:110, 90:110] = np.arange(20, 220, 10, dtype=np.uint8)
    assert require_content(read(picture)).size == (200, 200)


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
