from __future__ import annotations

import numpy as np
import pytest
from flwr.clientapp import ClientApp
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from zoo.errors import DataError, OptionError
from zoo.federated import (
    History,
    HistoryPolicy,
    LocalGrid,
    aggregator,
    by_attribute,
    by_file,
    dirichlet,
    iid,
    labels_of,
    require_tolerated,
    split_figure,
    tolerated,
)
from zoo.federated.federation import holdings, weigh
from zoo.federated.server import load_strategy_state, strategy_state


@settings(max_examples=40, deadline=None)
@given(st.integers(8, 60), st.integers(2, 6), st.floats(0.1, 100), st.integers(0, 1000))
def test_every_case_has_exactly_one_client(n, clients, alpha, seed):
    labels = [i % 3 for i in range(n)]
    for parts in (iid(n, clients, seed), dirichlet(labels, clients, alpha, seed, min_cases=0)):
        assert len(parts) == clients
        assert sorted(np.concatenate(parts).tolist()) == list(range(n))


def test_partitions_are_seeded_and_alpha_sets_the_skew():
    labels = ["a", "b"] * 100
    again = dirichlet(labels, 4, 0.3, 5)
    assert all(np.array_equal(a, b) for a, b in zip(dirichlet(labels, 4, 0.3, 5), again, strict=True))

    def skew(alpha):
        held = [holdings(labels, dirichlet(labels, 4, alpha, seed)) for seed in range(5)]
        return np.mean([abs(c["a"] / c.total() - 0.5) for counters in held for c in counters])

    assert skew(0.2) > 3 * skew(50)
    assert max(map(len, iid(10, 3, 0))) - min(map(len, iid(10, 3, 0))) == 1


def test_an_impossible_dirichlet_split_is_refused():
    with pytest.raises(DataError, match="no Dirichlet split of 12 cases"):
        dirichlet(["a"] * 12, 6, 0.001, 0, min_cases=2, attempts=20)
    with pytest.raises(OptionError, match="alpha"):
        dirichlet(["a"] * 12, 2, 0.0, 0)


def test_sites_and_files_name_the_clients(toy, tmp_path):
    cases = toy.toy_data(12).train
    parts = by_attribute(cases, "site")
    assert [len(part) for part in parts] == [8, 4]
    with pytest.raises(DataError, match="states no scanner"):
        by_attribute(cases, "scanner")
    table = tmp_path / "clients.csv"
    table.write_text("id,client\n" + "".join(f"case-{i},{'xy'[i > 8]}\n" for i in range(12)))
    assert [part.tolist() for part in by_file(cases, table)] == [list(range(9)), [9, 10, 11]]
    table.write_text("id,client\ncase-0,x\n")
    with pytest.raises(DataError, match="'case-1'"):
        by_file(cases, table)
    with pytest.raises(DataError, match="no file"):
        by_file(cases, tmp_path / "none.csv")


def test_labels_must_be_there(toy):
    with pytest.raises(DataError, match="case-3 has no label"):
        labels_of(toy.toy_data(8, unlabelled=3).train)


def test_the_figure_shows_every_client(tmp_path):
    labels = [f"class {i % 9}" for i in range(300)]
    figure = split_figure(labels, dirichlet(labels, 8, 0.5, 0), tmp_path / "split.png")
    assert Image.open(tmp_path / "split.png").size[0] > 800
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == [f"client {i}" for i in range(8)]
    assert len(figure.axes[0].get_legend().get_texts()) == 9


@pytest.mark.parametrize(
    ("name", "bound"),
    [("fedavg", 0), ("krum", 3), ("multi-krum", 3), ("trimmed-mean", 4), ("median", 4), ("bulyan", 1)],
)
def test_aggregators_know_how_many_attackers_they_stand(name, bound):
    assert tolerated(name, 10) == bound
    assert aggregator(name, 10, bound, fraction_evaluate=0.0) is not None
    with pytest.raises(OptionError, match=f"{name} stands at most {bound} attackers among 10 clients, not {bound + 1}"):
        require_tolerated(name, 10, bound + 1)


def test_unknown_aggregators_are_refused():
    with pytest.raises(OptionError, match="did you mean 'krum'"):
        aggregator("krumm", 10)


@pytest.mark.parametrize(("name", "attackers"), [("krum", 2), ("multi-krum", 2), ("trimmed-mean", 2), ("median", 3)])
def test_robust_aggregators_ignore_outliers(toy, name, attackers):
    from flwr.app import Message, MetricRecord, RecordDict

    from zoo.federated.client import array_record

    LocalGrid(ClientApp(), 9)  # messages can only be written where a grid is
    strategy = aggregator(name, 9, attackers)
    asked = [Message(RecordDict(), node, "train") for node in range(1, 10)]
    replies = []
    for i, message in enumerate(asked):
        value = 1e6 if i < attackers else 1 + i / 100
        content = {"arrays": array_record({"w": np.full(3, value)}), "metrics": MetricRecord({"num-examples": 1})}
        replies.append(Message(RecordDict(content), reply_to=message))
    arrays, _ = strategy.aggregate_train(1, replies)
    assert np.abs(arrays["w"].numpy() - 1).max() < 0.2


def test_weight_rules_refuse_what_cannot_be_averaged():
    rows = [{"num-examples": 3.0, "rf": 0.0}, {"num-examples": 1.0, "rf": float("nan")}]
    assert weigh(lambda m: [r["num-examples"] ** 2 for r in m], [0, 1], rows) == [9, 1]
    with pytest.raises(DataError, match="client 1 has the aggregation weight nan"):
        weigh("metric:rf", [0, 1], rows)
    with pytest.raises(DataError, match="weight 0"):
        weigh(lambda m: [0, 0], [0, 1], rows)
    with pytest.raises(DataError, match="1 weights for 2 clients"):
        weigh(lambda m: [1], [0, 1], rows)


def test_a_history_stays_within_its_bytes_and_spans_the_training(tmp_path):
    arrays = {"w": np.arange(10, dtype=np.float32)}
    history = History(HistoryPolicy(max_bytes=5 * 20), tmp_path / "history")  # five rounds of ten halves
    for number in range(20):
        history.add(number, arrays, {}, 2)
    assert history.rounds == [0, 4, 8, 12, 16]
    assert history.arrays(8)["w"].dtype == np.float16
    with pytest.raises(KeyError, match="round 7 isn't kept"):
        history.arrays(7)
    with pytest.raises(OptionError, match="more than the history's"):
        History(HistoryPolicy(max_bytes=10)).add(0, arrays, {}, 2)
    with pytest.raises(OptionError, match="dtype"):
        HistoryPolicy(dtype="bytes")


def test_strategies_remember_what_they_had(toy):
    from flwr.serverapp.strategy import FedAdam

    from zoo.federated.client import array_record

    strategy = FedAdam()
    strategy.m_t, strategy.seen = {"w": np.ones(2)}, [array_record({"w": np.zeros(3)})]
    state = strategy_state(strategy)
    assert not any(callable(value) for value in state.values())
    other = FedAdam()
    load_strategy_state(other, state)
    assert np.array_equal(other.m_t["w"], np.ones(2))
    assert np.array_equal(other.seen[0]["w"].numpy(), np.zeros(3))
