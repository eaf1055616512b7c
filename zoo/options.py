"""The optional inputs of a plugin: from what a user typed to checked values."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from zoo.errors import OptionError
from zoo.plugin import Input, Plugin
from zoo.spec import is_kind
from zoo.storage import user_path
from zoo.text import close_to

_FLAGS = {"true": True, "yes": True, "1": True, "on": True, "false": False, "no": False, "0": False, "off": False}
_COORDINATES = {"box": 4, "point": 2, "click": 3}
_WRITTEN = {"box": "x0,y0,x1,y1", "point": "x,y", "click": "x,y,label"} | dict.fromkeys(
    ("image", "volume", "mask", "table", "file"), "FILE"
)
_VALUES = ("text", "number", "integer", "choice", "flag", "box", "point", "click")
PATHS = ("image", "images", "volume", "mask", "table", "file", "folder")
"""Kinds that may be given as a path."""
READ = ("image", "volume", "table")
"""Kinds of named inputs that are read before a plugin gets them."""


def parse(plugin: Plugin, assignments: Iterable[str], *, whole: bool = True) -> dict[str, Any]:
    """``["threshold=0.4", "modality=fundus"]`` to checked values.

    An option that may be given several times takes repeated assignments or, unless it is a coordinate, a
    comma-separated list. ``whole``: required options must be among them. Raises ``OptionError`` naming the option and
    what it expects.
    """
    given: dict[str, list[str]] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise OptionError(
                f"--with {assignment} has no value; write --with {assignment}=VALUE, without spaces around ="
            )
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
    return check(plugin, values, whole=whole)


def check(plugin: Plugin, values: Mapping[str, Any], *, whole: bool = True) -> dict[str, Any]:
    """Check values that a Python caller passes, and return them in plain Python.

    Numbers may be NumPy's or torch's, coordinates an array; a single value of an option that may be given several
    times becomes a tuple of one. ``None`` is an option that isn't given. Raises ``OptionError``.
    """
    checked: dict[str, Any] = {}
    for name, value in values.items():
        declared = _declared(plugin, name)
        if declared.many:
            found = tuple(_checked(declared, one) for one in _several(declared, value))
            checked[name] = found or None
        else:
            checked[name] = None if value is None else _checked(declared, value)
    for declared in plugin.options if whole else ():
        if declared.required and checked.get(declared.name) is None and checked.get(declared.unless) is None:
            also = f" or --with {declared.unless}=..." if declared.unless else ""
            value = shlex.quote(next(iter(declared.choices), _WRITTEN.get(declared.kind, ""))).replace("''", "...")
            raise OptionError(
                f"{plugin.name} needs {declared.name} ({declared.help}); add --with {declared.name}={value}{also}"
            )
    return checked


def complete(plugin: Plugin, values: Mapping[str, Any], *, whole: bool = True) -> dict[str, Any]:
    """All options of a plugin: what is given, checked, and the card's defaults for the rest. Raises ``OptionError``."""
    given = check(plugin, values, whole=whole)
    return {item.name: item.default if given.get(item.name) is None else given[item.name] for item in plugin.options}


def carry(plugin: Plugin, inputs: Iterable[Any]) -> bool:
    """Whether any of these inputs may come with named ones of its own, which are then checked with it: a line of a
    table, a case, a mapping, or, for a model with named images, tables or texts, a phantom."""
    named = any(item.kind in (*READ, "mask", "text") and item.required for item in plugin.options)
    return any(
        is_table(one) or not isinstance(one, str | os.PathLike) or (named and is_kind(str(one), "phantom"))
        for one in inputs
    )


def is_table(one: Any) -> bool:
    """Whether an input names a table."""
    return isinstance(one, str | os.PathLike) and os.fspath(one).lower().endswith((".csv", ".tsv"))


def record(values: Mapping[str, Any]) -> dict[str, Any]:
    """Options as JSON can hold them: an image by its source, a file by its path."""
    return {name: _recorded(value) for name, value in values.items()}


def _recorded(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_recorded(one) for one in value]
    if isinstance(value, Mapping):
        return {str(name): _recorded(one) for name, one in value.items()}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value if value is None or isinstance(value, bool | int | float | str) else getattr(value, "source", "array")


def _declared(plugin: Plugin, name: str) -> Input:
    for declared in plugin.options:
        if declared.name == name:
            return declared
    names = [declared.name for declared in plugin.options]
    near = close_to(name, names, cutoff=0.6)
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


def _several(declared: Input, value: Any) -> tuple[Any, ...]:
    """The values of an option that may be given several times: of many, or of one without its brackets."""
    value = _plain(value) if declared.kind in _VALUES else value
    if value is None:
        return ()
    if not isinstance(value, tuple | list):
        return (value,)
    if declared.kind in _COORDINATES and value and all(_is_number(_plain(one)) for one in value):
        return (value,)
    return tuple(value)


def _checked(declared: Input, value: Any) -> Any:
    kind = declared.kind
    if kind in _VALUES:
        value = _plain(value)
    if kind in _COORDINATES and isinstance(value, tuple | list):
        value = tuple(map(_plain, value))
    if not _is_kind(declared, value) or not _in_range(declared, value):
        raise OptionError(f"option {declared.name} must be {_expected(declared)}, not {_shown(value)}")
    if kind == "box" and not (value[0] < value[2] and value[1] < value[3]):
        shown = ",".join(f"{corner:g}" for corner in value)
        raise OptionError(
            f"option {declared.name} {shown} is empty or inverted; write x0,y0,x1,y1 with x0 < x1 and y0 < y1"
        )
    if kind in PATHS and isinstance(value, str | os.PathLike):
        made = is_kind(str(value), "sample", "phantom") and kind not in ("table", "file", "folder")
        if not made and not user_path(value, OptionError).exists():
            raise OptionError(f"option {declared.name} names {value}, which does not exist")
    return value


def _is_kind(declared: Input, value: Any) -> bool:
    kind = declared.kind
    if kind in ("integer", "number"):
        return isinstance(value, int if kind == "integer" else int | float) and _is_number(value)
    if kind in _COORDINATES:
        return isinstance(value, tuple) and len(value) == _COORDINATES[kind] and all(map(_is_number, value))
    if kind == "flag":
        return isinstance(value, bool)
    if kind == "choice":
        return isinstance(value, str) and value in declared.choices
    if kind == "text":
        return isinstance(value, str)
    if kind in ("file", "folder"):
        return isinstance(value, str | os.PathLike)
    return value is not None and not isinstance(value, bool | int | float)  # an image in one of its many forms


def _in_range(declared: Input, value: Any) -> bool:
    if declared.kind not in ("integer", "number"):
        return True
    return (declared.minimum is None or value >= declared.minimum) and (
        declared.maximum is None or value <= declared.maximum
    )


def _plain(value: Any) -> Any:
    """A number or an array of NumPy or torch as Python's own; large arrays and anything else as they are."""
    if hasattr(value, "tolist") and math.prod(getattr(value, "shape", (0,))) <= 1000:
        return value.tolist()
    return value


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) or math.isfinite(value)


def _shown(value: Any) -> str:
    if hasattr(value, "shape"):
        return f"an array of {' x '.join(map(str, value.shape)) or 'one value'}"
    try:
        text = repr(value)
    except ValueError:  # Python writes no integers of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 80 else text[:77] + "..."


def _expected(declared: Input) -> str:
    if declared.kind == "choice":
        return f"one of {', '.join(declared.choices)}"
    if declared.kind == "flag":
        return "true or false"
    if declared.kind in _COORDINATES:
        return f"{_COORDINATES[declared.kind]} numbers separated by commas, without spaces: {_WRITTEN[declared.kind]}"
    noun = {"integer": "a whole number", "number": "a number"}.get(declared.kind, f"a {declared.kind}")
    low, high = declared.minimum, declared.maximum
    if low is not None and high is not None:
        return f"{noun} from {low:g} to {high:g}"
    if low is not None:
        return f"{noun} of at least {low:g}"
    if high is not None:
        return f"{noun} of at most {high:g}"
    return noun
