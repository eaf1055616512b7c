from __future__ import annotations

import sys

import numpy as np
import pytest

from zoo.errors import MissingExtraError
from zoo.figure import plots
from zoo.figure.plots import Interval, Line, Points


def axis():
    drawing, axes = plots.canvas("a test", size=(4, 3))
    return drawing, axes[0, 0]


def test_without_matplotlib_one_sentence_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match="the chart of a training needs the library matplotlib"):
        plots.canvas("the chart of a training", size=(4, 3))


def test_the_same_chart_has_the_same_bytes() -> None:
    both = []
    for _ in range(2):
        drawing, at = axis()
        plots.lines(at, [Line("loss", [0, 1], [1, 0.5])], title="loss", legend="outside")
        both.append(plots.png(drawing))
    assert both[0] == both[1]
    assert both[0].startswith(b"\x89PNG")


def test_lines_differ_by_colour_then_by_dash() -> None:
    _, at = axis()
    plots.lines(at, [Line(str(i), [0, 1], [i, i]) for i in range(12)])
    styles = [(line.get_color(), line.get_linestyle()) for line in at.get_lines()]
    assert len(set(styles)) == 12


def test_a_logarithmic_axis_names_round_numbers_alone() -> None:
    drawing, at = axis()
    plots.lines(at, [Line("d", [0, 1], [0.01, 8])], log=True)
    plots.png(drawing)
    texts = {tick.get_text() for tick in at.get_yticklabels(which="both")} - {""}
    assert {"0.01", "0.1", "1"} <= texts
    assert all(text.lstrip("0.")[0] in "125" for text in texts)


def test_intervals_show_the_numbers_and_stay_within_shares() -> None:
    _, at = axis()
    plots.intervals(at, [Interval("dice", 0.8, 0.7, 0.9, [0.7, 0.9]), Interval("iou", 0.6, float("nan"), float("nan"))])
    assert [text.get_text() for text in at.texts] == ["0.800", "0.600"]
    assert at.get_xlim() == (-0.02, 1.02)
    assert [tick.get_text() for tick in at.get_yticklabels()] == ["dice", "iou"]


def test_a_matrix_counts_the_truth_in_rows() -> None:
    _, at = axis()
    plots.confusion(at, np.array([[5, 1], [0, 9]]), ["benign", "malignant"])
    assert [text.get_text() for text in at.texts] == ["5", "1", "0", "9"]
    assert (at.get_xlabel(), at.get_ylabel()) == ("predicted", "truth")


def test_a_square_plane_holds_all_points_and_the_circle() -> None:
    _, at = axis()
    plots.scatter(at, [Points("a", [[3, 1]], (0, 0, 0))], circle=2.0, circle_name="limit", square=True)
    assert at.get_xlim()[0] < -2
    assert at.get_xlim()[1] > 3


def test_stacked_bars_name_their_totals() -> None:
    _, at = axis()
    plots.stacked(at, ["client 0", "client 1"], {"a": [3, 1], "b": [4, 0]}, legend="outside")
    assert [text.get_text() for text in at.texts] == ["7", "1"]
    assert [text.get_text() for text in at.get_legend().get_texts()] == ["a", "b"]


def test_paths_leave_out_what_is_not_finite() -> None:
    _, at = axis()
    plots.paths(at, ["a", "b"], [[0.5, 0.7], [float("nan"), 0.9]])
    means = [line.get_ydata()[0] for line in at.get_lines() if line.get_linewidth() == 2.5]
    assert means == pytest.approx([0.6, 0.9])


def test_histograms_share_their_bins() -> None:
    _, at = axis()
    plots.histogram(at, {"in": np.zeros(5), "out": np.ones(7)}, bins=4)
    assert at.get_ylim()[1] >= 7
    assert {text.get_text() for text in at.get_legend().get_texts()} == {"in", "out"}


def test_a_legend_below_covers_no_line() -> None:
    drawing, at = axis()
    plots.lines(at, [Line("fog", [0, 5], [1, 0.0]), Line("jpeg", [0, 5], [1, 0.9])], x="severity", legend="below")
    plots.png(drawing)
    assert at.get_legend().get_window_extent().y1 < at.get_window_extent().y0
