"""A client that answers anything at all is left out of its round, with the reason, and the others go on."""

from __future__ import annotations

import io
import os
import pickle
import signal

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from zoo.federated import federate, records
from zoo.federated.grid import Cohort, LocalGrid
from zoo.training import Run

NAME = "0.weight"


def header(shape, dtype="<f4", body=b"\0" * 72):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue() + body


def altered(array):
    def change(content):
        content["model network"][NAME] = array
        return content

    return change


def saved(value, **how):
    file = io.BytesIO()
    np.save(file, value, **how)
    return Array(str(value.dtype), value.shape, "numpy.ndarray", file.getvalue())


def with_numbers(**numbers):
    def change(content):
        content["numbers"] = MetricRecord(numbers)
        return content

    return change


def without(key):
    def change(content):
        del content[key]
        return content

    return change


def beside(key, record):
    def change(content):
        content[key] = record
        return content

    return change


HOSTILE = {
    "noise": altered(Array("float32", (3, 6), "numpy.ndarray", os.urandom(100))),
    "empty": altered(Array("float32", (3, 6), "numpy.ndarray", b"")),
    "pickle": altered(Array("float32", (3, 6), "numpy.ndarray", pickle.dumps(np.zeros((3, 6))))),
    "objects": altered(saved(np.array([[None] * 6] * 3), allow_pickle=True)),
    "other serialisation": altered(Array("float32", (3, 6), "torch", b"x")),
    "4 TiB": altered(Array("float32", (1 << 40,), "numpy.ndarray", header((1 << 40,)))),
    "4 TiB in secret": altered(Array("float32", (3, 6), "numpy.ndarray", header((1 << 40,)))),
    "too short": altered(Array("float32", (3, 6), "numpy.ndarray", header((3, 6), body=b"\0" * 71))),
    "too long": altered(Array("float32", (3, 6), "numpy.ndarray", header((3, 6), body=b"\0" * 73))),
    "strings": altered(saved(np.full((3, 6), "evil"))),
    "complex": altered(saved(np.full((3, 6), 1j))),
    "another shape": altered(saved(np.zeros((6, 3), np.float32))),
    "two models": beside("model other", ArrayRecord({"x": Array("float32", (2,), "numpy.ndarray", header((9,)))})),
    "arrays of no model": beside("more", ArrayRecord({"x": saved(np.zeros(2))})),
    "two records": beside("again", MetricRecord({"num_examples": 3})),
    "a config": beside("config", ConfigRecord({"x": "y"})),
    "no network": without("model network"),
    "no numbers": without("numbers"),
    "other numbers": with_numbers(love=1.0),
    "negative": with_numbers(num_examples=-1, trust=1.0),
    "endless": with_numbers(num_examples=float("inf"), trust=1.0),
    "no number": with_numbers(num_examples=float("nan"), trust=1.0),
    "no weight": with_numbers(num_examples=3),
    "weight of NaN": with_numbers(num_examples=3, trust=float("nan")),
    "lists": with_numbers(num_examples=[1, 2]),
    "escapes": with_numbers(**{"num_examples": 3, "trust": 1.0, "\x1b[2J": 1.0}),
    "many": with_numbers(**{"num_examples": 3, "trust": 1.0} | {f"n{i}": 1.0 for i in range(5000)}),
    "nothing": lambda content: RecordDict(),
}


@pytest.fixture
def attacked(toy, monkeypatch):
    """Train with three clients of which client 1 answers in round 2 as ``change`` has it."""
    answer = records.answer

    def run(change):
        def hostile(update):
            content = answer(update)
            return change(content) if update.numbers.get("seen") == 1 and update.numbers["trust"] == 2.0 else content

        monkeypatch.setattr(records, "answer", hostile)
        recipe = toy.ToyRecipe(clients=3, rounds=3, weights="metric:trust")
        return federate(toy.build, recipe, toy.toy_data(), Run(None, seed=1, device="cpu", progress=False))

    return run


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_malformed_answer_leaves_out_its_client_alone(attacked, change):
    outcome = attacked(change)
    failed = [(r["round"], r["client"]) for r in outcome.clients if r["status"] != "ok"]
    assert failed == [(2, 1)]
    reason = next(r["status"] for r in outcome.clients if r["status"] != "ok")
    assert reason.isprintable()
    assert 5 < len(reason) <= 200
    assert all(torch.isfinite(tensor).all() for tensor in outcome.state_dict().values())


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), MemoryError("\x1b[2J[/red]")])
def test_a_client_that_ends_its_process_ends_nobody_elses(attacked, error):
    def leave(content):
        raise error

    outcome = attacked(leave)
    rows = [r for r in outcome.clients if r["status"] != "ok"]
    assert [(r["round"], r["client"]) for r in rows] == [(2, 1)]
    assert type(error).__name__ in rows[0]["status"]
    assert "\x1b" not in rows[0]["status"]


def test_a_users_interrupt_still_ends_the_run(attacked, request):
    given = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell ignores it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, given))

    def interrupted(content):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass
        return content

    with pytest.raises(KeyboardInterrupt):
        attacked(interrupted)


def test_a_forged_or_replayed_answer_counts_once(monkeypatch):
    def app(message, context):
        content = {"client": ConfigRecord({"id": context.node_id - 1}), "numbers": MetricRecord({"n": context.node_id})}
        return Message(RecordDict(content), reply_to=message)

    local = LocalGrid(app, 2)
    pull = local.pull_messages

    def replayed(names):
        genuine = pull(names)
        forged = []
        for answer in genuine:
            copy = Message(RecordDict({"numbers": MetricRecord({"n": 99})}), 1, "train")
            copy.metadata.__dict__.update(answer.metadata.__dict__)
            copy.metadata.__dict__["_src_node_id"] = 7  # another node answers in its name
            forged.append(copy)
        late = Message(RecordDict({"numbers": MetricRecord({"n": 98})}), 1, "train")
        late.metadata.__dict__.update({"_reply_to_message_id": "0", "_src_node_id": 1})  # to a question of the past
        twice = [*forged, late, *genuine]
        for answer in genuine:
            again = Message(RecordDict({"numbers": MetricRecord({"n": 97})}), 1, "train")
            again.metadata.__dict__.update(answer.metadata.__dict__)
            twice.append(again)
        return twice

    monkeypatch.setattr(local, "pull_messages", replayed)
    answers, ledger = Cohort(local, 2, timeout=5).ask(RecordDict(), "1.0")
    assert [answers[client]["numbers"]["n"] for client in (0, 1)] == [1, 2]
    assert [entry["client"] for entry in ledger] == [0, 1]
