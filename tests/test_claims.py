from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from zoo import claims
from zoo.claims import Claim, Comparison, budget, compare_all, paired, reproduce
from zoo.claims.statistics import holm
from zoo.errors import DataError, OptionError, PluginError


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "training"))
    import toy_plugin

    return toy_plugin


def outcome(differences, quick=False, **options):
    comparison = Comparison("new", "old", "dice", **options)
    results = {seed: {"old": {"dice": 10.0}, "new": {"dice": 10.0 + d}} for seed, d in enumerate(differences)}
    return compare_all([comparison], results, quick)[0]


@pytest.mark.parametrize(
    ("differences", "margin", "verdict", "reason"),
    [
        ([3, 3.2, 2.8, 3.1, 2.9], 2.0, "supported", "above 2, the margin"),
        ([3, 3.2, 2.8, 3.1, 2.9], 0.0, "supported", "above zero"),
        ([3, 3.2, 2.8, 3.1, 2.9], 2.9, "inconclusive", "includes 2.9, the margin"),
        ([-1, -1.2, -0.9], 0.0, "not supported", "ends below zero"),
        ([-1, -1.2, 0.1], 0.0, "inconclusive", "includes zero"),
        ([-0.13, 0.11, -0.12, 0.13, -0.0], 0.0, "inconclusive", "includes zero"),
        ([-0.12, 0.12, -0.11, 0.14, -0.02], 0.0, "inconclusive", "includes zero"),
        ([0, 0, 0], 0.0, "not supported", "excludes the claimed gain"),
        ([1, 1.1, 0.9, 1.0, 1.05], 2.0, "not supported", "ends below 2, the margin"),
        ([3, -1, 5, -0.5], 0.0, "inconclusive", "includes zero"),
        ([1.5, 2.4, 1.2, 2.2], 2.0, "inconclusive", "includes 2, the margin"),
        ([3, 3.1], 0.0, "inconclusive", "too few"),
        ([3, 3, 3], 2.0, "supported", "above 2, the margin"),
        ([3, math.nan, 3], 0.0, "inconclusive", "not finite"),
        ([], 0.0, "inconclusive", "no seed"),
    ],
)
def test_the_verdict_follows_the_rule(differences, margin, verdict, reason):
    found = outcome(differences, margin=margin)
    assert found.verdict == verdict
    assert reason in found.reason


def test_a_quick_run_proves_nothing():
    assert outcome([3, 3.2, 2.8, 3.1], quick=True).verdict == "inconclusive"


@pytest.mark.parametrize(
    ("differences", "verdict", "reason"),
    [
        ([-0.2, -0.1, -0.3, -0.2], "supported", "lies above -1"),
        ([3, 3.2, 2.8, 3.1], "supported", "lies above -1"),
        ([-0.5, -2.5, 1.5, 0.1], "inconclusive", "includes -1"),
        ([-1, -1.2, -1.1], "inconclusive", "includes -1"),
        ([-1.2, -1.3, -1.25], "not supported", "ends below -1, the tolerance"),
        ([-0.2, -0.1], "inconclusive", "too few"),
        ([-0.2, math.nan, -0.1], "inconclusive", "not finite"),
    ],
)
def test_a_tolerance_asks_for_no_more_than_keeping_up(differences, verdict, reason):
    found = outcome(differences, tolerance=1.0)
    assert found.verdict == verdict
    assert reason in found.reason
    assert outcome(differences, tolerance=1.0, quick=True).verdict == "inconclusive"


def test_no_gain_that_matters_has_to_be_shown_too():
    assert outcome([-0.1, 0.1, 0.05, -0.04], equivalence=0.5).verdict == "not supported"
    assert outcome([-0.9, 0.9, 0.5, -0.4], equivalence=0.5).verdict == "inconclusive"
    assert outcome([0.1, 0.11, 0.12, 0.1], equivalence=0.5).verdict == "supported"


def test_holms_correction_is_that_of_the_definition():
    p, levels = holm([0.01, 0.04, 0.03, math.nan])
    assert p == pytest.approx([0.03, 0.06, 0.06, math.nan], nan_ok=True)
    assert levels == pytest.approx([0.05 / 3, 0.025, 0.025, 0.05])
    rng = np.random.default_rng(3)
    for _ in range(50):
        values = rng.uniform(0, 0.2, 6)
        # of p, the largest over all that are as small or smaller of (how many are as large or larger) times it
        expected = [max(min(1, (values >= q).sum() * q) for q in values if q <= p) for p in values]
        assert holm(values.tolist())[0] == pytest.approx(expected)


def test_secondary_comparisons_are_corrected_for_their_number_and_the_primary_one_is_not():
    gain = [1.0, 0.2, 0.9, 0.15, 0.6]  # p = 0.033
    arms = {"old": {"dice": 10.0}, "new": {"dice": 0.0}, "other": {"dice": 10.0}}
    results = {s: {**arms, "new": {"dice": 10 + d}, "other": {"dice": 10 + 5 * (-1) ** s}} for s, d in enumerate(gain)}
    one, two, noise = (
        Comparison("new", "old", "dice"),
        Comparison("old", "new", "dice", "less"),
        ("other", "old", "dice"),
    )
    verdicts = [item.verdict for item in compare_all([one, two], results)]
    assert verdicts == ["supported", "supported"]
    first, second, third = compare_all([one, two, Comparison(*noise)], results)
    assert (first.verdict, second.verdict, third.verdict) == ("supported", "inconclusive", "inconclusive")
    assert second.p_t == pytest.approx(2 * first.p_t)
    assert "not after correction" in second.reason


def test_seeds_that_split_one_set_again_get_a_wider_interval():
    gain = [1.0, 0.6, 0.8, 0.7, 0.9, 0.8, 0.75, 0.85]
    plain, wide = outcome(gain), outcome(gain, resplit=397 / 1400)
    factor = math.sqrt((1 / 8 + 397 / 1400) / (1 / 8))  # Nadeau and Bengio 2003
    assert wide.high - wide.mean == pytest.approx(factor * (plain.high - plain.mean))
    assert (plain.mean, plain.verdict) == (wide.mean, wide.verdict)
    assert wide.p_t > plain.p_t


def test_less_can_be_better():
    assert outcome([-3, -3.2, -2.8], direction="less").verdict == "supported"
    assert outcome([-3, -3.2, -2.8], direction="less").mean == pytest.approx(3)


def test_statistics_agree_with_scipys_tests_of_pairs():
    from scipy import stats

    rng = np.random.default_rng(0)
    old, new = rng.normal(size=8), rng.normal(0.7, 1, size=8)
    mean, low, high, p_t, p_sign = paired((new - old).tolist())
    assert paired((new - old).tolist(), bound=0.5).p_t == pytest.approx(stats.ttest_1samp(new - old, 0.5).pvalue)
    test = stats.ttest_rel(new, old)
    interval = test.confidence_interval(0.95)
    assert (mean, low, high, p_t) == pytest.approx((np.mean(new - old), interval.low, interval.high, test.pvalue))
    assert p_sign == pytest.approx(stats.binomtest(int((new > old).sum()), 8).pvalue)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=12))
def test_statistics_hold_for_any_differences(differences):
    mean, low, high, p_t, p_sign = paired(differences)
    assert 0 < p_sign <= 1
    if len(differences) > 1:
        assert low <= mean <= high
        assert 0 <= p_t <= 1
    turned = paired([-d for d in differences])
    assert turned[0] == pytest.approx(-mean)
    assert turned[4] == pytest.approx(p_sign)


def test_a_reproduction_is_written_with_all_that_led_to_it(toy, tmp_path):
    result = reproduce(toy.plugin, out=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy-threshold.json", "toy-threshold.png"]
    record = json.loads((tmp_path / "toy-threshold.json").read_text())
    assert record["verdict"] == "supported"
    assert record["seeds"] == [0, 1, 2, 3, 4]
    assert record["complete"] is True
    assert record["claim"]["paper"]["better"] == {"dice": 69.63}
    assert {"torch", "numpy", "python", "medimg-zoo"} <= record["environment"].keys()
    assert [item["verdict"] for item in record["comparisons"]] == ["supported", "inconclusive", "not supported"]
    assert claims.load_result(tmp_path / "toy-threshold.json").to_dict() == result.to_dict()
    with Image.open(tmp_path / "toy-threshold.png") as plot:
        assert plot.width > 1000


def test_an_interrupted_reproduction_goes_on_and_ends_alike(toy, tmp_path, monkeypatch):
    whole = reproduce(toy.plugin, out=tmp_path / "whole")
    ran = []
    real = toy.arms

    def until_third(seed, *, quick):
        if len(ran) == 2:
            raise KeyboardInterrupt
        ran.append(seed)
        return real(seed, quick=quick)

    monkeypatch.setattr(toy, "arms", until_third)
    with pytest.raises(KeyboardInterrupt):
        reproduce(toy.plugin, out=tmp_path / "parts")
    partial = claims.load_result(tmp_path / "parts" / "toy-threshold.json")
    assert (partial.complete, sorted(partial.results)) == (False, [0, 1])

    def rest(seed, *, quick):
        ran.append(seed)
        return real(seed, quick=quick)

    monkeypatch.setattr(toy, "arms", rest)
    resumed = reproduce(toy.plugin, out=tmp_path / "parts")
    assert ran == [0, 1, 2, 3, 4]
    assert resumed.results == whole.results
    reproduce(toy.plugin, out=tmp_path / "parts")
    assert len(ran) == 5  # nothing left to do
    reproduce(toy.plugin, out=tmp_path / "parts", fresh=True, seeds=1)
    assert len(ran) == 6


def test_fewer_seeds_leave_the_others_where_they_are(toy, tmp_path):
    reproduce(toy.plugin, out=tmp_path)
    assert sorted(reproduce(toy.plugin, out=tmp_path, seeds=2).results) == [0, 1, 2, 3, 4]
    assert sorted(claims.load_result(tmp_path / "toy-threshold.json").results) == [0, 1, 2, 3, 4]


def test_conditions_that_falsify_are_evaluated(toy, tmp_path, monkeypatch):
    found = reproduce(toy.plugin, out=tmp_path)
    better, pooled = toy.claim.falsified_if
    assert found.conditions == {better: "does not hold", pooled: "open"}
    real = toy.arms
    monkeypatch.setattr(
        toy, "arms", lambda seed, *, quick: {**(arms := real(seed, quick=quick)), "better": arms["plain"]}
    )
    found = reproduce(toy.plugin, out=tmp_path, fresh=True)
    assert found.conditions[better] == "holds"
    assert json.loads((tmp_path / "toy-threshold.json").read_text())["falsified_if"][better] == "holds"


def test_what_arms_spend_is_measured_and_compared(toy, tmp_path, monkeypatch):
    found = reproduce(toy.plugin, out=tmp_path)
    assert found.budgets[2] == {arm: {"updates": 1, "examples": 20} for arm in toy.claim.arms}
    assert budget.unequal(found.claim, found.budgets) == []
    real = toy.arms

    def longer(seed, *, quick):
        weight = torch.nn.Parameter(torch.zeros(1))
        with claims.spending("better"):
            torch.optim.Adam([weight]).step()
        return real(seed, quick=quick)

    monkeypatch.setattr(toy, "arms", longer)
    found = reproduce(toy.plugin, out=tmp_path, fresh=True, seeds=3)
    assert len(budget.unequal(found.claim, found.budgets)) == 3
    assert "better vs. plain, dice: not the same budget with seed 0" in found.doubts[0]
    told = replace(toy.claim, unequal={"better": "it needs a warm-up"})
    assert budget.unequal(told, found.budgets) == []


def test_few_seeds_are_excused_by_the_time_of_the_processor_not_by_a_busy_machine(toy, tmp_path):
    found = reproduce(toy.plugin, out=tmp_path, seeds=3)
    assert found.cpu_seconds.keys() == found.results.keys()
    assert claims.load_result(tmp_path / "toy-threshold.json").cpu_seconds.keys() == found.results.keys()
    busy = replace(found, wall_seconds=dict.fromkeys(found.results, 500.0))
    assert any(doubt.startswith("3 seeds of") for doubt in busy.doubts)
    slow = replace(busy, cpu_seconds=busy.wall_seconds)
    assert not any(doubt.startswith("3 seeds of") for doubt in slow.doubts)
    why = "Seeds 0, 1, 2 (3, for one takes 500 s of the processor; where it takes less than 120 s there are 8); "
    assert why in claims.page_of([slow])
    assert "(3, for" not in claims.page_of([replace(busy, wall_seconds=found.wall_seconds)])


def test_an_arm_that_may_stop_early_has_the_budget_that_it_was_given():
    weight = torch.nn.Parameter(torch.zeros(1))
    sgd = torch.optim.SGD([weight], lr=0.1)
    with budget.ledger() as spent:
        with claims.spending("early", "both", at_most=5):
            sgd.step()
        with claims.spending("both"):
            sgd.step()
    assert {name: one.updates for name, one in spent.items()} == {"early": 5, "both": 6}

    def too_long():
        with claims.spending("early", at_most=1):
            sgd.step()
            sgd.step()

    with pytest.raises(PluginError, match="made 2 steps, more than the 1"):
        too_long()


def test_every_seed_runs_on_one_thread(toy, tmp_path, monkeypatch):
    real, threads = toy.arms, []
    monkeypatch.setattr(
        toy, "arms", lambda seed, *, quick: threads.append(torch.get_num_threads()) or real(seed, quick=quick)
    )
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = reproduce(toy.plugin, out=tmp_path)
        assert (set(threads), torch.get_num_threads()) == ({1}, 2)
    finally:
        torch.set_num_threads(before)
    assert found.environment["threads"] == 1


def test_two_readings_of_a_paper_have_verdicts_of_their_own(toy, tmp_path):
    printed, released = replace(toy.claim.primary, recipe="paper"), replace(toy.claim.secondary[0], recipe="released")
    claim = replace(toy.claim, primary=printed, secondary=(released, toy.claim.secondary[1]))
    found = replace(reproduce(toy.plugin, out=tmp_path), claim=claim)
    assert found.by_recipe == {"paper": "supported", "released": "inconclusive"}
    assert "**supported as printed, inconclusive as released**" in claims.page_of([found])


def test_another_claim_starts_over(toy, tmp_path, monkeypatch):
    reproduce(toy.plugin, out=tmp_path)
    ran = []
    real = toy.arms
    monkeypatch.setattr(toy, "arms", lambda seed, *, quick: ran.append(seed) or real(seed, quick=quick))
    monkeypatch.setattr(toy, "claim", replace(toy.claim, primary=Comparison("better", "plain", "dice", margin=9.0)))
    assert reproduce(toy.plugin, out=tmp_path).verdict == "not supported"
    assert len(ran) == 5


@pytest.mark.slow
def test_seeds_in_parallel_processes_give_the_same(toy, tmp_path):
    one = reproduce(toy.plugin, out=tmp_path / "one", seeds=3)
    two = reproduce(toy.plugin, out=tmp_path / "two", seeds=3, jobs=2)
    assert one.results == two.results


def test_quick_writes_beside_the_real_result(toy, tmp_path):
    result = reproduce(toy.plugin, out=tmp_path, quick=True)
    assert (result.verdict, len(result.results)) == ("inconclusive", 2)
    assert (tmp_path / "toy-threshold.quick.json").is_file()
    with pytest.raises(DataError, match="holds no results"):
        claims.report_text(tmp_path)


def test_seeds_by_number_and_by_name(toy, tmp_path):
    assert sorted(reproduce(toy.plugin, out=tmp_path, seeds=7).results) == list(range(7))
    assert sorted(reproduce(toy.plugin, out=tmp_path / "other", seeds=[11, 3]).results) == [3, 11]
    for wrong in (0, [], [1, 1]):
        with pytest.raises(OptionError, match="seeds"):
            reproduce(toy.plugin, out=tmp_path, seeds=wrong)
    with pytest.raises(OptionError, match="jobs"):
        reproduce(toy.plugin, out=tmp_path, jobs=0)


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ([1, 2], "must return numbers by arm and metric"),
        ({"plain": {"dice": "high"}}, "must return numbers"),
        ({"plain": {"dice": 1.0}}, "returned the arms plain, not plain, pooled, better"),
        ({arm: {"dice": 1.0} for arm in ("plain", "pooled", "better")}, "no 'seconds' for the arm 'better'"),
    ],
)
def test_a_claim_that_returns_something_else_is_told(toy, tmp_path, monkeypatch, returned, words):
    monkeypatch.setattr(toy, "arms", lambda seed, *, quick: returned)
    with pytest.raises(PluginError, match=words):
        reproduce(toy.plugin, out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_value_that_is_not_finite_is_kept_and_decides_nothing(toy, tmp_path, monkeypatch):
    real = toy.arms

    def diverged(seed, *, quick):
        arms = real(seed, quick=quick)
        if seed == 1:
            arms["better"]["dice"] = math.nan
        return arms

    monkeypatch.setattr(toy, "arms", diverged)
    result = reproduce(toy.plugin, out=tmp_path)
    assert result.verdict == "inconclusive"
    stored = claims.load_result(tmp_path / "toy-threshold.json")
    assert math.isnan(stored.results[1]["better"]["dice"])


def test_the_page_is_the_same_whenever_it_is_made(toy, tmp_path):
    reproduce(toy.plugin, out=tmp_path / "results")
    page = claims.report(tmp_path / "results", tmp_path / "docs" / "claims.md")
    text = page.read_text()
    assert text == claims.report_text(tmp_path / "results")
    assert (
        "| [toy-threshold](#toy-threshold) | **supported** | better vs. plain, dice, by more than 2 | +3.2112 |" in text
    )
    assert "| better: the method | 63.62 ± 0.91 (69.63) |" in text
    assert "- better vs. pooled, dice: More data may explain the gain." in text
    assert "**Settings.**" not in text
    told = replace(toy.claim, tuning="One rate for all.", tuned_on=(900, 901))
    page_text = claims.page_of([replace(claims.load_result(tmp_path / "results" / "toy-threshold.json"), claim=told)])
    assert "**Settings.** One rate for all. *What was chosen, was chosen on seeds 900, 901, which" in page_text
    (tmp_path / "results" / "toy-threshold.json").write_text("{}")
    with pytest.raises(DataError, match=r"toy-threshold\.json is no result of a claim"):
        claims.report(tmp_path / "results", page)
    assert page.read_text() == text


def test_the_terminal_gets_tables_and_verdict(toy, tmp_path, capsys):
    claims.print_result(reproduce(toy.plugin, out=tmp_path))
    printed = capsys.readouterr().out
    for words in ("63.62 ± 0.91 (69.63)", "The gain is real.", "verdict: supported"):
        assert words in printed


def test_a_claim_that_contradicts_itself_cannot_be_made(toy):
    with pytest.raises(ValueError, match="names the arm 'other'"):
        replace(toy.claim, primary=Comparison("other", "plain", "dice"))
    with pytest.raises(ValueError, match="the arm 'third'"):
        replace(toy.claim, paper={"third": {"dice": 1.0}})
    with pytest.raises(ValueError, match="each once"):
        replace(toy.claim, seeds=(1, 1))
    with pytest.raises(ValueError, match="chosen on seed 3"):
        replace(toy.claim, tuned_on=(3, 900))
    with pytest.raises(ValueError, match="same arms and metric"):
        replace(toy.claim, secondary=(replace(toy.claim.primary, margin=0.1),))
    for named in (("better vs. plain",), ()):
        with pytest.raises(ValueError, match="falsified_if names"):
            replace(toy.claim, falsified_if={"it isn't": named})
    with pytest.raises(ValueError, match="unequal names the arm 'third'"):
        replace(toy.claim, unequal={"third": "why not"})
    for wrong in ({"margin": -1.0}, {"tolerance": -1.0}, {"resplit": -0.1}):
        with pytest.raises(ValueError, match="negative"):
            Comparison("better", "plain", "dice", **wrong)
    with pytest.raises(ValueError, match="not both"):
        Comparison("better", "plain", "dice", margin=1.0, tolerance=1.0)


def test_a_model_without_a_claim_is_told(toy, tmp_path):
    with pytest.raises(PluginError, match="toy-threshold has no claim"):
        reproduce(toy.card(claim=None), out=tmp_path)
    assert isinstance(toy.claim, Claim)
