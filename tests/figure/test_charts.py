from __future__ import annotations

import numpy as np
import pytest

from zoo import figure as fig
from zoo.figure.charts import ticks


def share_of(picture, ink: tuple[int, int, int]) -> float:
    return float((np.abs(np.asarray(picture).astype(int) - ink).sum(-1) < 40).mean())


def test_a_bar_is_as_long_as_its_probability() -> None:
    half, whole = (share_of(fig.bars({"a": p}), fig.colour(5)) for p in (0.5, 1.0))
    assert half / whole == pytest.approx(0.5, abs=0.02)
    assert share_of(fig.bars({"a": 0.0}), fig.colour(5)) == 0


def test_bars_take_the_colours_of_their_classes() -> None:
    picture = fig.bars({"a": 0.5, "b": 0.5}, colours={"b": fig.colour(6)})
    assert share_of(picture, fig.colour(6)) == pytest.approx(share_of(picture, fig.colour(5)), rel=0.05)


def test_groups_that_find_no_room_are_counted() -> None:
    groups = {f"class {i}": [fig.Bar("clean", 0.3), fig.Bar("poisoned", 0.6)] for i in range(7)}
    told, untold = (np.asarray(fig.grouped_bars(groups, rest=rest))[-20:] for rest in ("classes not shown", " "))
    assert (told != untold).any()


def test_every_line_of_the_chart_is_drawn() -> None:
    chart = fig.curves(
        {"DOS": [fig.Curve("no attack", [0.5, 0.7], fig.colour(5)), fig.Curve("LIE", [0.5, 0.6], fig.colour(6))]},
        low=0.4,
    )
    assert share_of(chart, fig.colour(5)) > 0
    assert share_of(chart, fig.colour(6)) > 0


def test_a_missing_column_is_a_dash_and_no_bar() -> None:
    chart = fig.columns(["2", "3"], {"all": [None, None], "pairs": [1.0, 2.0]})
    assert share_of(chart, fig.colour(1)) > 20 * share_of(chart, fig.colour(5))  # its key alone is blue


def test_a_matrix_is_black_where_it_is_full() -> None:
    full, empty = (np.asarray(fig.matrix(np.full((3, 3), v), "abc", rows="r", columns="c")) for v in (1.0, 0.0))
    assert full[200, 200].max() == 0
    assert empty[200, 200].min() == 255


@pytest.mark.parametrize(("low", "high"), [(0.4, 1.0), (0, 37), (0, 0.013), (-3, 900)])
def test_ticks_are_round_and_enclose_the_range(low: float, high: float) -> None:
    marks = ticks(low, high)
    assert marks[0] <= low + 1e-9
    assert marks[-1] >= high - 1e-9
    assert 2 <= len(marks) <= 7
    step = marks[1] - marks[0]
    assert f"{step:e}"[0] in "125"


def test_a_gauge_says_by_its_colour_whether_the_value_lies_in_the_band() -> None:
    within, beyond = (fig.gauge("liver, ml", value, (800.0, 1000.0, 1200.0)) for value in (900.0, 1500.0))
    assert share_of(within, fig.colour(5)) > 0.02 > share_of(within, fig.colour(6))
    assert share_of(beyond, fig.colour(6)) > 0.02 > share_of(beyond, fig.colour(5))
