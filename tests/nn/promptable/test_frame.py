"""An image in SAM's square and the way back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo.errors import OptionError
from zoo.nn.promptable import Box, Frame, Mask, Point, Prompt
from zoo.nn.promptable.frame import MASK_LOGIT, MEAN, STD

sides = st.integers(1, 3000)
frames = st.builds(Frame, sides, sides, st.sampled_from([64, 256, 1024]), st.sampled_from(["pad", "stretch"]))


@given(frame=frames, x=st.floats(0, 1), y=st.floats(0, 1))
def test_coordinates_come_back(frame: Frame, x: float, y: float) -> None:
    xy = torch.tensor([x * frame.width, y * frame.height], dtype=torch.float64)
    inside = frame.into(xy)
    height, width = frame.inner
    assert -1e-9 <= inside[0] <= width + 1e-9
    assert -1e-9 <= inside[1] <= height + 1e-9
    torch.testing.assert_close(frame.out_of(inside), xy)


@given(frame=frames)
def test_the_image_fills_the_square_along_its_longer_side(frame: Frame) -> None:
    height, width = frame.inner
    assert max(height, width) == frame.size
    if frame.fit == "pad" and min(frame.height, frame.width) > 30:
        assert height / width == pytest.approx(frame.height / frame.width, rel=0.05 + 1 / min(height, width))


def test_a_rectangle_keeps_its_place_through_the_square_and_back() -> None:
    frame = Frame(90, 200, 128)
    mask = torch.zeros(1, 90, 200)
    mask[0, 20:70, 50:150] = 1
    low = frame.low(mask, 32)
    assert low.shape == (1, 1, 32, 32)
    assert not low[0, 0, 15:].any()  # the padding below: 90 of 200 is 58 of 128 rows
    back = frame.logits(low - 0.5)[0, 0] > 0
    assert (back == (mask[0] > 0)).float().mean() > 0.97


def test_pixels_are_scaled_by_sams_mean_and_deviation_and_the_rest_is_zero() -> None:
    frame = Frame(30, 60, 64)
    image = torch.full((30, 60, 3), 200, dtype=torch.uint8)
    pixels = frame.pixels(image)
    assert pixels.shape == (1, 3, 64, 64)
    expected = (200 - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(pixels[0, :, :32], expected[:, None, None].expand(3, 32, 64))
    assert not pixels[0, :, 32:].any()


def test_stretching_scales_both_sides_by_themselves() -> None:
    frame = Frame(50, 200, 100, "stretch")
    assert frame.inner == (100, 100)
    torch.testing.assert_close(frame.into(torch.tensor([200.0, 50.0])), torch.tensor([100.0, 100.0]))


def test_prompts_of_several_objects_become_one_batch() -> None:
    frame = Frame(50, 100, 64)
    inside = np.zeros((50, 100), bool)
    inside[10:20, 10:30] = True
    given = frame.tensors(
        [
            Prompt(Box(0, 0, 100, 50), (Point(10, 20),), Mask(inside)),
            Prompt(Box(50, 25, 100, 50), (Point(50, 25), Point(0, 0, inside=False)), Mask(inside)),
        ],
        16,
    )
    torch.testing.assert_close(given.boxes, torch.tensor([[[0.0, 0, 64, 32], [32.0, 16, 64, 32]]]))
    torch.testing.assert_close(given.points[0, 0, 0], torch.tensor([6.4, 12.8]))
    assert given.labels.tolist() == [[[1, -10], [1, 0]]]
    assert given.masks.shape == (2, 1, 16, 16)
    assert given.masks.max() <= MASK_LOGIT
    assert given.masks[0, 0, 2, 3] > 0 > given.masks[0, 0, 1, 14]
    assert (given.masks[0, 0, 9:] == 0).all()  # no image there, nothing known


def test_a_prompt_off_the_image_is_refused_and_a_mixture_is_an_error_of_the_program() -> None:
    frame = Frame(50, 100, 64)
    with pytest.raises(OptionError, match="reaches out"):
        frame.tensors([Prompt(Box(0, 0, 10, 60))], 16)
    with pytest.raises(ValueError, match="either all prompts"):
        frame.tensors([Prompt(Box(0, 0, 10, 10)), Prompt(points=(Point(1, 1),))], 16)


def test_gradients_reach_a_point_through_the_frame() -> None:
    xy = torch.tensor([10.0, 20.0], requires_grad=True)
    Frame(50, 100, 64).into(xy).sum().backward()
    torch.testing.assert_close(xy.grad, torch.tensor([0.64, 0.64]))
