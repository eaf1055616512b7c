from __future__ import annotations

import numpy as np

from zoo import figure as fig

GREY = np.full((40, 60), 0.5, np.float32)


def test_a_contour_leaves_the_inside_free() -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 10:50] = 1
    picture = np.asarray(fig.contour(GREY, mask)).astype(int)
    assert np.abs(picture[170, 256] - 128).max() <= 1
    assert (np.abs(picture - fig.colour(1)).sum(-1) == 0).sum() > 500


def test_a_label_at_the_edge_has_no_rim_at_the_opposite_edge() -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[:, :5] = 1
    right = np.asarray(fig.overlay(GREY, mask))[:, -1]
    assert (right == np.asarray(fig.to_picture(GREY))[:, -1]).all()


def test_heat_is_strongest_where_values_are() -> None:
    values = np.zeros((2, 2), np.float32)
    values[0, 0] = 1
    change = np.abs(np.asarray(fig.heat_over(GREY, values, (0.0, 0.5))).astype(int) - 128).sum(-1)
    assert change[5, 5] > 30
    assert change[-5, -5] <= 3


def test_points_that_coincide_mix_their_colours() -> None:
    here = np.array([[5.0, 5.0]])
    both = fig.point_overlay([(here, (200, 0, 0)), (here, (0, 0, 200))], (0, 0, 10, 10), side=40)
    assert (both[20, 20] == (100, 0, 100)).all()
    assert (both[0] == 255).all()


def test_a_frame_goes_around_its_box() -> None:
    picture = np.asarray(fig.framed(fig.to_picture(np.full((50, 50), 0.5, np.float32)), (0.2, 0.2, 0.6, 0.6)))
    assert (picture[103, 200] == 0).any() or (picture[103, 200] == 255).any()
    assert (picture[200, 200] == 128).all()
