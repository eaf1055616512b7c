"""Sensitivity and specificity over all cut-offs, by counting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.errors import DataError
from zoo.metrics import auroc, balanced_accuracy, dice, recalls, roc, youden

labelled = st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=40).filter(
    lambda rows: len({label for _, label in rows}) == 2
)


def arrays(rows: list[tuple[int, bool]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([score for score, _ in rows], float), np.array([label for _, label in rows], int)


@given(rows=labelled)
def test_every_cut_off_gives_what_counting_gives(rows: list[tuple[int, bool]]):
    scores, truth = arrays(rows)
    cuts, sensitivity, specificity = roc(scores, truth)
    assert len(cuts) == len(set(scores)) + 1
    for cut, sn, sp in zip(cuts, sensitivity, specificity, strict=True):
        assert sn == pytest.approx((scores[truth == 1] >= cut).mean())
        assert sp == pytest.approx((scores[truth == 0] < cut).mean())


@given(rows=labelled)
def test_the_area_is_the_share_of_pairs_in_order(rows: list[tuple[int, bool]]):
    scores, truth = arrays(rows)
    gaps = scores[truth == 1][:, None] - scores[truth == 0]
    assert auroc(scores, truth) == pytest.approx(((gaps > 0) + 0.5 * (gaps == 0)).mean())


@given(rows=labelled)
def test_no_cut_off_beats_youdens_and_it_keeps_its_promise(rows: list[tuple[int, bool]]):
    scores, truth = arrays(rows)
    cut, balanced = youden(scores, truth)
    assert balanced == pytest.approx(((scores[truth == 1] >= cut).mean() + (scores[truth == 0] < cut).mean()) / 2)
    for other in (*scores, np.inf):
        found = ((scores[truth == 1] >= other).mean() + (scores[truth == 0] < other).mean()) / 2
        assert found <= balanced + 1e-12


def test_the_cut_off_lies_between_the_classes():
    assert youden(np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 0, 1, 1])) == (0.5, 1.0)


def test_one_label_has_no_curve():
    with pytest.raises(DataError, match="cases of both labels"):
        roc(np.array([0.1, 0.2]), np.array([1, 1]))


def test_dice_of_two_masks():
    a = np.array([1, 1, 0, 0], bool)
    assert dice(a, a) == dice(a & ~a, a & ~a) == 1
    assert dice(a, ~a) == 0
    assert dice(a, np.array([1, 0, 0, 0], bool)) == pytest.approx(2 / 3)
    assert dice(a & ~a, a & ~a, empty=0.0) == 0


def test_scores_of_any_size_are_taken_as_they_are():
    logits, truth = np.array([-800.0, 40.0, 40.0 + 1e-12, 900.0]), np.array([0, 0, 1, 1])
    assert auroc(logits, truth) == 1.0  # a sigmoid would make 40 and 900 one score
    assert roc(logits, truth)[0].tolist() == [np.inf, 900.0, 40.0 + 1e-12, 40.0, -800.0]


def test_rates_are_exact_in_double_precision():
    _, sensitivity, specificity = roc(np.arange(10.0), np.array([0, 1, 1, 0, 0, 1, 0, 0, 0, 0]))
    assert sensitivity.tolist() == [0, 0, 0, 0, 0, 1 / 3, 1 / 3, 1 / 3, 2 / 3, 1, 1]
    assert specificity.tolist() == [1 - k / 7 for k in (0, 1, 2, 3, 4, 4, 5, 6, 6, 6, 7)]


def test_ties_count_half():
    assert auroc(np.array([1.0, 1.0, 0.0, 2.0]), np.array([0, 1, 0, 1])) == 0.875


def test_recall_of_each_class_and_their_mean_over_those_that_are_there():
    found, truth = np.array([0, 0, 2, 2, 3, 2]), np.array([0, 0, 0, 2, 2, 2])
    by_class = recalls(found, truth, 4)
    assert by_class[[0, 2]].tolist() == [2 / 3, 2 / 3]
    assert np.isnan(by_class[[1, 3]]).all()
    assert balanced_accuracy(found, truth) == 2 / 3
    assert balanced_accuracy(np.array([1, 1, 1]), np.array([1, 1, 0])) == 0.5
    assert np.isnan(balanced_accuracy(truth[:0], truth[:0]))
