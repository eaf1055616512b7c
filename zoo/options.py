"""The optional inputs of a plugin: from what a user typed to checked values."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from zoo.errors import OptionError
from zoo.plugin import Input, Plugin

_FLAGS = {"true": True, "yes": True, "1": True, "on": True, "false": False, "no": False, "0": False, "off": False}
_COORDINATES = {"box": 4, "point": 2}


def parse(plugin: Plugin, assignments: Iterable[str]) -> dict[str, Any]:
    """``["threshold=0.4", "modality=fundus"]`` to checked values.

    An option that may be given several times takes repeated assignments or, unless it is a coordinate, a
    comma-separated list. Raises ``OptionError`` naming the option and what it expects.
    """
    given: dict[str, list[str]] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise OptionError(f"--with {assignment} has no value; write --with {assignment}=VALUE")
        given.setdefault(name.strip().replace("-", "_"), []).append(text.strip())
    values: dict[str, Any] = {}
    for name, texts in given.items():
        declared = _declared(plugin, name)
        if declared.many:
            parts = texts if declared.kind in _COORDINATES else [p for text in texts for p in text.split(",")]
            values[name] = tuple(_parse_one(declared, part) for part in parts)
        elif len(texts) > 1:
            raise OptionError(f"option {name} of {plugin.name} was given {len(texts)} times; it takes one value")
        else:
            values[name] = _parse_one(declared, texts[0])
    return check(plugin, values)


def check(plugin: Plugin, values: dict[str, Any]) -> dict[str, Any]:
    """Check values that a Python caller passes. Raises ``OptionError``; returns the values unchanged."""
    for name, value in values.items():
        declared = _declared(plugin, name)
        for one in value if declared.many and isinstance(value, tuple | list) else (value,):
            if one is not None:
                _check_one(declared, one)
    for declared in plugin.options:
        if declared.required and values.get(declared.name) is None:
            raise OptionError(f"{plugin.name} needs {declared.name} ({declared.help}); add --with {declared.name}=...")
    return values


def _declared(plugin: Plugin, name: str) -> Input:
    for declared in plugin.options:
        if declared.name == name:
            return declared
    names = [declared.name for declared in plugin.options]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(names)}" if names else "it has none"
    raise OptionError(f"{plugin.name} has no option {name!r}; {hint}")


def _parse_one(declared: Input, text: str) -> Any:
    try:
        if declared.kind == "integer":
            return int(text)
        if declared.kind == "number":
            return float(text)
        if declared.kind == "flag":
            return _FLAGS[text.lower()]
        if declared.kind in _COORDINATES:
            return tuple(float(part) for part in text.split(","))
    except (ValueError, KeyError):
        raise OptionError(f"option {declared.name} must be {_expected(declared)}, not {text!r}") from None
    return text


def _check_one(declared: Input, value: Any) -> None:
    kind = declared.kind
    number = isinstance(value, int | float) and not isinstance(value, bool)
    good = {
        "integer": number and isinstance(value, int),
        "number": number and math.isfinite(value),
        "flag": isinstance(value, bool),
        "choice": isinstance(value, str) and value in declared.choices,
        "text": isinstance(value, str),
    }.get(kind, True)
    if kind in _COORDINATES:
        good = isinstance(value, tuple | list) and len(value) == _COORDINATES[kind] and all(map(_finite, value))
    if good and kind in ("integer", "number"):
        low = declared.minimum if declared.minimum is not None else -math.inf
        high = declared.maximum if declared.maximum is not None else math.inf
        good = low <= value <= high
    if not good:
        raise OptionError(f"option {declared.name} must be {_expected(declared)}, not {value!r}")
    if kind in ("file", "folder", "mask", "image") and isinstance(value, str | Path):
        path = Path(value)
        if not str(value).startswith(("sample:", "phantom:")) and not path.exists():
            raise OptionError(f"option {declared.name} names {value}, which does not exist")


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _expected(declared: Input) -> str:
    if declared.kind == "choice":
        return f"one of {', '.join(declared.choices)}"
    if declared.kind == "flag":
        return "true or false"
    if declared.kind in _COORDINATES:
        return f"{_COORDINATES[declared.kind]} numbers separated by commas"
    noun = {"integer": "a whole number", "number": "a number"}.get(declared.kind, f"a {declared.kind}")
    low, high = declared.minimum, declared.maximum
    if low is not None and high is not None:
        return f"{noun} from {low:g} to {high:g}"
    if low is not None:
        return f"{noun} of at least {low:g}"
    if high is not None:
        return f"{noun} of at most {high:g}"
    return noun
