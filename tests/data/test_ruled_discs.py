"""Discs with a cue in them and a short cut beside them."""

from __future__ import annotations

import numpy as np

from zoo.data.ruled_discs import SIZE, RuledDiscs


def test_the_ruler_follows_the_stripes_as_often_as_asked_and_lies_mostly_beside_the_disc():
    for bias, low, high in ((0.95, 0.88, 1.0), (0.05, 0.0, 0.12)):
        made = RuledDiscs(200, bias, np.random.default_rng(0))
        follows = (made.ruler.any((1, 2)) == (made.y == 1)).mean()
        assert low <= follows <= high
        assert (made.ruler & made.lesion).mean() < 0.005
        assert made.views.shape == (200, SIZE, SIZE, 3)
        assert 0.4 < made.y.mean() < 0.6


def test_stripes_change_the_disc_and_nothing_beside_it():
    made = RuledDiscs(400, 0.5, np.random.default_rng(1))
    values = made.views.astype(float).mean(-1)
    spread = {y: np.mean([values[i][made.lesion[i]].std() for i in np.flatnonzero(made.y == y)]) for y in (0, 1)}
    beside = {
        y: np.mean([values[i][~made.lesion[i] & ~made.ruler[i]].std() for i in np.flatnonzero(made.y == y)])
        for y in (0, 1)
    }
    assert spread[1] > spread[0] + 3
    assert abs(beside[1] - beside[0]) < 1
