from __future__ import annotations

import numpy as np
import pytest

from zoo import figure as fig

GREY = np.full((40, 60), 0.5, np.float32)


def test_overlay_keeps_thin_structures_when_shrinking() -> None:
    mask = np.zeros((2000, 2000), np.uint8)
    mask[:, 1001] = 1
    plain = fig.to_picture(np.full((2000, 2000), 0.5, np.float32))
    painted = np.asarray(fig.overlay(plain, mask)).astype(int)
    changed = np.abs(painted - np.asarray(plain)).sum(axis=2).max(axis=1)
    assert (changed > 100).all()


def test_labels_have_distinct_colours_that_differ_in_grey_too() -> None:
    colours = [fig.colour(i) for i in range(1, 8)]
    assert len(set(colours)) == 7
    assert all(0 <= value <= 255 for colour in colours for value in colour)


def test_long_names_stay_inside_the_figure() -> None:
    entries = [fig.LegendEntry(f"a rather long label number {i}", fig.colour(i)) for i in range(1, 20)]
    picture = fig.compose(
        [fig.Panel("t" * 500, np.zeros((50, 50), np.uint8))], legend=entries, title="x" * 500, footer="y" * 500
    )
    edge = np.asarray(picture)[:, -8:]
    assert (edge == 255).all()


def test_a_scale_bar_is_drawn_where_spacing_is_known() -> None:
    black = np.zeros((64, 64), np.uint8)
    plain = np.asarray(fig.compose([fig.Panel("p", black)], title="", footer=""))
    scaled = np.asarray(fig.compose([fig.Panel("p", black, spacing=0.5, pixels=64)], title="", footer=""))
    assert (plain != scaled).any()


def test_a_long_title_goes_on_to_a_second_line_before_it_is_cut() -> None:
    narrow = fig.Panel("what is shown here is told", np.zeros((512, 140), np.uint8))
    short = fig.Panel("what", np.zeros((512, 140), np.uint8))
    assert fig.compose([narrow], title="", footer="").height > fig.compose([short], title="", footer="").height


def test_rows_stand_below_each_other_and_are_as_wide_as_the_widest() -> None:
    panel = fig.Panel("p", GREY)
    one = fig.rows([("first", [panel] * 3)], title="t", footer="f", side=100)
    two = fig.rows([("first", [panel] * 3), ("second", [panel])], title="t", footer="f", side=100)
    assert two.width == one.width
    assert two.height >= one.height + round(100 * 40 / 60)


@pytest.mark.parametrize("shape", [(30, 90), (90, 30), (50, 50)])
def test_tiles_keep_the_proportions_of_their_pictures(shape: tuple[int, int]) -> None:
    red = np.zeros((*shape, 3), np.uint8)
    red[..., 0] = 255
    sheet = np.asarray(fig.tiles([fig.Tile(red, ["name"])] * 3)).astype(int)
    shown = (sheet[..., 0] > 200) & (sheet[..., 1] < 60)
    first = shown[: sheet.shape[0] // 2, :256]
    rows, columns = np.flatnonzero(first.any(1)), np.flatnonzero(first.any(0))
    assert len(rows) / len(columns) == pytest.approx(shape[0] / shape[1], rel=0.05)


def test_slices_show_first_and_last() -> None:
    volume = np.zeros((20, 8, 8), np.float32)
    volume[0], volume[-1] = 1, 1
    sheet = np.asarray(fig.slices(volume, count=4).convert("L"))
    assert sheet[60, 128] == 255
    assert sheet[60, 384] == 0
    assert sheet[sheet.shape[0] // 2 + 60, 384] == 255
