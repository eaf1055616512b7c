"""What weights saw is known by content, and demo weights state theirs."""

from __future__ import annotations

import json

import numpy as np
import pytest

from zoo import registry
from zoo.data import seen
from zoo.data.case import Case
from zoo.data.seen import Seen, content
from zoo.data.sets import Dataset, Entry, load_dataset
from zoo.data.splits import TrainData, split
from zoo.errors import WeightsError
from zoo.loading import locate
from zoo.training.demo_lists import seen_by_demo
from zoo.weights import SEEN

DEMOS = [entry.plugin for entry in registry.entries() if entry.plugin and entry.plugin.weights]


def cases(values, prefix="c"):
    return Dataset("x", [Entry(f"{prefix}{v}", Case(np.full((2, 2), v), f"{prefix}{v}"), f"p{v // 2}") for v in values])


def test_a_phantom_is_its_name_options_and_seed():
    stated, other = (load_dataset(f"phantom:fundus?n=3&seed={seed}&size={size}") for seed, size in ((1, 64), (2, 64)))
    assert content(stated.entries[1]) == content(other.entries[0])
    assert content(load_dataset("phantom:fundus?size=65").entries[1]) != content(stated.entries[0])
    data = split(load_dataset("phantom:fundus?n=20"))
    record = json.loads(Seen.of(data).to_json())
    (name,) = record["train"]["phantoms"]
    assert [f"fundus-{s}" for s in record["train"]["phantoms"][name]] == data.train.ids


def test_a_list_comes_back_from_its_file(tmp_path):
    some = Seen.of(TrainData(cases([0, 1]), cases([4]), cases([6])))
    (tmp_path / SEEN).write_text(some.to_json())
    assert seen.read(tmp_path / SEEN) == some
    assert seen.read(tmp_path / "none") is None
    for text in ("{}", "[]", "no JSON", '{"train": {"cases": 3}}'):
        (tmp_path / SEEN).write_text(text)
        with pytest.raises(WeightsError, match="is no list of the cases"):
            seen.read(tmp_path / SEEN)


def test_patients_count_where_a_case_shows_that_the_set_is_the_same():
    some = Seen.of(TrainData(cases([0]), cases([4]), cases([6])))
    assert some.marks(cases([0, 1, 4, 6], "renamed")) == ["train", "patient", "validation", ""]
    assert some.marks(cases([1, 5])) == ["", ""]  # names alone are anybody's


@pytest.mark.parametrize("plugin", DEMOS, ids=lambda plugin: plugin.name)
def test_demo_weights_state_the_seeds_they_saw(plugin):
    assert seen.read(locate("demo", plugin).folder / SEEN) == seen_by_demo(plugin)
