"""Names, near misses, lists and numbers for people and for JSON."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.text import Distinct, close_to, finite, kebab, listed, nearest, normalised, strict_json


@pytest.mark.parametrize(
    ("name", "expected"),
    [("MyModel", "my-model"), ("my model 2", "my-model-2"), ("__A.b--C__", "a-b-c"), ("ünïcode", "n-code"), ("!", "")],
)
def test_kebab_case(name: str, expected: str) -> None:
    assert kebab(name) == expected


@given(name=st.text())
def test_kebab_case_of_kebab_case_is_itself(name: str) -> None:
    assert kebab(kebab(name)) == kebab(name)


def test_distributions_are_compared_as_indices_do() -> None:
    assert normalised("My_Zoo.Plugin--x") == "my-zoo-plugin-x"
    assert normalised("MyZoo") == "myzoo"


def test_a_near_name_is_offered_or_else_all_names() -> None:
    assert nearest("vesel", ["vessel", "lesion"]) == "did you mean 'vessel'?"
    assert nearest("zzz", ["vessel", "lesion"]) == "known: vessel, lesion"
    assert nearest("zzz", []) == "there are none"
    assert close_to("lesion", ["lesions", "lesion", "vessel"], count=2) == ["lesion", "lesions"]


def test_lists_in_a_sentence() -> None:
    assert [listed(items) for items in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
    assert listed(["a", "b"], "or") == "a or b"


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=10,
)


@given(value=json_like)
def test_finite_data_is_json_and_changes_nothing_else(value) -> None:
    text = json.dumps(finite(value), allow_nan=False)
    assert json.loads(text) == json.loads(json.dumps(finite(value)))


def test_nan_and_infinity_become_none() -> None:
    assert finite({"a": (1.5, math.nan), "b": [{"c": math.inf}]}) == {"a": [1.5, None], "b": [{"c": None}]}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": NaN}', "NaN"),
        ("[Infinity]", "Infinity"),
        ("[-Infinity]", "-Infinity"),
        ("[1e999]", "too large"),
        ('{"a": {"b": 1, "b": 2}}', "'b' twice"),
        ("[" * 100_000, "nested too deeply"),
        ("{", "property name"),
    ],
)
def test_json_is_strict(text, why):
    assert strict_json('{"a": [1, 2.5e300, null]}') == {"a": [1, 2.5e300, None]}
    with pytest.raises(ValueError, match=why):
        strict_json(text)


def test_names_are_made_distinct_whatever_their_case() -> None:
    names = Distinct()
    assert [names.take(one) for one in ("eye", "Eye", "eye", "eye_2", "lid")] == [
        "eye",
        "Eye_2",
        "eye_3",
        "eye_2_2",
        "lid",
    ]
    assert "EYE_3" in names
    assert "eye_4" not in names


@given(st.lists(st.sampled_from(["a", "A", "a_2", "a_3", "b", "ß", "ss", ""]), max_size=30))
def test_every_name_gets_the_lowest_free_number(given_names: list[str]) -> None:
    names, found = Distinct(), list[str]()
    for name in given_names:
        taken = {one.casefold() for one in found}
        free = next(one for one in [name, *(f"{name}_{i}" for i in range(2, 99))] if one.casefold() not in taken)
        found.append(names.take(name))
        assert found[-1] == free


def test_one_name_a_hundred_thousand_times_over() -> None:
    names = Distinct()
    found = [names.take("scan") for _ in range(100_000)]
    assert found[-1] == "scan_100000"
    assert len(set(found)) == len(found)
