"""Measures of objects, against cases counted by hand and the definitions written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.errors import DataError
from zoo.metrics.instances import aji, object_dice, object_f1, overlaps

TRUTH = np.array([[1, 1, 1, 1, 0, 0, 2, 2, 2, 2]])


def maps(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    found, truth = (np.kron(rng.integers(0, rng.integers(1, 6), (4, 5)), np.ones((2, 2), int)) for _ in range(2))
    return found * 7, truth  # numbers with gaps


@given(seed=st.integers(0, 300))
def test_they_are_their_definitions_written_out(seed: int) -> None:
    found, truth = maps(seed)
    objects = [[labels == value for value in np.unique(labels) if value] for labels in (truth, found)]
    g, p = objects
    table = overlaps(found, truth)
    assert table.truth.tolist() == [int(one.sum()) for one in g]
    assert table.found.tolist() == [int(one.sum()) for one in p]
    if not g or not p:
        assert math.isnan(aji(table)) if not g and not p else aji(table) == object_dice(table) == object_f1(table) == 0
        return
    shared, whole, taken = 0, 0, set()
    for one in g:
        best = max(range(len(p)), key=lambda j: (one & p[j]).sum() / (one | p[j]).sum())
        if (one & p[best]).any():
            taken.add(best)
            shared, whole = shared + (one & p[best]).sum(), whole + (one | p[best]).sum()
        else:
            whole += one.sum()
    whole += sum(p[j].sum() for j in range(len(p)) if j not in taken)
    assert aji(table) == pytest.approx(shared / whole)

    def half(own: list[np.ndarray], other: list[np.ndarray]) -> float:
        total = 0.0
        for one in own:
            partner = max(other, key=lambda b: (one & b).sum())
            total += one.sum() * 2 * (one & partner).sum() / (one.sum() + partner.sum())
        return total / sum(one.sum() for one in own)

    assert object_dice(table) == pytest.approx((half(g, p) + half(p, g)) / 2)


def test_a_perfect_answer_scores_one_whatever_its_numbers() -> None:
    table = overlaps(np.array([[9, 9, 9, 9, 0, 0, 40, 40, 40, 40]]), TRUTH)
    assert aji(table) == object_dice(table) == object_f1(table) == 1


def test_half_of_an_object_is_a_detection_and_less_is_not() -> None:
    half, less = TRUTH.copy(), TRUTH.copy()
    half[0, 8:], less[0, 7:] = 0, 0
    assert object_f1(overlaps(half, TRUTH)) == 1
    assert object_f1(overlaps(less, TRUTH)) == 0.5  # one right, one wrong, one missed


def test_joined_objects_cost_one_object_and_its_share_of_the_index() -> None:
    joined = (TRUTH > 0).astype(int)
    table = overlaps(joined, TRUTH)
    assert aji(table) == 8 / 16  # both take the joined one: 4 of 8, twice
    assert object_f1(table) == pytest.approx(2 / 3)


@pytest.mark.wrong_types
def test_maps_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="can't be compared"):
        overlaps(TRUTH[:, :3], TRUTH)
    with pytest.raises(DataError, match="holds -1"):
        overlaps(-TRUTH // 2, TRUTH)


def test_numbers_far_beyond_the_pixels_need_no_memory() -> None:
    assert aji(overlaps(TRUTH * 10**9, TRUTH)) == 1
