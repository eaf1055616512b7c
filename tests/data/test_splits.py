from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry
from zoo.data.splits import PARTS, Split, divide, leaks, load_split, save_split, split
from zoo.errors import DataError, OptionError

IMAGE = np.zeros((2, 2))


def dataset_of(rows):
    """From (patient, label, split) rows."""
    return Dataset(
        "x:y",
        [
            Entry(str(i), Case(IMAGE, str(i), label=label), patient, part)
            for i, (patient, label, part) in enumerate(rows)
        ],
    )


@settings(max_examples=60)
@given(
    patients=st.lists(st.integers(0, 30), min_size=3, max_size=60).filter(lambda p: len(set(p)) >= 3),
    labels=st.integers(1, 4),
    seed=st.integers(0, 5),
)
def test_parts_cover_the_set_share_no_patient_and_none_is_empty(patients, labels, seed):
    dataset = dataset_of([(f"p{p}", str(p % labels), None) for p in patients])
    parts = split(dataset, (0.6, 0.2, 0.2), seed)
    ids = [set(getattr(parts, part).ids) for part in PARTS]
    assert set.union(*ids) == set(dataset.ids)
    assert sum(map(len, ids)) == len(dataset)
    assert all(ids)
    owners = [{patients[int(i)] for i in part} for part in ids]
    assert sum(map(len, owners)) == len(set.union(*owners))
    assert split(dataset, (0.6, 0.2, 0.2), seed).to_dict() == parts.to_dict()


@given(order=st.permutations(range(20)))
@settings(max_examples=20)
def test_the_order_of_the_cases_does_not_matter(order):
    entries = [Entry(f"c{i:02}", Case(IMAGE, f"c{i:02}"), f"p{i // 2}") for i in range(20)]
    first = split(Dataset("x:y", entries), seed=1)
    second = split(Dataset("x:y", [entries[i] for i in order]), seed=1)
    assert all(set(getattr(first, part).ids) == set(getattr(second, part).ids) for part in PARTS)


def test_shares_and_labels_are_balanced():
    dataset = dataset_of([(None, "rare" if i % 10 == 0 else "common", None) for i in range(200)])
    parts = split(dataset, (0.7, 0.1, 0.2), seed=3)
    assert [len(getattr(parts, part)) for part in PARTS] == [140, 20, 40]
    assert [Counter(case.label for case in getattr(parts, part))["rare"] for part in PARTS] == [14, 2, 4]


def test_seeds_differ():
    dataset = dataset_of([(None, None, None)] * 50)
    assert split(dataset, seed=0).to_dict() != split(dataset, seed=1).to_dict()


def test_stated_splits_are_kept_and_validation_is_taken_from_training():
    rows = [(f"p{i // 2}", None, "train") for i in range(40)] + [("q", None, "test")]
    parts = split(dataset_of(rows), (0.7, 0.1, 0.2))
    assert parts.test.ids == ["40"]
    assert len(parts.validation) == 6 or len(parts.validation) == 4
    assert len(parts.train) + len(parts.validation) == 40
    rows[0] = rows[1] = ("p0", None, "validation")
    kept = split(dataset_of(rows), (0.7, 0.1, 0.2))
    assert kept.validation.ids == ["0", "1"]


def test_a_part_may_be_left_out():
    parts = split(dataset_of([(None, None, None)] * 10), (0.8, 0.0, 0.2))
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (8, 0, 2)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("p", None, "train"), ("p", None, "test")], "patient p of x:y is in train and test"),
        ([("p", None, "train"), ("q", None, None)], "states a split for some cases but not for 1"),
        ([("p", None, "test")], "no training case"),
        ([("p", None, None)] * 9, "1 patients, too few for 3 parts"),
    ],
)
def test_unusable_sets_are_one_sentence(rows, words):
    with pytest.raises(DataError, match=words):
        split(dataset_of(rows))


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.5, 0.2, 0.2), (0.0, 0.5, 0.5), (1.2, -0.1, -0.1)])
def test_wrong_fractions(fractions):
    with pytest.raises(OptionError, match="shares"):
        split(dataset_of([(None, None, None)] * 9), fractions)


def test_leaks_names_patient_and_splits():
    dataset = dataset_of([("a", None, "train"), ("a", None, "test"), ("b", None, "test"), ("b", None, "test")])
    assert leaks(dataset) == {"a": ["train", "test"]}


def test_a_split_can_be_written_and_read(tmp_path):
    dataset = dataset_of([(None, None, None)] * 12)
    parts = split(dataset, seed=2)
    path = save_split(parts, tmp_path / "split.json", 2)
    assert load_split(dataset, path).to_dict() == parts.to_dict()
    with pytest.raises(DataError, match="divides other data"):
        load_split(dataset.subset(range(3)), path)
    path.write_text("{}")
    with pytest.raises(DataError, match="no record of a split"):
        load_split(dataset, path)


# ---- folds -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    folds: int = 5
    fold: int = 0


FOLDS = Split((0.64, 0.16, 0.20), folds=True)


def lesion_set(patients: int = 40, melanomas: int = 8, seed: int = 0) -> Dataset:
    """A set of lesions without images; ``melanomas`` patients have one."""
    rng = np.random.default_rng(seed)
    entries = []
    for p in range(patients):
        for i in range(int(rng.integers(1, 9))):
            label = "melanoma" if p < melanomas and i == 0 else "benign"
            entries.append(Entry(f"{p}-{i}", Case("x.png", f"{p}-{i}", label=label), patient=f"p{p}"))
    return Dataset("csv:x", entries)


@settings(max_examples=5)
@given(seed=st.integers(0, 50), fold=st.integers(0, 4))
def test_folds_keep_patients_together_and_share_out_melanomas(seed: int, fold: int):
    dataset = lesion_set(seed=seed)
    parts = divide(dataset, FOLDS, Recipe(fold=fold), seed)
    people = [{e.patient for e in part.entries} for part in (parts.train, parts.validation, parts.test)]
    assert len(set.union(*people)) == sum(map(len, people)) == 40
    assert sum(len(part) for part in (parts.train, parts.validation, parts.test)) == len(dataset)
    counts = [sum(case.label == "melanoma" for case in part) for part in (parts.train, parts.validation, parts.test)]
    assert min(counts) >= 1
    assert counts[0] > counts[1]


def test_the_folds_test_every_lesion_once():
    dataset = lesion_set()
    tested = [name for fold in range(5) for name in divide(dataset, FOLDS, Recipe(fold=fold), 3).test.ids]
    assert sorted(tested) == sorted(dataset.ids)


def test_folds_that_can_not_be_are_refused():
    with pytest.raises(OptionError, match="fold must be below folds, 5, not 5"):
        divide(lesion_set(), FOLDS, Recipe(fold=5))
    with pytest.raises(DataError, match="has 6 patients, too few for 5 folds"):
        divide(lesion_set(patients=6), FOLDS, Recipe())


def test_splits_that_a_set_states_are_kept():
    entries = [replace(e, split=("train", "validation", "test")[int(str(e.patient)[1:]) % 3]) for e in
               lesion_set().entries]  # fmt: skip
    parts = divide(Dataset("csv:x", entries), FOLDS, Recipe())
    assert {e.patient for e in parts.test.entries} == {f"p{p}" for p in range(2, 40, 3)}
