"""Bars below phrases, and sorted values with marks."""

from __future__ import annotations

import numpy as np
import pytest

from zoo.figure.phrases import PhraseBar, pale_to_dark, phrase_bars, sorted_curve


def test_bars_of_either_sign_start_at_one_zero():
    ink = (200, 30, 30)
    pixels = np.asarray(phrase_bars({"a": [PhraseBar("for", 2.0, ink), PhraseBar("against", -1.0, ink)]}))
    rows, columns = np.nonzero((pixels == ink).all(2))
    positive, negative = (columns[(rows < 60)], columns[(rows > 70)])
    assert negative.max() < positive.min() + 4
    assert np.ptp(positive) == pytest.approx(2 * np.ptp(negative), rel=0.05)


def test_phrases_without_room_are_counted_and_long_ones_cut():
    some = [PhraseBar("a very long phrase " * 20, 1.0, (0, 0, 0), "0.1")] * 40
    assert phrase_bars({"a": some, "b": some[:2]}).size == (512, 512)


def test_marked_values_stand_under_the_curve_at_their_rank():
    values, marked = np.linspace(0, 1, 50), np.arange(50) >= 25
    picture = np.asarray(sorted_curve(values, marked, names=("kept", "all"), y="score", x="rank"))
    blue = (np.abs(picture.astype(int) - (230, 159, 0)).sum(2) < 60) | (
        np.abs(picture.astype(int) - (86, 180, 233)).sum(2) < 60
    )
    _, columns = np.nonzero(blue[100:440])
    assert columns.max() < 70 + (512 - 86) * 0.55  # the higher half, at the left


@pytest.mark.parametrize("values", [np.zeros(0), np.zeros(1), np.zeros(5), np.array([-1.0, 1.0])])
def test_few_or_equal_values_are_drawn(values: np.ndarray):
    assert sorted_curve(values, values > 0, names=("kept", "all"), y="score", x="rank").size == (512, 512)


def test_shades_keep_their_order_in_grey():
    grey = [sum(pale_to_dark(share)) for share in (0.0, 0.3, 0.7, 1.0)]
    assert grey == sorted(grey, reverse=True)
