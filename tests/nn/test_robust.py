"""Distances, COPOD and the weights of DOS, and what each rule makes of flat updates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.errors import DataError, OptionError
from zoo.nn.robust import BLOCK, copod, distance_tables, dos_weights, rule_of, squared_distances


def test_distances_are_exact_for_near_copies_far_from_the_origin() -> None:
    base = 1e3 + torch.randn(50, dtype=torch.float64)
    updates = torch.stack([base, base + 1e-9, base])
    table = squared_distances(updates)
    assert table[0, 2] == 0
    assert float(table[0, 1]) == pytest.approx(50e-18, rel=1e-3)
    assert torch.equal(table, table.T)


@given(n=st.integers(1, 6), d=st.integers(1, 30), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_tables_agree_with_the_definitions(n: int, d: int, seed: int) -> None:
    updates = torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d)))
    euclidean, cosine = distance_tables(updates)
    torch.testing.assert_close(euclidean, torch.cdist(updates, updates, compute_mode="donot_use_mm_for_euclid_dist"))
    unit = torch.nn.functional.normalize(updates, dim=1)
    torch.testing.assert_close(cosine, 1 - unit @ unit.T, atol=1e-12, rtol=1e-9)


def test_blocks_of_coordinates_add_up() -> None:
    updates = torch.randn(3, BLOCK + 7)
    expected = torch.cdist(updates.double(), updates.double(), compute_mode="donot_use_mm_for_euclid_dist").square()
    torch.testing.assert_close(squared_distances(updates), expected)


def test_updates_that_are_not_finite_are_refused() -> None:
    with pytest.raises(DataError, match="not finite"):
        squared_distances(torch.tensor([[0.0], [float("inf")]]))


@pytest.mark.parametrize(
    ("table", "scores"),
    [  # decision_scores_ of pyod 3.6.7's COPOD
        (
            [[0, 3, 4], [3, 0, 5], [4, 5, 0], [9, 8, 7], [3, 0, 5]],
            [2.231835311857196, 1.1921145410172778, 3.4420193761824103, 4.023594781085251, 1.1921145410172778],
        ),
        (
            [
                [0.68, 1.02, 0.02, 0.0], [0.55, 1.63, 0.67, 0.76], [2.82, 6.06, 3.29, 0.0], [2.27, 0.07, 1.07, 0.85],
                [3.15, 0.35, 0.31, 1.49], [0.04, 0.14, 1.03, 0.77], [1.74, 0.41, 0.45, 1.85], [1.73, 0.32, 0.21, 1.22],
                [0.54, 0.85, 1.05, 1.23], [2.93, 0.15, 1.47, 1.12],
            ],
            [
                4.880993995131214, 4.61936992324894, 6.928166276242265, 3.6848953692893476, 3.324236340526027,
                4.769422219474109, 3.0829089671263796, 2.823512070418796, 4.155577554002483, 3.782381706463104,
            ],
        ),
    ],
)  # fmt: skip
def test_copod_scores_rows_as_its_reference_does(table: list[list[float]], scores: list[float]) -> None:
    torch.testing.assert_close(copod(torch.tensor(table, dtype=torch.float64)), torch.tensor(scores).double())


@given(n=st.integers(2, 12), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_dos_weights_add_up_and_treat_equal_updates_alike(n: int, seed: int) -> None:
    updates = torch.from_numpy(np.random.default_rng(seed).normal(size=(n, 20)))
    updates[-1] = updates[0]
    weights = dos_weights(updates)
    assert float(weights.sum()) == pytest.approx(1)
    assert weights[0] == weights[-1]
    assert (weights > 0).all()


def test_dos_gives_all_equal_updates_the_same_weight() -> None:
    torch.testing.assert_close(dos_weights(torch.ones(4, 3)), torch.full((4,), 0.25, dtype=torch.float64))


def test_dos_suppresses_an_update_that_lies_apart() -> None:
    updates = torch.from_numpy(np.random.default_rng(0).normal(size=(10, 40)))
    updates[3] += 30
    assert int(dos_weights(updates).argmin()) == 3


# ---- rules -----------------------------------------------------------------------------------------------------------


def clouds(seed: int = 0, n: int = 10, d: int = 30) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d)))


def test_fedavg_averages_by_cases() -> None:
    vectors = clouds(n=2)
    combined = rule_of("fedavg", 2, 0)(vectors, [3, 1]).vector
    torch.testing.assert_close(combined, 0.75 * vectors[0] + 0.25 * vectors[1])


@pytest.mark.parametrize("seed", range(4))
def test_krum_is_its_definition(seed: int) -> None:
    vectors = clouds(seed)
    squares = torch.cdist(vectors, vectors).square()
    scores = [float(squares[i, [j for j in range(10) if j != i]].sort().values[:4].sum()) for i in range(10)]
    assert rule_of("krum", 10, 4)(vectors, [1] * 10).picked == int(np.argmin(scores))


def test_krum_as_released_counts_itself_and_stops_where_the_paper_goes_on() -> None:
    vectors = clouds(2)
    squares = torch.cdist(vectors, vectors).square()
    scores = squares.sort(1).values[:, : 10 - 3 - 2].sum(1)  # each row's own 0 among them
    assert rule_of("krum-released", 10, 3)(vectors, [1] * 10).picked == int(scores.argmin())
    with pytest.raises(OptionError, match=r"more than 2 f \+ 2 clients, and there are 10 with 4"):
        rule_of("krum-released", 10, 4)


def test_dos_by_sums_is_twice_as_sharp() -> None:
    vectors = clouds()
    mean, both = (rule_of(rule, 10, 3)(vectors, [1] * 10).weights for rule in ("dos", "dos-sum"))
    ratios = [np.log(np.asarray(w) / w[0]) for w in (mean, both)]
    np.testing.assert_allclose(ratios[1], 2 * ratios[0], atol=1e-12)


@pytest.mark.parametrize(("n", "f"), [(5, 2), (7, 3), (9, 4), (29, 14), (10, 3)])
def test_trimmed_mean_drops_the_true_number_on_each_side(n: int, f: int) -> None:
    vectors = clouds(n=n)
    expected = vectors.sort(0).values[f : n - f].mean(0)
    torch.testing.assert_close(rule_of("trimmed-mean", n, f)(vectors, [1] * n).vector, expected)


def test_trimmed_mean_drops_a_stated_share_instead() -> None:
    vectors = clouds(n=10)
    expected = vectors.sort(0).values[1:9].mean(0)
    torch.testing.assert_close(rule_of("trimmed-mean", 10, 4, trim=0.1)(vectors, [1] * 10).vector, expected)


@pytest.mark.parametrize(("rule", "attackers"), [("krum", 2), ("trimmed-mean", 2)])
def test_robust_rules_ignore_outliers(rule: str, attackers: int) -> None:
    vectors = torch.stack([torch.full((3,), 1e6 if i < attackers else 1 + i / 100) for i in range(9)]).double()
    combined = rule_of(rule, 9, attackers)(vectors, [1] * 9)  # type: ignore[arg-type]
    assert (combined.vector - 1).abs().max() < 0.2


@pytest.mark.parametrize("rule", ["fedavg", "krum", "trimmed-mean", "dos"])
def test_a_majority_of_attackers_is_refused_under_every_rule(rule: str) -> None:
    with pytest.raises(OptionError, match="use at most 4"):
        rule_of(rule, 10, 5)  # type: ignore[arg-type]
