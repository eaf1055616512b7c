"""The simulated user, and the measures of the literature."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo.metrics import iou
from zoo.nn.promptable import Point, Promptable, Session, Trace, click_scores, follow, next_click

TRUTH = np.zeros((30, 40), bool)
TRUTH[5:16, 10:31] = True  # its deepest line is row 10, columns 15 to 25


class Scripted(Session):
    """A session whose answers are given in advance."""

    def __init__(self, answers: list[np.ndarray]) -> None:
        self.answers, self.steps, self.given, self.seconds_to_encode = answers, [], [], 0.5

    @property
    def clicks(self):
        return tuple(self.given)

    @property
    def mask(self):
        return self.answers[min(len(self.given), len(self.answers)) - 1] if self.given else np.zeros_like(TRUTH)

    def click(self, x, y, label=1):
        self.given.append(Point(x, y, bool(label)))
        return self.mask


def test_the_first_click_is_the_deepest_place_of_the_object() -> None:
    point = next_click(TRUTH)
    assert point is not None
    assert point.inside
    assert point.y == 10
    assert 15 <= point.x <= 25


def test_what_is_missed_and_what_is_too_much_are_answered_by_their_own_label() -> None:
    surplus = TRUTH.copy()
    surplus[20:29, 0:9] = True
    point = next_click(TRUTH, surplus)
    assert point == Point(4.0, 24.0, inside=False)
    missed = surplus.copy()
    missed[:, 10:31] = False  # the object is missed altogether and is larger
    point = next_click(TRUTH, missed)
    assert point is not None
    assert point.inside


def test_depth_counts_the_edge_of_the_image_and_clicked_places_are_left_alone() -> None:
    whole = np.ones((9, 9), bool)
    assert next_click(whole) == Point(4.0, 4.0)
    assert next_click(whole, clicked=[Point(4.0, 4.0)]) != Point(4.0, 4.0)
    assert next_click(whole, whole) is None
    one = np.zeros((9, 9), bool)
    one[3, 3] = True
    assert next_click(one, clicked=[Point(3.0, 3.0)]) is None  # nothing is left to say


@given(seed=st.integers(0, 1000))
def test_drawn_clicks_lie_in_the_error_and_more_than_half_as_deep_as_its_middle(seed: int) -> None:
    rng = np.random.default_rng(seed)
    point = next_click(TRUTH, rng=rng)
    assert point is not None
    assert 8 <= point.y <= 12  # depth is 6 in the middle, so more than 3 here
    assert 13 <= point.x <= 27


@pytest.mark.wrong_types
def test_an_oracle_needs_one_click_and_a_blank_decoder_all_of_them() -> None:
    perfect = follow(Scripted([TRUTH]), TRUTH)
    assert perfect.iou == (1.0,)
    blank = follow(Scripted([np.zeros_like(TRUTH)]), TRUTH)
    assert len(blank.iou) == 20
    assert len(set(blank.clicks)) == 20
    for trace, clicks, failed in ((perfect, 1.0, 0.0), (blank, 20.0, 1.0)):
        scores = click_scores(trace)
        assert {scores[f"noc_{q}"] for q in (80, 85, 90)} == {clicks}
        assert {scores[f"nof_{q}"] for q in (80, 85, 90)} == {failed}


def test_clicks_are_counted_to_each_target_and_the_last_value_is_carried_on() -> None:
    trace = Trace((Point(0, 0),) * 3, (0.5, 0.85, 0.82), (0.1, 0.2, 0.3), 2.0)
    assert [trace.clicks_to(q) for q in (0.5, 0.8, 0.85, 0.9)] == [1, 2, 2, 20]
    assert trace.fails(0.9)
    assert not trace.fails(0.85)
    scores = click_scores(trace)
    assert scores["iou_10"] == scores["iou_20"] == 0.82
    assert scores["spc"] == pytest.approx(0.2)
    assert scores["seconds_to_encode"] == 2.0


def test_iou_of_nothing_is_perfect() -> None:
    empty = np.zeros((3, 3), bool)
    assert iou(empty, empty) == 1.0
    assert iou(empty, ~empty) == 0.0


def test_a_simulated_user_stops_when_the_mask_is_good_enough(sam) -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)

    def answer(embedded, prompts):
        return embedded.frame.low(torch.from_numpy(TRUTH).float()[None], 32) * 16 - 8

    trace = follow(Session(Promptable(sam), image, answer), TRUTH, until=0.7)
    assert len(trace.clicks) == 1
    assert trace.iou[0] > 0.7
