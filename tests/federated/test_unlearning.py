"""Forgetting a client of a federation whose every model is known in closed form."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from zoo.data.sets import Dataset, load_dataset
from zoo.data.splits import Split, TrainData, divide
from zoo.errors import OptionError
from zoo.federated import HistoryPolicy, Request, Settings, federate
from zoo.federated.contributions import NEEDS
from zoo.federated.history import History
from zoo.federated.unlearning import calibrated, cutoff, guarantee, reached, restart
from zoo.training import Run
from zoo.training.recipe import digest

NOTHING = TrainData(*(Dataset("nothing", []) for _ in range(3)))
T, RATE = 6, 0.3
KEEP = 1 - RATE


@pytest.fixture
def pull(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import pull_federation

    return pull_federation


def train(pull, out, schemes=tuple(NEEDS), resume=False, **fields):
    policy = HistoryPolicy(dtype="float32", schemes=schemes)
    run = Run(out, seed=3, device="cpu", progress=False, history=policy, resume=resume)
    return federate(pull.build, pull.Pull(**fields), NOTHING, run)


def forget(
    pull, source, out, method, leaving=(1,), gone=(), noise=0, fields=None, resume=False, every=None, **settings
):
    request = Request(source, leaving, method, Settings(**settings), noise, gone)
    run = Run(out, seed=3, device="cpu", progress=False, forget=request, resume=resume, checkpoint_every=every)
    outcome = federate(pull.build, pull.Pull(**(fields or {})), NOTHING, run)
    return outcome, request.facts["federated"]


def vector(state) -> torch.Tensor:
    return torch.cat([state["theta"], state["last"]])


def pulled(begin, points, rounds):
    """Where ``begin`` is after rounds of all going a share of the way to their points."""
    return KEEP**rounds * begin + (1 - KEEP**rounds) * points.mean(0)


@pytest.fixture
def source(pull, tmp_path):
    return train(pull, tmp_path / "run"), tmp_path / "run"


def test_schemes_end_where_their_formulas_say(pull, source, tmp_path):
    whole, folder = source
    history = whole.history
    first, full = vector(history.network(0)), vector(whole.state_dict())
    torch.testing.assert_close(full, pulled(first, pull.POINTS, T))
    rest = pull.POINTS[[0, 2, 3]]
    found = {
        method: forget(pull, folder, tmp_path / method, method, rounds=4)[0].state_dict()
        for method in ("scratch", "finetuning", "fedaccum", "ukd")
    }
    torch.testing.assert_close(vector(found["scratch"]), pulled(first, rest, 4))
    torch.testing.assert_close(vector(found["finetuning"]), pulled(full, rest, 4))
    before_last = pulled(first, pull.POINTS, T - 1)
    torch.testing.assert_close(vector(found["fedaccum"]), pulled(before_last, rest, 5))  # their last round, and four
    theirs = sum(KEEP * pulled(first, pull.POINTS, t) + RATE * pull.POINTS[1] for t in range(T))
    torch.testing.assert_close(vector(found["ukd"]), pulled(full - theirs / 4, rest, 4))


def test_the_other_readings_add_up_updates(pull, source, tmp_path):
    whole, folder = source
    first, full = vector(whole.history.network(0)), vector(whole.state_dict())
    sums = [sum(RATE * (point - pulled(first, pull.POINTS, t)) for t in range(T)) for point in pull.POINTS]
    rest = pull.POINTS[[0, 2, 3]]
    begun = first + torch.stack([sums[i] for i in (0, 2, 3)]).mean(0)
    accum, _ = forget(pull, folder, tmp_path / "a", "fedaccum", accumulate="sum", rounds=1)
    torch.testing.assert_close(vector(accum.state_dict()), pulled(begun, rest, 1))
    ukd, _ = forget(pull, folder, tmp_path / "u", "ukd", subtract="updates", rounds=1)
    torch.testing.assert_close(vector(ukd.state_dict()), pulled(full - sums[1] / 4, rest, 1))


@pytest.mark.parametrize("interval", [1, 2])
def test_federaser_takes_the_first_updates_as_they_are_and_gives_new_ones_stored_lengths(
    pull, source, tmp_path, interval
):
    whole, folder = source
    first = vector(whole.history.network(0))
    theta = first + RATE * (pull.POINTS[[0, 2, 3]] - first).mean(0)
    for s in range(1, math.ceil(T / interval)):
        steps = []
        for i in (0, 2, 3):
            stored = RATE * (pull.POINTS[i] - pulled(first, pull.POINTS, s * interval))
            new = RATE * (pull.POINTS[i] - theta)
            steps.append(new * stored.norm() / new.norm())
        theta = theta + torch.stack(steps).mean(0)
    outcome, facts = forget(pull, folder, tmp_path / "e", "federaser", interval=interval)
    torch.testing.assert_close(vector(outcome.state_dict()), theta, rtol=1e-4, atol=1e-5)
    assert facts["stored_rounds_used"] == math.ceil(T / interval)


def test_a_calibrated_update_of_nothing_stays_nothing_and_layers_can_have_their_own_lengths():
    before = {"a": torch.zeros(2), "b": torch.ones(1), "n": torch.tensor(3)}
    after = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([1.5]), "n": torch.tensor(4)}
    stored = torch.tensor([10.0, 1.0], dtype=torch.float64)
    layers = calibrated(after, before, ["a", "b"], stored, "layer")
    assert layers["a"].tolist() == [6.0, 8.0]
    assert layers["b"].tolist() == [2.0]
    assert int(layers["n"]) == 4
    still = calibrated(before, before, ["a", "b"], stored, "client")
    assert torch.equal(still["a"], before["a"])
    whole = calibrated(after, before, ["a", "b"], stored, "client")
    assert math.hypot(*whole["a"].tolist(), whole["b"].item() - 1) == pytest.approx(math.sqrt(101))


def test_contributions_are_what_the_definitions_say(pull, source):
    whole, _ = source
    known, first = whole.history.contributions(), vector(whole.history.network(0))
    thetas = [pulled(first, pull.POINTS, t) for t in range(T + 1)]
    deltas = torch.stack([RATE * (pull.POINTS - theta) for theta in thetas[:-1]])
    torch.testing.assert_close(known.lengths().float(), deltas.norm(dim=2))
    assert torch.allclose(reached(known, [1], "l2")[1:].float(), deltas[:, 1].norm(dim=1).cumsum(0))
    local = [thetas[t] + deltas[t, 1] for t in range(T)]
    away = torch.stack([(local[t] - thetas[t + 1]).abs() / 3 for t in range(T)]).cumsum(0)  # p/(1-p) = 1/3
    assert torch.allclose(reached(known, [1], "coordinate")[1:].float(), away.amax(1))


def test_ifu_goes_back_as_far_as_the_budget_says_and_says_what_that_means(pull, source, tmp_path):
    whole, folder = source
    reach = reached(whole.history.contributions(), [1], "l2")
    sigma = 0.5
    epsilon = float(reach[2]) / cutoff(1.0, 0.025, sigma) * 1.001
    outcome, facts = forget(pull, folder, tmp_path / "i", "ifu", metric="l2", sigma=sigma, epsilon=epsilon, rounds=3)
    assert facts["restart_round"] == 2
    assert facts["epsilon_reached"] == pytest.approx(epsilon, rel=2e-3)
    assert "No guarantee" in facts["guarantee"]  # epsilon is above 1, and the noise has a seed
    none, facts = forget(pull, folder, tmp_path / "n", "ifu", metric="l2", epsilon=0.01, sigma=0.01, rounds=3)
    assert facts["restart_round"] == 0
    assert "equals training from scratch" in facts["guarantee"]
    assert facts["epsilon_reached"] == 0
    scratch, _ = forget(pull, folder, tmp_path / "s", "scratch", rounds=3)
    assert 0 < float((vector(none.state_dict()) - vector(scratch.state_dict())).norm()) < 0.05
    _, facts = forget(pull, folder, tmp_path / "l", "ifu", metric="l2", epsilon=1e6, sigma=0.01)
    assert facts["restart_round"] == T
    assert "equals fine-tuning" in facts["guarantee"]
    assert outcome.history.last()[0] == 2 + 3


def test_a_guarantee_is_printed_only_where_there_is_one():
    assert "No guarantee" in guarantee(2, 6, 0.5, Settings(epsilon=2.0), False)
    assert "No guarantee" in guarantee(2, 6, 0.5, Settings(), True)
    assert "(0.5, 0.025) for each weight by itself" in guarantee(2, 6, 0.5, Settings(), False)
    assert "by itself" not in guarantee(2, 6, 0.5, Settings(metric="l2"), False)
    for delta, factor in ((0.01, 0.3218), (0.025, 0.3575), (0.1, 0.4449)):
        assert cutoff(1.0, delta, 1.0) == pytest.approx(factor, abs=1e-4)
    assert restart(torch.tensor([0.0, 1, 2, 3]), 2.5, [0, 2, 3]) == 2
    assert restart(torch.tensor([0.0, 1, 2, 3]), 2.5, [0, 3]) == 0


def test_a_client_that_added_nothing_is_forgotten_by_going_on(pull, tmp_path):
    train(pull, tmp_path / "run", still=1)
    _, facts = forget(pull, tmp_path / "run", tmp_path / "i", "ifu", metric="l2", epsilon=1e-3, fields={"still": 1})
    assert facts["restart_round"] == T
    assert facts["epsilon_reached"] == 0


def test_a_second_client_leaves_along_what_led_to_the_model(pull, source, tmp_path):
    _, folder = source
    one, facts = forget(pull, folder, tmp_path / "one", "ifu", metric="l2", sigma=0.2, epsilon=50.0, rounds=4)
    t = facts["restart_round"]
    assert 0 < t < T
    known = one.history.contributions()
    assert known.rounds == t + 4
    assert float(known.lengths()[t:, 1].sum()) == 0  # who left added nothing more
    two, facts = forget(
        pull, tmp_path / "one", tmp_path / "two", "ifu", (2,), (1,), metric="l2", sigma=0.2, epsilon=1e6, rounds=2
    )
    assert facts["restart_round"] == t + 4
    torch.testing.assert_close(
        vector(two.state_dict()), pulled(vector(one.state_dict()), pull.POINTS[[0, 3]], 2), atol=0.5, rtol=0
    )
    assert {row["who"] for row in two.clients} == {0, 3}  # they're told the numbers that they had


def test_pga_stays_in_its_ball_and_stops_at_the_floor(pull, source, tmp_path):
    whole, folder = source
    outcome, facts = forget(pull, folder, tmp_path / "p", "pga", ascent=30, floor=0.0, ascent_lr=0.5, rounds=1)
    assert facts["ascent_steps"] == 30
    centre = pulled(pulled(vector(whole.history.network(0)), pull.POINTS, T - 1), pull.POINTS[[0, 2, 3]], 1)
    end = vector(outcome.state_dict())
    begun = (end - RATE * pull.POINTS[[0, 2, 3]].mean(0)) / KEEP
    assert float((begun - centre).norm()) == pytest.approx(facts["radius"], rel=1e-3)
    assert float((begun - pull.POINTS[1]).norm()) > float((centre - pull.POINTS[1]).norm())
    _, facts = forget(pull, folder, tmp_path / "q", "pga", floor=1.1 - 0.1, rounds=1)
    assert facts["ascent_steps"] == 0


def test_only_what_the_schemes_need_is_kept(pull, tmp_path):
    for scheme, needs in NEEDS.items():
        history = train(pull, tmp_path / scheme, schemes=(scheme,)).history
        assert history.contributions().vectors.keys() == set(needs)
        assert history.rounds == (list(range(T + 1)) if scheme == "ifu" else [0, T])
    with pytest.raises(OptionError, match="train it with --history ukd"):
        forget(pull, tmp_path / "ifu", tmp_path / "x", "ukd")
    with pytest.raises(OptionError, match="called 'magic'"):
        HistoryPolicy(schemes=("magic",))


def test_a_killed_run_has_the_same_account_of_its_clients(pull, source, tmp_path):
    whole, _ = source
    with pytest.raises(KeyboardInterrupt):
        train(pull, tmp_path / "killed", dies=4)
    again = train(pull, tmp_path / "killed", resume=True)
    ours, theirs = (outcome.history.contributions().state_dict() for outcome in (whole, again))
    for name in ("norms", "reach", "shares"):
        assert all(torch.equal(a, b) for a, b in zip(ours[name], theirs[name], strict=True))
    for name, vectors in ours["vectors"].items():
        assert all(torch.equal(vectors[c], theirs["vectors"][name][c]) for c in vectors)


def test_a_run_without_history_and_too_few_clients_are_refused_in_one_sentence(pull, source, tmp_path):
    _, folder = source
    plain = Run(tmp_path / "plain", seed=3, device="cpu", progress=False)
    federate(pull.build, pull.Pull(), NOTHING, plain)
    with pytest.raises(OptionError, match="train it again with --history ifu"):
        forget(pull, tmp_path / "plain", tmp_path / "x", "ifu")
    with pytest.raises(OptionError, match="fewer than two"):
        forget(pull, folder, tmp_path / "y", "scratch", leaving=(0, 1, 2))
    with pytest.raises(OptionError, match="no client 9"):
        forget(pull, folder, tmp_path / "z", "scratch", leaving=(9,))


def test_the_history_of_rounds_stays_within_its_bytes(tmp_path):
    policy = HistoryPolicy(dtype="float32", schemes=("ifu",), max_bytes=4 * 40)
    history = History(policy, tmp_path)
    for round_ in range(12):
        history.add(round_, {"w": torch.full((10,), float(round_))}, {}, 3)
    assert history.rounds == [0, 4, 8]
    assert np.isclose(float(history.network(8)["w"][0]), 8)


def test_ukds_server_brings_answers_to_the_old_models_alone_and_goes_on_after_a_kill(pull, source, tmp_path):
    whole, folder = source
    old, fields = whole.state_dict(), {"own": True}
    settings = {"distil": 400, "distil_lr": 0.5}
    outcome, facts = forget(pull, folder, tmp_path / "u", "ukd", fields=fields, **settings)
    begun, _ = forget(pull, folder, tmp_path / "b", "ukd", fields=fields, distil=1, distil_lr=0.0)
    assert (facts["rounds"], facts["distillation_steps"]) == (0, 400)
    assert outcome.clients == [], "no client takes part"
    assert outcome.rows[0]["global/measured"] == 1
    torch.testing.assert_close(outcome.state_dict()["theta"], old["theta"], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(outcome.state_dict()["last"], begun.state_dict()["last"])  # its data don't show it
    then, facts = forget(pull, folder, tmp_path / "t", "ukd", fields=fields, rounds=2, **settings)
    assert facts["rounds"] == 2
    rest = pull.POINTS[[0, 2, 3]]
    torch.testing.assert_close(vector(then.state_dict()), pulled(vector(outcome.state_dict()), rest, 2))

    class Killed(Exception):
        pass

    calls = iter(range(10_000))

    def mortal(*given):
        if next(calls) == 30:
            raise Killed
        return real(*given)

    real, pull.distil = pull.distil, mortal
    with pytest.raises(Killed):
        forget(pull, folder, tmp_path / "k", "ukd", fields=fields, every=10, **settings)
    calls = []
    pull.distil = lambda *given: calls.append(1) or real(*given)
    again, _ = forget(pull, folder, tmp_path / "k", "ukd", fields=fields, resume=True, **settings)
    assert torch.equal(vector(again.state_dict()), vector(outcome.state_dict()))
    assert len(calls) == 400 - 30
    pull.distil = real
    with pytest.raises(OptionError, match="data of the server's own"):
        forget(pull, folder, tmp_path / "n", "ukd", distil=3)


def test_the_last_round_of_a_shorter_training_is_measured_too(pull, source, tmp_path):
    _, folder = source
    outcome, _ = forget(pull, folder, tmp_path / "e", "federaser", fields={"every": 4})
    assert [row["round"] for row in outcome.rows if "global/measured" in row] == [4, T - 1]


def test_a_client_whose_answers_are_nan_is_forgotten_by_what_it_gave(pull, tmp_path):
    whole = train(pull, tmp_path / "run", broken=1)
    known = whole.history.contributions()
    assert [row["failed"] for row in whole.rows] == [0, *[1] * (T - 1)]
    assert known.lengths()[1:, 1].abs().sum() == 0
    assert (torch.stack(known.shares)[1:, 1] == 0).all()
    for method in NEEDS:
        outcome, _ = forget(pull, tmp_path / "run", tmp_path / method, method, fields={"broken": 1}, rounds=2)
        assert torch.isfinite(vector(outcome.state_dict())).all()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["simulation", "deployment"])
def test_history_and_forgetting_are_the_same_on_every_engine(pull, tmp_path, monkeypatch, engine):
    spec = "phantom:skin-lesion?n=6&size=32"
    parts = divide(load_dataset(spec), Split(), None, 3)
    facts = {"data": spec, "phantom": None, "split": asdict(Split()), "cases": digest(parts)}
    for name, value in (("PYTHONPATH", str(Path(__file__).parent)), ("OMP_NUM_THREADS", "1"), ("HOME", str(tmp_path))):
        monkeypatch.setenv(name, value)
    found = []
    for where in ("local", engine):
        out, recipe = tmp_path / where, pull.Pull(clients=3, rounds=2)
        common = {"seed": 3, "device": "cpu", "progress": False, "engine": where, "source": facts}
        policy = HistoryPolicy(dtype="float32", schemes=("ifu", "federaser"))
        whole = federate(pull.build, recipe, parts, Run(out, identity={"model": "t"}, history=policy, **common))
        ends = [whole.history.contributions().lengths(), vector(whole.state_dict())]
        for method in ("federaser", "ifu"):
            request = Request(out, (1,), method, Settings(metric="l2", sigma=0.1, epsilon=30.0, rounds=1), 5)
            run = Run(out / method, identity={"model": "t"}, forget=request, **common)
            ends.append(vector(federate(pull.build, recipe, parts, run).state_dict()))
        found.append(ends)
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
