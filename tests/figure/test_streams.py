"""Bars with limits, and the charts of a stream."""

from __future__ import annotations

import math

import numpy as np

from zoo.figure import colour, plots
from zoo.figure.limits import SHOWN, limited_bars
from zoo.figure.streams import Event, accuracy_matrix, timeline


def count(picture: object, ink: tuple[int, int, int]) -> int:
    return int((np.asarray(picture) == ink).all(-1).sum())


def test_the_chosen_bar_is_coloured_and_every_limit_marked():
    picture = limited_bars(["a", "b"], [1.0, 3.0], [2.0, 2.0], 0)
    assert count(picture, colour(5)) > 1000
    assert count(picture, colour(6)) > 200
    other = limited_bars(["a", "b"], [1.0, 3.0], [2.0, 2.0], 1)
    assert count(other, colour(5)) > 2 * count(picture, colour(5))


def test_infinite_and_many_bars_are_drawn():
    limited_bars(["a"], [math.inf], [0.0], 0)
    names = [str(i) for i in range(30)]
    picture = limited_bars(names, [float(i) for i in range(30)], [5.0] * 30, 29)
    assert count(picture, colour(5)) > 1000, f"the chosen one is shown, though it isn't among the first {SHOWN}"


def test_charts_of_a_stream_are_the_same_bytes_twice():
    def drawn() -> bytes:
        drawing, axes = plots.canvas("a test", 1, 2, size=(8, 3))
        accuracy_matrix(axes[0, 0], np.array([[0.9, math.nan], [0.4, 0.8]]), ("a", "b"), title="accuracy")
        events = [Event("a", 1, "new"), Event("b", 2, "new", "nearest 1"), Event("c", 1, "updated")]
        timeline(axes[0, 1], events, {"new": "new", "updated": "updated"}, title="decisions")
        assert [text.get_text() for text in axes[0, 0].texts] == ["0.90", "0.40", "0.80"]
        return plots.png(drawing)

    assert drawn() == drawn()
