"""Prompts say what is wrong with them in one sentence."""

from __future__ import annotations

import math

import numpy as np
import pytest

from zoo.errors import OptionError
from zoo.nn.promptable import Box, Mask, Point, Prompt, box_around, fitted, prompts_from


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        (Prompt(Box(0, 0, 101, 10)), "box 0,0,101,10 reaches out of the image, which is 100 px wide and 50 px high"),
        (Prompt(Box(-1, 0, 10, 10)), "reaches out"),
        (Prompt(Box(30, 0, 20, 10)), "empty or inverted"),
        (Prompt(Box(3, 7, 20, 7)), "empty or inverted"),
        (Prompt(Box(math.nan, 7, 20, 9)), "four finite numbers"),
        (Prompt(points=(Point(100, 3),)), "point 100,3 is not on the image"),
        (Prompt(points=(Point(3, -1),)), "not on the image"),
        (Prompt(points=(Point(math.inf, 1),)), "two finite numbers"),
        (Prompt(mask=Mask(np.ones((50, 99), bool))), "the mask is 99 x 50 px and the image 100 x 50"),
        (Prompt(mask=Mask(np.zeros((50, 100), bool))), "the mask is empty"),
        (Prompt(), "needs a box, a point or a mask"),
    ],
)
def test_a_prompt_that_does_not_fit_the_image_is_refused(prompt: Prompt, sentence: str) -> None:
    with pytest.raises(OptionError, match=sentence):
        prompt.check(50, 100)


def test_a_prompt_may_touch_the_borders() -> None:
    Prompt(Box(0, 0, 100, 50), (Point(99.5, 49.5), Point(0, 0, inside=False))).check(50, 100)


def test_every_box_is_an_object() -> None:
    found = prompts_from(box=[(0, 0, 5, 5), (1, 1, 9, 9)])
    assert found == (Prompt(Box(0, 0, 5, 5)), Prompt(Box(1, 1, 9, 9)))


def test_points_and_mask_refine_one_object() -> None:
    mask = np.eye(4, dtype=np.uint8)
    (found,) = prompts_from(box=[(0, 0, 5, 5)], point=[(1, 2)], background=[(3, 4)], mask=mask)
    assert found.box == Box(0, 0, 5, 5)
    assert found.points == (Point(1, 2), Point(3, 4, inside=False))
    assert found.mask is not None
    assert np.array_equal(found.mask.inside, mask > 0)


def test_points_with_several_boxes_are_ambiguous() -> None:
    with pytest.raises(OptionError, match="2 boxes were given; give one box"):
        prompts_from(box=[(0, 0, 5, 5), (1, 1, 9, 9)], point=[(1, 2)])


def test_nothing_said_is_no_prompt() -> None:
    assert prompts_from() == ()


def test_the_box_around_a_mask_is_exclusive_below_and_right() -> None:
    mask = np.zeros((10, 12), bool)
    mask[2:5, 3:9] = True
    assert box_around(mask) == Box(3, 2, 9, 5)
    with pytest.raises(OptionError, match="empty mask"):
        box_around(np.zeros((3, 3), bool))


def test_a_box_that_reaches_a_little_over_the_edge_is_cut_with_a_note() -> None:
    prompts, notes = fitted((Prompt(Box(-1, 10, 101, 50.5)), Prompt(Box(1, 2, 3, 4))), 50, 100)
    assert [prompt.box for prompt in prompts] == [Box(0, 10, 100, 50), Box(1, 2, 3, 4)]
    assert notes == ["the box reached over the edge and was cut to 0,10,100,50"]


@pytest.mark.parametrize("box", [Box(90, 10, 150, 20), Box(-20, -20, -1, -1), Box(200, 0, 210, 5)])
def test_a_box_that_lies_mostly_elsewhere_is_refused(box: Box) -> None:
    with pytest.raises(OptionError, match="reaches out of the image"):
        fitted((Prompt(box),), 50, 100)
