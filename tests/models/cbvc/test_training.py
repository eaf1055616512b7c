"""Phrases from JSON, shots, LaBo's table, and a training."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.models.base import PluginTests
from zoo.errors import DataError, OptionError
from zoo.models.cbvc.claim import claim
from zoo.models.cbvc.data import draw_shots, read_candidates
from zoo.models.cbvc.selection import Objective, Spread
from zoo.models.cbvc.training import CbvcRecipe, Features, score_phrases, settle, training

TINY = CbvcRecipe(clip="demo", shots=1, per_class=3, epochs=20)


class TestCbvc(PluginTests):
    name = "cbvc"
    recipe = TINY
    data = "phantom:skin-lesion?n=48&size=48"
    facts = {"accuracy, 160 unseen phantoms": "accuracy", "AUROC, 160 unseen phantoms": "auroc"}
    facts_on = "phantom:skin-lesion?n=160&size=96&seed=50000", "all"

    def test_beside_the_weights_lie_all_candidates_and_the_constant_answer(self, trained: Any):
        told = json.loads((trained.folder / "concepts.json").read_text())
        config = trained.model.config
        assert len(told) == config.candidates
        assert {one["text"] for one in told if one["chosen"]} == set(config.concepts)
        assert [one["V"] for one in told] == sorted((one["V"] for one in told), reverse=True)
        scores = json.loads((trained.folder / "scores.json").read_text())
        assert set(scores["test"]) == {"cbvc", f"always {config.most_frequent}"}

    def test_each_class_has_its_own_concepts(self, trained: Any):
        order = trained.model.order
        assert order.max(1).values.tolist() == [3] * 8
        assert bool((trained.model.origin | (order == 0)).all())  # chosen are candidates only


def write(folder: Path, table: Any) -> str:
    path = folder / "phrases.json"
    path.write_text(table if isinstance(table, str) else json.dumps(table))
    return str(path)


def test_full_names_of_classes_become_their_labels(tmp_path: Path):
    found = read_candidates(
        write(tmp_path, {"melanocytic nevi": [" brown   spot ", "brown spot"], "melanoma": ["dark"]})
    )
    assert found == {"NV": ["brown spot"], "MEL": ["dark"]}


def test_phrases_that_name_any_class_are_refused_dropped_or_kept(tmp_path: Path):
    where = write(tmp_path, {"NV": ["unlike Melanoma it is even", "brown"], "MEL": ["dark", "melanomatous"]})
    with pytest.raises(DataError, match="names the class 'melanoma'; reword it, or set class_names=drop"):
        read_candidates(where)
    assert read_candidates(where, "drop") == {"NV": ["brown"], "MEL": ["dark", "melanomatous"]}
    assert len(read_candidates(where, "keep")["NV"]) == 2


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("no json", "are no JSON"),
        ({"NV": ["a"]}, "two classes or more"),
        ({"NV": ["a"], "MEL": "b"}, "must be a list of texts"),
        ({"NV": ["a"], "MEL": [" "]}, "no phrase for the class 'MEL'"),
        ({"NV": ["a"], "melanocytic nevi": ["b"]}, "the class 'NV' twice"),
    ],
)
def test_tables_that_can_t_be_used_are_refused(table: Any, message: str, tmp_path: Path):
    with pytest.raises(DataError, match=message):
        read_candidates(write(tmp_path, table))


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="can't be read"):
        read_candidates(str(tmp_path / "none.json"))


def test_the_zoo_s_own_phrases_name_no_class():
    assert list(read_candidates("demo")) == ["MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC"]


def test_shots_are_as_many_of_each_class():
    y = [0, 1, 0, 1, 1, 0, 2, 2]
    for rng in (np.random.default_rng(0), random.Random(0)):
        chosen = draw_shots(y, "abc", 2, rng)
        assert sorted(y[i] for i in chosen) == [0, 0, 1, 1, 2, 2]
        assert len(set(chosen)) == 6
    assert draw_shots(y, "abc", 0, random.Random(0)) == list(range(8))
    with pytest.raises(DataError, match="the class c has 2 training images, fewer than the 3 shots asked for"):
        draw_shots(y, "abc", 3, random.Random(0))


def test_the_released_draw_is_one_sample_per_class_with_seed_1():
    y = [0] * 10 + [1] * 10
    chance = random.Random(1)
    expected = [*chance.sample(range(10), 4), *chance.sample(range(10, 20), 4)]
    assert draw_shots(y, "ab", 4, random.Random(1)) == expected


def test_the_released_reading_takes_labo_s_table_by_the_shots():
    rows = {
        shots: settle(training.configure("paper", {"recipe": "released", "shots": str(shots)}))
        for shots in (1, 4, 16, 0)
    }
    assert [(row.lr, row.batch_size, row.epochs, row.init, row.coverage) for row in rows.values()] == [
        (1e-3, 4, 20_000, 1.0, 0.1), (1e-4, 8, 10_000, 0.01, 1.0), (1e-3, 16, 10_000, 0.1, 15.0),
        (5e-4, 256, 10_000, 1.0, 0.1),
    ]  # fmt: skip
    with pytest.raises(OptionError, match="rows for 1, 2, 4, 8, 16, 0 shots"):
        settle(training.configure("paper", {"recipe": "released", "shots": "3"}))
    assert settle(CbvcRecipe(lr=0.5, epochs=7)).lr == 0.5


def test_a_repeated_phrase_belongs_to_all_or_to_the_first():
    table = {"a": ["p", "q"], "b": ["q", "r"]}
    few = Features(torch.rand(4, 5), torch.tensor([0, 0, 1, 1]))
    spread = Spread(5).update(torch.rand(20, 5))

    def origin(repeated: str) -> list[list[bool]]:
        recipe = replace(TINY, repeated=repeated, objective=Objective())
        return score_phrases(table, torch.rand(3, 5), few, spread, recipe).origin.tolist()

    assert origin("all") == [[True, True, False], [False, True, True]]
    assert origin("first") == [[True, True, False], [False, False, True]]


def test_the_claim_compares_with_permuted_scores_and_foreign_images():
    pairs = {(one.method, one.baseline) for one in claim.comparisons}
    assert {("LaBo + V", "LaBo + permuted V"), ("LaBo + V, foreign images", "LaBo + V")} <= pairs
