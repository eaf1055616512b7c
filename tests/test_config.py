from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo import registry
from zoo.config import LARGEST, from_dict, nearest, override, to_dict, validate
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
    limit: float | None = field(default=None, metadata={"infinite": True})
    inner: Inner = Inner()
    weights: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Needy:
    classes: int

    def __post_init__(self) -> None:
        if self.classes == 13:
            raise ValueError("thirteen classes bring bad luck")


FINITE = st.floats(allow_nan=False, allow_infinity=False)
recipes = st.builds(
    Recipe,
    lr=st.floats(min_value=0, allow_nan=False, allow_infinity=False),
    epochs=st.integers(-LARGEST, LARGEST),
    episodic=st.booleans(),
    norm=st.sampled_from(["batch", "group"]),
    channels=st.lists(st.integers(1, LARGEST), max_size=4).map(tuple),
    size=st.tuples(st.integers(-LARGEST, LARGEST), FINITE),
    arm=st.sampled_from(["map", "pooled", 3]),
    limit=st.none() | st.floats(allow_nan=False),
    inner=st.builds(Inner, width=st.integers(1, 64)),
    weights=st.dictionaries(st.text(max_size=3), FINITE, max_size=3),
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


@pytest.mark.parametrize("value", [math.inf, -math.inf, "inf", math.nan, 10**400])
def test_numbers_are_finite_unless_a_field_says_otherwise(value):
    with pytest.raises(OptionError, match="lr must be a"):
        from_dict(Recipe, {"lr": value})
    with pytest.raises(OptionError, match=r"weights\.a must be a"):
        from_dict(Recipe, {"weights": {"a": value}})


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**5000], ids=["above", "below", "unprintable"])
def test_whole_numbers_fit_64_bits(value):
    with pytest.raises(OptionError, match="epochs must be a whole number"):
        from_dict(Recipe, {"epochs": value})


@pytest.mark.parametrize("text", ["1e999", "inf", "nan", "9" * 5000])
def test_text_that_is_no_finite_number_is_refused(text):
    with pytest.raises(OptionError, match="lr must be"):
        override(Recipe(), {"lr": text})


def numbers(cls, prefix=""):
    """Every number that a config may hold: its name, its kind and what its field declares."""
    for item in fields(cls):
        yield from _numbers(get_type_hints(cls)[item.name], item, prefix + item.name)


def _numbers(kind, item, name):
    if kind in (int, float):
        yield name, item.metadata
    elif is_dataclass(kind):
        yield from numbers(kind, name + ".")
    elif get_origin(kind) is not Literal:
        for inner in get_args(kind):
            yield from _numbers(inner, item, name)


@pytest.mark.parametrize("entry", registry.entries(), ids=lambda entry: entry.name)
def test_every_number_of_every_plugin_has_a_finite_range(entry):
    classes = [registry.resolve(entry, "model").config_class]
    if entry.plugin.training:
        training = registry.resolve(entry, "training")
        classes.append(training.recipe)
        for preset in training.presets:  # the ranges hold what the papers say
            training.configure(preset)
    for cls in classes:
        validate(cls())
        for name, declared in numbers(cls):
            if "choices" not in declared:
                ends = declared.get("min"), declared.get("max")
                assert all(end is not None and math.isfinite(end) for end in ends), f"{cls.__name__}.{name}: {ends}"


@pytest.mark.parametrize("value", [math.inf, 1e308, 2**63, 10**9, -(10**9), "inf", math.nan])
@pytest.mark.parametrize("entry", registry.entries(), ids=lambda entry: entry.name)
def test_a_hostile_number_is_refused_before_memory_is_taken(entry, value):
    cls = registry.resolve(entry, "model").config_class
    plain = to_dict(cls())
    for item in fields(cls):
        if get_type_hints(cls)[item.name] in (int, float, int | None, float | None):
            with pytest.raises(OptionError, match=item.name):
                from_dict(cls, {**plain, item.name: value})


def test_lists_and_tables_have_a_bound():
    @dataclass(frozen=True)
    class Lists:
        sizes: tuple[int, ...] = ()
        shares: dict[str, float] = field(default_factory=dict)

    assert from_dict(Lists, {"sizes": [1] * 4096}).sizes == (1,) * 4096
    with pytest.raises(OptionError, match="sizes must be a list of at most 4,096, not of 4,097"):
        from_dict(Lists, {"sizes": [1] * 4097})
    with pytest.raises(OptionError, match="shares must be a table of at most 4,096 names"):
        from_dict(Lists, {"shares": {str(i): 1.0 for i in range(4097)}})
