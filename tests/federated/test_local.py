from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict

from zoo.errors import DataError, OptionError
from zoo.federated import Update, accounts, average, client, engines, federate, grid
from zoo.federated.grid import Cohort, LocalGrid
from zoo.training import Run

# Dies when the clients of round 3 have answered and kept their states.
DYING = """
import os, signal, sys
import toy_federation as toy
from zoo.federated import accounts, federate
from zoo.training import Run

write = accounts.Table.write
accounts.Table.write = lambda self, n, rows: os.kill(os.getpid(), signal.SIGKILL) if n == 3 else write(self, n, rows)
recipe = toy.ToyRecipe(clients=3, rounds=4, history=True)
federate(toy.build, recipe, toy.toy_data(), Run(sys.argv[1], seed=1, device="cpu", progress=False))
"""


def run_here(**options):
    return Run(options.pop("out", None), seed=1, device="cpu", progress=False, **options)


def train(toy, run=None, data=None, **fields):
    return federate(toy.build, toy.ToyRecipe(**fields), data or toy.toy_data(), run or run_here())


def same(a, b):
    return all(torch.equal(a.state_dict()[name], b.state_dict()[name]) for name in a.state_dict())


def test_training_learns_and_counts_what_it_sent(toy):
    outcome = train(toy, rounds=6, clients=4)
    assert outcome.rows[-1]["train/loss"] < outcome.rows[0]["train/loss"]
    assert outcome.rows[-1]["evaluate/accuracy"] > 0.6
    assert {"round", "clients", "failed", "global/norm", "bytes-up", "bytes-down"} <= outcome.rows[0].keys()
    arrays = sum(tensor.nbytes for tensor in toy.network().state_dict().values())
    entry = next(item for item in outcome.ledger if item["round"] == 2 and item["client"] == 3)
    assert entry["phase"] == "train"
    assert arrays < entry["down"] < arrays + 9 * 200  # nine arrays, each with a name and a header
    assert sum(e["up"] for e in outcome.ledger if e["round"] == 2) == outcome.rows[1]["bytes-up"]
    assert outcome.state_dict()["1.num_batches_tracked"].dtype == torch.int64


def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before(toy):
    first = train(toy)
    torch.rand(5)
    assert same(first, train(toy))
    other = federate(toy.build, toy.ToyRecipe(), toy.toy_data(), Run(None, seed=2, device="cpu", progress=False))
    assert not same(first, other)


def test_clients_results_do_not_depend_on_the_order_in_which_they_work(toy, monkeypatch):
    first = train(toy, clients=3)
    push = LocalGrid.push_messages
    monkeypatch.setattr(LocalGrid, "push_messages", lambda self, m: push(self, list(m)[::-1])[::-1])
    assert same(first, train(toy, clients=3))


def test_a_grid_isolates_clients_and_gives_the_server_its_random_numbers_back():
    def spoil(message: Message, context: Context) -> Message:
        torch.rand(3)
        context.state["n"] = ConfigRecord({"n": 1})
        if context.node_id == 2:
            raise ValueError("the scanner is off")
        return Message(RecordDict({"m": MetricRecord({"fresh": int("n" in context.state)})}), reply_to=message)

    local = LocalGrid(spoil, 3)
    messages = [Message(RecordDict(), node, "train") for node in (1, 2, 9)]
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    replies = local.pull_messages(local.push_messages(messages))
    assert torch.equal(torch.rand(1), expected)
    assert [reply.metadata.src_node_id for reply in replies] == [1, 2, 9]
    assert [reply.has_error() for reply in replies] == [False, True, True]
    assert "the scanner is off" in replies[1].error.reason
    assert "no node 9" in replies[2].error.reason


def test_a_client_may_change_what_it_got_without_changing_anybody_elses(toy):
    seen = []

    def spoils(recipe, data, seed):
        def client(net, _, rng, context):
            seen.append(float(context.received["network"]["0.weight"].sum()))
            for tensor in (*net.parameters(), *context.received["network"].values()):
                tensor.data.zero_()
            return Update({"network": net}, num_examples=1)

        return replace(toy.build(recipe, data, seed), client=client, exchanges=("train",), aggregate=average)

    outcome = federate(spoils, toy.ToyRecipe(clients=3, rounds=1), toy.toy_data(), run_here())
    assert len(set(seen)) == 1
    assert seen[0] != 0
    assert not outcome.state_dict()["0.weight"].any()


@pytest.mark.parametrize(("fields", "status"), [({"crash": 1}, "the scanner is off"), ({"nan": 1}, "NaN or infinity")])
def test_a_failed_client_is_left_out_and_the_round_goes_on(toy, fields, status):
    outcome = train(toy, clients=3, **fields)
    assert outcome.rows[1]["failed"] == 1
    assert all(torch.isfinite(tensor).all() for tensor in outcome.state_dict().values())
    row = next(r for r in outcome.clients if (r["round"], r["client"], r["phase"]) == (2, 1, "train"))
    assert status in row["status"]
    kept = [r["weight"] for r in outcome.clients if r["round"] == 2 and r["phase"] == "train" and "weight" in r]
    assert len(kept) == 2
    assert sum(kept) == pytest.approx(1)


def test_a_late_client_is_left_out(toy, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(grid, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))  # as the client does
    outcome = train(toy, clients=2, slow=0, timeout=0.15, rounds=1)
    row = next(r for r in outcome.clients if r["client"] == 0 and r["phase"] == "train")
    assert "later than the timeout" in row["status"]


def test_too_few_answers_end_the_training_with_the_reason(toy):
    with pytest.raises(DataError, match=r"round 1: 1 of 2 clients .* 2 are needed; client 0: .*the scanner is off"):
        train(toy, crash=0, min_clients=2)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"clients": 1}, "at least two clients, not 1"),
        ({"clients": 41}, "40 cases are too few for 41 clients"),
        ({"odd": 1, "min_clients": 2}, r"client 1: it has 0.weight of shape \(4, 6\) where the server's is \(3, 6\)"),
        ({"weights": "metric:love"}, "client 0: it reports no 'love'"),
        ({"weights": "age"}, "weights must be samples, uniform or metric:NAME"),
        ({"min_clients": 5}, "min_clients must lie between 1 and the 2 clients"),
    ],
)
def test_bad_input_is_one_sentence(toy, fields, sentence):
    with pytest.raises((DataError, OptionError), match=sentence):
        train(toy, **fields)


def test_a_client_without_labels_or_without_cases_is_named(toy):
    with pytest.raises(DataError, match=r"case case-7 of client \d has no label"):
        train(toy, data=toy.toy_data(unlabelled=7))

    def empty(recipe, data, seed):
        return replace(toy.build(recipe, data, seed), partitions=[np.arange(40), np.array([], int)])

    with pytest.raises(DataError, match="client 1 of 2 has no training case"):
        federate(empty, toy.ToyRecipe(), toy.toy_data(), run_here())


def test_weights_follow_the_rule(toy):
    def weights(rule):
        rows = train(toy, clients=3, rounds=1, weights=rule).clients
        return [row["weight"] for row in rows if row["phase"] == "train"]

    assert weights("samples") == pytest.approx([14 / 40, 13 / 40, 13 / 40])
    assert weights("uniform") == pytest.approx([1 / 3] * 3)
    assert weights("metric:trust") == pytest.approx([1 / 6, 2 / 6, 3 / 6])


def test_a_killed_server_goes_on_as_if_nothing_had_happened(toy, tmp_path):
    fields = {"clients": 3, "rounds": 4, "history": True}
    whole = train(toy, run=run_here(out=tmp_path / "whole"), **fields)

    died = subprocess.run([sys.executable, "-c", DYING, str(tmp_path / "killed")], cwd=Path(__file__).parent)
    assert died.returncode == -signal.SIGKILL

    again = train(toy, run=run_here(out=tmp_path / "killed", resume=True), **fields)
    assert same(whole, again)
    assert (whole.rows, whole.clients, whole.ledger) == (again.rows, again.clients, again.ledger)
    for name in ("federated.csv", "federated-clients.csv", "federated-communication.csv"):
        files = [tmp_path / run / "metrics" / name for run in ("whole", "killed")]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert whole.history.rounds == again.history.rounds == [0, 1, 2, 3, 4]
    assert np.array_equal(whole.history.client(3, 2)["0.weight"], again.history.client(3, 2)["0.weight"])
    seen = [row["seen"] for row in again.clients if row["phase"] == "train" and row["client"] == 0]
    assert seen == [0, 1, 2, 3]  # what clients keep survives too

    finished = train(toy, run=run_here(out=tmp_path / "killed", resume=True), **fields)
    assert same(whole, finished)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's high-water mark of memory")
def test_a_hundred_clients_need_hardly_more_memory_than_ten(toy):
    def resident(field):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

    def growth(clients):
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts from here
        before = resident("VmRSS")
        train(toy, clients=clients, rounds=1, steps=1, data=data)
        return resident("VmHWM") - before

    data = toy.toy_data(120)
    growth(10)  # what is set up once doesn't count
    assert growth(100) - growth(10) < 100e6


def test_what_clients_keep_lies_on_disk_and_not_in_memory(toy, tmp_path, monkeypatch):
    apps = []
    monkeypatch.setattr(engines, "Clients", lambda *a: apps.append(client.Clients(*a)) or apps[-1])
    train(toy, run=run_here(out=tmp_path / "run"), clients=3, rounds=2)
    assert not apps[0]._kept
    assert len(list((tmp_path / "run" / "clients" / "federated").glob("client-*"))) == 3


def test_the_table_shows_clients_and_global_numbers(toy):
    from rich.console import Console

    outcome = train(toy, clients=3, rounds=1)
    rows = outcome.clients
    console = Console(width=110, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(accounts.live_table(1, 3, rows, outcome.rows[0]))
    text = console.export_text()
    assert "round 1 of 3" in text
    assert "evaluate/accuracy" in text
    assert text.count("train ") >= 3


def test_silent_nodes_are_errors_not_hangs(monkeypatch):
    local = LocalGrid(lambda message, context: message, 2)
    monkeypatch.setattr(local, "pull_messages", lambda names: [])
    monkeypatch.setattr(grid, "CONNECT_SECONDS", 0.1)
    start = time.monotonic()
    with pytest.raises(DataError, match="no node says that it is client 0"):
        Cohort(local, 2, timeout=0.1)
    assert time.monotonic() - start < 30
