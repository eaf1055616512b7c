from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.config import from_dict, nearest, override, to_dict, validate
from zoo.errors import OptionError


@dataclass(frozen=True)
class Inner:
    width: int = field(default=8, metadata={"min": 1, "max": 64})


@dataclass(frozen=True)
class Recipe:
    lr: float = field(default=1e-3, metadata={"min": 0.0})
    epochs: int = 30
    episodic: bool = True
    norm: str = field(default="batch", metadata={"choices": ("batch", "group")})
    channels: tuple[int, ...] = field(default=(8, 16), metadata={"min": 1})
    size: tuple[int, float] = (4, 0.5)
    arm: Literal["map", "pooled", 3] = "map"
    limit: float | None = None
    inner: Inner = Inner()
    weights: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Needy:
    classes: int

    def __post_init__(self) -> None:
        if self.classes == 13:
            raise ValueError("thirteen classes bring bad luck")


recipes = st.builds(
    Recipe,
    lr=st.floats(min_value=0, allow_nan=False),
    epochs=st.integers(),
    episodic=st.booleans(),
    norm=st.sampled_from(["batch", "group"]),
    channels=st.lists(st.integers(min_value=1), max_size=4).map(tuple),
    size=st.tuples(st.integers(), st.floats(allow_nan=False)),
    arm=st.sampled_from(["map", "pooled", 3]),
    limit=st.none() | st.floats(allow_nan=False),
    inner=st.builds(Inner, width=st.integers(1, 64)),
    weights=st.dictionaries(st.text(max_size=3), st.floats(allow_nan=False), max_size=3),
)


@given(recipes)
def test_a_config_survives_strict_json(recipe):
    text = json.dumps(to_dict(recipe), allow_nan=False)
    assert from_dict(Recipe, json.loads(text)) == recipe


@given(recipes)
def test_every_field_can_be_given_as_text(recipe):
    changes = {
        "lr": repr(recipe.lr),
        "epochs": str(recipe.epochs),
        "episodic": str(recipe.episodic),
        "norm": recipe.norm,
        "channels": ",".join(map(str, recipe.channels)),
        "size": f"({recipe.size[0]}, {recipe.size[1]!r})",
        "arm": str(recipe.arm),
        "limit": "none" if recipe.limit is None else repr(recipe.limit),
        "inner.width": str(recipe.inner.width),
        "weights": json.dumps(recipe.weights),
    }
    assert override(Recipe(), changes) == recipe


def test_overriding_leaves_other_fields_alone():
    changed = override(Recipe(epochs=7, inner=Inner(3)), {"lr": "1e-4"})
    assert changed == Recipe(lr=1e-4, epochs=7, inner=Inner(3))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epoch": "3"}, ["'epoch'", "did you mean 'epochs'"]),
        ({"inner.widht": "3"}, ["'inner.widht'", "did you mean 'width'"]),
        ({"epochs.x": "3"}, ["epochs", "no field 'x'"]),
        ({"epochs": "3.5"}, ["epochs", "whole number", "'3.5'"]),
        ({"epochs": ""}, ["epochs", "whole number"]),
        ({"lr": "fast"}, ["lr", "a number", "'fast'"]),
        ({"lr": "nan"}, ["lr", "a number"]),
        ({"lr": "-1"}, ["lr", "at least 0.0"]),
        ({"episodic": "maybe"}, ["episodic", "true or false"]),
        ({"norm": "layer"}, ["norm", "batch, group", "'layer'"]),
        ({"arm": "other"}, ["arm", "map, pooled, 3"]),
        ({"channels": "8,x"}, ["channels", "whole number", "'x'"]),
        ({"channels": "8,0"}, ["channels[1]", "at least 1"]),
        ({"size": "4"}, ["size", "a list of 2"]),
        ({"limit": "no"}, ["limit", "a number or none"]),
        ({"inner.width": "65"}, ["inner.width", "between 1 and 64"]),
        ({"weights": "3"}, ["weights", "table"]),
        ({"weights": "{"}, ["weights", "JSON"]),
    ],
)
def test_a_wrong_override_is_one_sentence_that_names_field_and_type(changes, words):
    with pytest.raises(OptionError) as caught:
        override(Recipe(), changes)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("data", "word"),
    [
        ({"lr": "0.1"}, "lr must be a number"),
        ({"lr": True}, "lr must be a number"),
        ({"epochs": 2.0}, "epochs must be a whole number"),
        ({"episodic": 1}, "episodic must be true or false"),
        ({"norm": None}, "norm must be text"),
        ({"channels": 8}, "channels must be a list"),
        ({"inner": 3}, "inner must be"),
        ({"inner": {"depth": 3}}, "'inner.depth'"),
        ({"what": 3}, "'what'"),
        ([], "table of fields"),
    ],
)
def test_wrong_data_is_refused_by_name(data, word):
    with pytest.raises(OptionError, match=r".") as caught:
        from_dict(Recipe, data)
    assert word in str(caught.value)


def test_a_required_field_and_a_rule_across_fields():
    assert from_dict(Needy, {"classes": 2}) == Needy(2)
    with pytest.raises(OptionError, match=r"needs the field 'classes' \(a whole number\)"):
        from_dict(Needy, {})
    with pytest.raises(OptionError, match="Needy: thirteen classes bring bad luck"):
        from_dict(Needy, {"classes": 13})


def test_infinity_is_written_as_text_and_nan_is_refused():
    assert to_dict(Recipe(limit=-math.inf))["limit"] == "-inf"
    with pytest.raises(OptionError, match="limit"):
        validate(Recipe(limit=math.nan))


def test_a_config_built_by_hand_can_be_checked():
    validate(Recipe())
    with pytest.raises(OptionError, match="at least 0"):
        validate(Recipe(lr=-1.0))


def test_nearest_names_all_when_nothing_is_near():
    assert nearest("zzz", ["alpha", "beta"]) == "known: alpha, beta"


@pytest.mark.parametrize("module", ["zoo.config", "zoo.claims", "zoo.data.sets", "zoo.data.splits", "zoo.data.check"])
def test_light_modules_import_no_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
