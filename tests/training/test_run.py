from __future__ import annotations

import csv
import json
import os
import signal
import threading
import time
from collections import deque

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.errors import DataError, OptionError, WeightsError
from zoo.training import EarlyStopping, Run

IDENTITY = {"model": "toy", "recipe": {"lr": 0.1, "steps": 6}, "data": "pairs:here"}


def open_run(out, **options):
    return Run(out, **{"device": "cpu", "identity": IDENTITY, "seed": 1, **options})


def fit(run, steps=6, *, stop_at=None, width=3, fail_at=None):
    """A small regression; returns the module."""
    net = torch.nn.Linear(width, 1)
    net, sgd = run.track(net=net, sgd=torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9))
    for step in run.steps(steps):
        if step == fail_at:
            raise RuntimeError("the procedure fails")
        loss = net(torch.randn(4, width)).square().mean()
        sgd.zero_grad()
        run.backward(loss)
        sgd.step()
        run.log(loss=loss)
        if step == stop_at:
            run.stop()
    return net


def rows(out, stage="training"):
    with open(out / "metrics" / f"{stage}.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_indices_visit_every_item_once_per_epoch_and_only_depend_on_the_step():
    run = Run(seed=4, device="cpu")
    drawn = np.concatenate([run.indices(10, 4, step) for step in range(5)])
    assert sorted(drawn[:10]) == list(range(10))
    assert sorted(drawn[10:20]) == list(range(10))
    assert drawn[:10].tolist() != drawn[10:20].tolist()
    np.testing.assert_array_equal(Run(seed=4, device="cpu").indices(10, 4, 3), drawn[12:16])
    assert Run(seed=5, device="cpu").indices(1000, 1000, 0).tolist() != run.indices(1000, 1000, 0).tolist()


@settings(max_examples=25)
@given(n=st.integers(1, 12), batch=st.integers(1, 30), step=st.integers(0, 50))
def test_indices_are_balanced_whatever_the_sizes(n, batch, step):
    run = Run.__new__(Run)
    run.seed, run._order = 0, None
    counts = np.bincount(np.concatenate([run._global_indices(n, batch, s, "k") for s in range(step + 1)]), minlength=n)
    assert counts.max() - counts.min() <= 1


def test_a_generator_depends_on_seed_and_key_alone():
    run = Run(seed=4, device="cpu")
    first = run.generator("crop", 7).normal()
    run.generator("crop", 8).normal()
    assert run.generator("crop", np.int64(7)).normal() == first
    assert run.generator("mix", 7).normal() != first
    assert Run(seed=5, device="cpu").generator("crop", 7).normal() != first


def test_an_empty_set_is_refused():
    with pytest.raises(DataError, match="empty"):
        Run(device="cpu").indices(0, 4, 0)


def test_a_failed_procedure_resumes_to_the_same_weights_and_metrics(tmp_path):
    with open_run(tmp_path / "whole") as run:
        whole = fit(run)
    with pytest.raises(RuntimeError), open_run(tmp_path / "broken", checkpoint_every=2) as run:
        fit(run, fail_at=5)
    assert [p.name for p in (tmp_path / "broken" / "checkpoints").iterdir()] == ["training-000000004"]
    with open_run(tmp_path / "broken", resume=True) as run:
        resumed = fit(run)
    assert torch.equal(whole.weight, resumed.weight)
    assert rows(tmp_path / "whole") == rows(tmp_path / "broken")
    assert [p.name for p in (tmp_path / "broken" / "checkpoints").iterdir()] == ["training-done"]


def test_a_finished_stage_is_not_trained_again_and_the_next_starts_from_its_own_seed(tmp_path):
    with open_run(tmp_path) as run:
        run.stage("first")
        first = fit(run)
    seen = []
    with open_run(tmp_path, resume=True) as run:
        run.stage("first")
        net = torch.nn.Linear(3, 1)
        net = run.track(net=net)
        seen += list(run.steps(6))
        run.stage("second")
        after_resume = torch.randn(1)
    assert seen == []
    assert torch.equal(net.weight, first.weight)
    with open_run(tmp_path / "other") as run:
        run.stage("second")
        assert torch.equal(torch.randn(1), after_resume)


def test_stop_ends_the_stage_for_good(tmp_path):
    with open_run(tmp_path) as run:
        fit(run, steps=100, stop_at=3)
        assert run.step == 4
    with open_run(tmp_path, resume=True) as run:
        fit(run, steps=100)
        assert run.step == 4
    assert len(rows(tmp_path)) == 4


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(Run(seed=1, device="cpu"))
    assert list(tmp_path.iterdir()) == []


def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before():
    first = fit(Run(seed=1, device="cpu")).weight
    torch.randn(3)
    assert torch.equal(first, fit(Run(seed=1, device="cpu")).weight)
    assert not torch.equal(first, fit(Run(seed=2, device="cpu")).weight)


def test_a_folder_with_a_run_is_not_trampled(tmp_path):
    with open_run(tmp_path):
        pass
    with pytest.raises(OptionError, match="already holds a training run; resume it, or choose another folder"):
        open_run(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "other"}, "model was 'toy', now 'other'"),
        ({"recipe": {"lr": 0.2, "steps": 6}}, "recipe.lr was 0.1, now 0.2"),
        ({"data": "pairs:there"}, "data was 'pairs:here', now 'pairs:there'"),
    ],
)
def test_another_run_is_not_resumed(tmp_path, change, words):
    with open_run(tmp_path):
        pass
    with pytest.raises(OptionError) as caught:
        open_run(tmp_path, resume=True, identity={**IDENTITY, **change})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(OptionError, match="seed was 1, now 2"):
        open_run(tmp_path, resume=True, seed=2)


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(DataError, match=r"run\.json is damaged"):
        open_run(tmp_path, resume=True)


def test_a_checkpoint_of_another_network_is_refused_by_name(tmp_path):
    with pytest.raises(RuntimeError), open_run(tmp_path, checkpoint_every=2) as run:
        fit(run, fail_at=3)
    with (
        pytest.raises(WeightsError, match=r"net in the checkpoint .* doesn't fit"),
        open_run(tmp_path, resume=True) as run,
    ):
        fit(run, width=5)
    with open_run(tmp_path, resume=True) as run:
        run.keep(extra=EarlyStopping(2))
        with pytest.raises(WeightsError, match="differ in extra"):
            fit(run)


def test_ctrl_c_ends_after_the_step_with_a_checkpoint(tmp_path):
    def interrupt():
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with open_run(tmp_path) as run:
        net = torch.nn.Linear(2, 1)
        net = run.track(net=net)
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt, match=r"stopped after step \d+ of 100000 .*resume it"):
            deque(map(time.sleep, (0.005 for _ in run.steps(100000))), maxlen=0)
        step = run.step
    assert signal.getsignal(signal.SIGINT) is before
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == [f"training-{step:09d}"]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_terminal_that_closes_stops_the_run_between_two_steps(tmp_path, request, name):
    number = getattr(signal, name)
    given = signal.signal(number, signal.SIG_DFL)  # under nohup SIGHUP is ignored, and so it stays
    request.addfinalizer(lambda: signal.signal(number, given))
    before = signal.getsignal(number)
    with open_run(tmp_path) as run:
        run.track(net=torch.nn.Linear(2, 1))
        with pytest.raises(KeyboardInterrupt, match=r"stopped after step 3 of 10 .*resume it"):
            deque((os.kill(os.getpid(), number) for step in run.steps(10) if step == 2), maxlen=0)
    assert signal.getsignal(number) is before


def test_a_failing_procedure_gives_the_signal_handlers_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError), open_run(tmp_path) as run:
        fit(run, fail_at=1)
    assert signal.getsignal(signal.SIGTERM) is before


def test_metrics_may_join_later(tmp_path):
    with open_run(tmp_path) as run:
        for step in run.steps(3):
            run.log(loss=torch.tensor(step / 2, requires_grad=True), **({"dice": 0.5} if step == 2 else {}))
    assert rows(tmp_path) == [
        {"step": "0", "loss": "0.0", "dice": ""},
        {"step": "1", "loss": "0.5", "dice": ""},
        {"step": "2", "loss": "1.0", "dice": "0.5"},
    ]


def test_batches_do_not_depend_on_where_the_run_resumed_or_on_workers(tmp_path):
    def load(index, rng):
        return {"index": index, "noise": rng.normal(size=2).astype(np.float32)}

    def collect(run, steps, workers=0, fail_at=None):
        seen = {}
        for step, batch in run.batches(load, 7, 4, steps, workers=workers):
            if step == fail_at:
                raise RuntimeError
            seen[step] = batch["index"].tolist(), batch["noise"].tolist()
        return seen

    state = torch.get_rng_state()
    whole = collect(Run(seed=3, device="cpu"), 6)
    run = Run(seed=3, device="cpu")
    assert collect(run, 6, workers=2) == whole
    torch.set_rng_state(state)
    with pytest.raises(RuntimeError), open_run(tmp_path, seed=3, checkpoint_every=1) as run:
        collect(run, 6, fail_at=4)
    with open_run(tmp_path, seed=3, resume=True) as run:
        assert collect(run, 6) == {4: whole[4], 5: whole[5]}


def test_gradient_accumulation_checkpoints_between_updates_only(tmp_path):
    def run_all(out, fail_at=None, resume=False):
        with open_run(out, gradient_accumulation=3, checkpoint_every=1, resume=resume) as run:
            net = torch.nn.Linear(3, 1)
            net, sgd = run.track(net=net, sgd=torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9))
            for step in run.steps(12):
                if step == fail_at:
                    raise RuntimeError
                with run.accumulate(net):
                    run.backward(net(torch.randn(4, 3)).square().mean())
                    sgd.step()
                    sgd.zero_grad()
        return net.weight.detach()

    whole = run_all(tmp_path / "a")
    with pytest.raises(RuntimeError):
        run_all(tmp_path / "b", fail_at=8)
    assert [p.name for p in (tmp_path / "b" / "checkpoints").iterdir()] == ["training-000000006"]
    assert torch.equal(run_all(tmp_path / "b", resume=True), whole)


def test_bf16_runs_and_hands_back_a_plain_module():
    run = Run(device="cpu", mixed_precision="bf16")
    net = torch.nn.Linear(3, 1)
    net = run.track(net=net)
    assert run.accelerator.mixed_precision == "bf16"
    assert type(run.unwrap(net)) is torch.nn.Linear
    assert Run(device="cpu").accelerator.mixed_precision == "no"  # the next run has its own settings


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cpu:0"])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(OptionError, match="device"):
        Run(device=device)


def test_early_stopping_keeps_the_best_weights():
    net = torch.nn.Linear(1, 1)
    stopping = EarlyStopping(2, module=net)
    decisions = []
    for value in (0.1, 0.5, 0.4, float("nan")):
        torch.nn.init.constant_(net.weight, value)
        decisions.append(stopping.update(value))
    assert decisions == [False, False, False, True]
    stopping.restore()
    assert net.weight.item() == pytest.approx(0.5)
    again = EarlyStopping(2, module=net)
    again.load_state_dict(json.loads(json.dumps({**stopping.state_dict(), "weights": None})))
    assert (again.best, again.since_best) == (0.5, 2)
    falling = EarlyStopping(1, maximise=False, min_delta=0.1)
    assert [falling.update(v) for v in (1.0, 0.8, 0.75)] == [False, False, True]


def test_misuse_is_told():
    run = Run(device="cpu")
    run.stage("one")
    with pytest.raises(ValueError, match="already had a stage"):
        run.stage("one")
    with pytest.raises(ValueError, match="stage name"):
        run.stage("../x")
    with pytest.raises(TypeError, match="no state_dict"):
        run.keep(x=3)
