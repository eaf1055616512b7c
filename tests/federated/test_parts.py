from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from zoo.errors import DataError, OptionError
from zoo.federated import (
    Best,
    History,
    HistoryPolicy,
    State,
    Update,
    average,
    by_attribute,
    by_file,
    dirichlet,
    divided,
    drawn,
    iid,
    labels_of,
    lossy,
    split_figure,
    weighted_mean,
)
from zoo.federated.federation import holdings, weigh
from zoo.federated.flat import adam_step, flat, unflat


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


def test_weight_rules_refuse_what_cannot_be_averaged():
    rows = [{"num_examples": 3.0, "rf": 0.0}, {"num_examples": 1.0, "rf": float("nan")}]
    assert weigh(lambda m: [r["num_examples"] ** 2 for r in m], [0, 1], rows) == [9, 1]
    with pytest.raises(DataError, match="client 1 has the aggregation weight nan"):
        weigh("metric:rf", [0, 1], rows)
    with pytest.raises(DataError, match="weight 0"):
        weigh(lambda m: [0, 0], [0, 1], rows)
    with pytest.raises(DataError, match="1 weights for 2 clients"):
        weigh(lambda m: [1], [0, 1], rows)


def test_a_history_stays_within_its_bytes_and_spans_the_training(tmp_path):
    network = {"w": torch.arange(10.0)}
    history = History(HistoryPolicy(max_bytes=5 * 20), tmp_path / "history")  # five rounds of ten halves
    for number in range(20):
        history.add(number, network, {}, 2)
    assert history.rounds == [0, 4, 8, 12, 16]
    assert history.network(8)["w"].dtype == torch.float16
    with pytest.raises(KeyError, match="round 7 isn't kept"):
        history.network(7)
    with pytest.raises(OptionError, match="more than the history's"):
        History(HistoryPolicy(max_bytes=10)).add(0, network, {}, 2)
    with pytest.raises(OptionError, match="dtype"):
        HistoryPolicy(dtype="bytes")


def test_the_mean_keeps_number_types_and_weights():
    models = [{"w": torch.tensor([1.0, 2]), "n": torch.tensor(3)}, {"w": torch.tensor([5.0, 2]), "n": torch.tensor(4)}]
    mean = weighted_mean(models, [1, 3])
    assert mean["w"].tolist() == [4, 2]
    assert (mean["n"].dtype, int(mean["n"])) == (torch.int64, 4)


def test_averaging_touches_only_models_that_the_clients_return():
    state = State({"network": {"w": torch.zeros(1)}, "teacher": {"w": torch.ones(1)}}, {"kept": 1})
    updates = [Update({"network": {"w": torch.full((1,), v)}, "images": {"x": torch.ones(2)}}, num_examples=1)
               for v in (1.0, 3.0)]  # fmt: skip
    for update in updates:
        update.weight = 0.5
    after = average(updates, state)
    assert float(after.network["w"]) == 2
    assert float(after.models["teacher"]["w"]) == 1
    assert after.models.keys() == {"network", "teacher"}
    assert after.own == {"kept": 1}
    assert float(state.network["w"]) == 0


def test_the_best_round_is_kept_and_later_ones_go_on():
    scores = iter([0.3, 0.5, math.nan, 0.5])
    mark = lambda updates, state: state.updated(network={"w": torch.tensor(float(state.round))})  # noqa: E731
    keep = Best(mark, lambda state: next(scores))
    state = State({"network": {"w": torch.tensor(0.0)}})
    for round_ in range(1, 5):
        state = keep([], replace(state, round=round_))
    assert state.own["best"]["round"] == 2
    assert float(state.own["best"]["network"]["w"]) == 2
    assert float(state.network["w"]) == 4


def test_a_model_as_one_vector_comes_back_in_its_shapes_and_types():
    tensors = {"a": torch.randn(2, 3), "b": torch.tensor([7, 8]), "c": torch.randn(1).half()}
    vector = flat(tensors.values())
    assert vector.dtype == torch.float64
    back = unflat(vector, list(tensors), tensors)
    assert all(torch.equal(back[name], tensors[name]) and back[name].dtype == tensors[name].dtype for name in tensors)


def test_the_servers_adam_remembers_its_earlier_steps():
    state = State({"network": {"w": torch.zeros(2)}})
    here = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    adam = torch.optim.Adam([here], lr=0.1)
    for gradient in (torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])):
        vector, kept = adam_step(state, ["w"], gradient.double(), 0.1)
        state = state.updated({"adam": kept}, network=unflat(vector, ["w"], state.network))
        here.grad = gradient.double()
        adam.step()
    torch.testing.assert_close(state.network["w"].double(), here.detach(), atol=1e-7, rtol=1e-6)


def test_a_model_that_only_some_clients_return_is_refused():
    updates = [Update({"network": {"w": torch.ones(1)}} if i else {}, num_examples=1) for i in range(2)]
    updates[0].client, updates[1].client = 4, 5
    with pytest.raises(DataError, match="client 4 returns no network, and other clients do"):
        average(updates, State({"network": {"w": torch.zeros(1)}}))
    untouched = average([Update(num_examples=1, accuracy=0.5)], State({"network": {"w": torch.zeros(1)}}))
    assert float(untouched.network["w"]) == 0  # nobody returns one: an exchange of numbers


def test_a_lossy_link_loses_whole_rows_and_other_ones_on_the_way_back():
    z = torch.ones(4, 3, 50, 7, requires_grad=True)
    arrived = lossy(z, 0.3, np.random.default_rng(0))
    arrived.sum().backward()
    forth, back = (t.detach().mean(-1) for t in (arrived, z.grad))
    for rows in (forth, back):
        assert set(rows.unique().tolist()) == {0.0, 1.0}
        assert float(rows.mean()) == pytest.approx(0.7, abs=0.06)
        assert not torch.equal(rows[0, 0], rows[0, 1])  # by map
        assert not torch.equal(rows[0], rows[1])  # and by image
    assert not torch.equal(forth, back)
    assert torch.equal(lossy(z, 0.0, np.random.default_rng(0)), z)


def test_clients_draw_with_replacement_from_a_mix_of_labels():
    labels = np.arange(100) % 10
    (alike, _), (unlike, other) = (
        [np.bincount(labels[part], minlength=10) for part in drawn(labels, 2, 1000, alpha, 0)] for alpha in (None, 0.1)
    )
    assert alike.sum() == unlike.sum() == 1000
    assert alike.max() < 150 < unlike.max()
    assert (unlike != other).any()


def test_a_partition_is_named_by_how_it_comes_about(toy, tmp_path):
    cases = toy.toy_data(12).train
    table = tmp_path / "clients.csv"
    table.write_text("id,client\n" + "".join(f"case-{i},{'xy'[i > 8]}\n" for i in range(12)))
    for how, clients in (("iid", 3), ("dirichlet", 3), ("column:site", 2), (f"file:{table}", 2)):
        parts = divided(how, cases, labels_of(cases), 3, 2.0, 0)
        assert len(parts) == clients
        assert sorted(np.concatenate(parts).tolist()) == list(range(12))
    with pytest.raises(OptionError, match="iid, dirichlet, column:NAME or file:PATH, not 'hospital'"):
        divided("hospital", cases, labels_of(cases), 3, 2.0, 0)
