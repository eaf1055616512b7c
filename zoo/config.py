"""Typed configuration: frozen dataclasses to and from plain data, and from the command line's ``--set FIELD=VALUE``.

A plugin has two such classes, one for its network and one for its training recipe. A field may be ``bool``, ``int``,
``float``, ``str``, ``Literal[...]``, ``T | None``, ``tuple[T, ...]``, ``tuple[T1, T2]``, ``dict[str, T]`` or another
dataclass, and states its range where it is declared: numbers are finite, and a config is refused before anything is
built from it. ``"infinite": True`` beside a range allows infinity as a word::

    @dataclass(frozen=True)
    class Recipe:
        lr: float = field(default=1e-3, metadata={"min": 0.0, "max": 100.0})  # Sec. 3.1
        norm: str = field(default="batch", metadata={"choices": ("batch", "group")})
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from zoo.errors import OptionError
from zoo.text import nearest, strict_json

T = TypeVar("T")

_TRUE = {"true", "yes", "on", "1"}
_FALSE = {"false", "no", "off", "0"}
_NONE = {"none", "null"}
LARGEST = 2**63 - 1  # whole number, whatever a field declares
LONGEST = 4096  # list, and table of names


def from_dict(cls: type[T], data: Mapping[str, Any]) -> T:
    """An instance of the dataclass ``cls`` from plain data, as JSON gives it (lists for tuples).

    Raises ``OptionError`` for an unknown or missing field, a value of the wrong type, or one outside its range.
    """
    if not isinstance(data, Mapping):
        raise OptionError(f"{cls.__name__} must be a table of fields, not {_shown(data)}")
    return _from_dict(cls, data, prefix="")


def to_dict(config: Any) -> dict[str, Any]:
    """``config`` as plain data that strict JSON can hold and ``from_dict`` reads back: infinities become strings."""
    return {item.name: _plain(getattr(config, item.name)) for item in fields(config)}


def override(config: T, changes: Mapping[str, str]) -> T:
    """``config`` with fields replaced by values given as text; ``inner.field`` reaches into a nested dataclass.

    Numbers, flags (``true``/``false``), ``none``, and tuples as ``1,2,3`` are read according to the field's type.
    Raises ``OptionError`` as ``from_dict`` does.
    """
    data = to_dict(config)
    for name, text in changes.items():
        _set(type(config), data, name, str(text), prefix="")
    return from_dict(type(config), data)


def changed(config: T, changes: Mapping[str, Any]) -> T:
    """``config`` with other values; a mapping changes some fields of a nested dataclass and leaves the others."""
    values = {
        name: changed(inner, value)
        if is_dataclass(inner := getattr(config, name)) and isinstance(value, Mapping)
        else value
        for name, value in changes.items()
    }
    return replace(config, **values)  # type: ignore[type-var]


def parse(text: str, kind: Any, name: str) -> Any:
    """One value given as text, as the type ``kind``. Raises ``OptionError`` naming ``name``."""
    return _convert(_parse(text, kind, name), kind, {}, name)


def validate(config: Any) -> None:
    """Raises ``OptionError`` if a directly constructed ``config`` has a value of the wrong type or out of range."""
    from_dict(type(config), to_dict(config))


@cache
def _types(cls: type) -> dict[str, Any]:
    """Of the fields; kept, since every start reads all cards and evaluating annotations is most of that."""
    return get_type_hints(cls)


def _from_dict(cls: type[T], data: Mapping[str, Any], prefix: str) -> T:
    known: dict[str, Field[Any]] = {item.name: item for item in fields(cls) if item.init}  # type: ignore[arg-type]
    for name in data:
        if name not in known:
            raise OptionError(f"{cls.__name__} has no field {prefix + str(name)!r}; {nearest(str(name), known)}")
    values: dict[str, Any] = {}
    for name, item in known.items():
        if name in data:
            values[name] = _convert(data[name], _types(cls)[name], item.metadata, prefix + name)  # type: ignore[arg-type]
        elif item.default is MISSING and item.default_factory is MISSING:
            raise OptionError(f"{cls.__name__} needs the field {prefix + name!r} ({_name(_types(cls)[name])})")  # type: ignore[arg-type]
    try:
        return cls(**values)
    except ValueError as error:  # a check across fields in __post_init__
        raise OptionError(f"{cls.__name__}: {error}") from error


def _convert(value: Any, kind: Any, limits: Mapping[str, Any], name: str) -> Any:
    """``value`` as type ``kind``, within ``limits``; never a lossy or surprising conversion."""
    origin, args = get_origin(kind), get_args(kind)

    def refuse() -> OptionError:
        return OptionError(f"{name} must be {_name(kind)}, not {_shown(value)}")

    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        options = [option for option in args if option is not type(None)]
        for option in options:
            try:
                return _convert(value, option, limits, name)
            except OptionError:
                if len(options) == 1:
                    raise
        raise refuse()
    if origin is Literal:
        if not any(value == option and type(value) is type(option) for option in args):
            raise OptionError(f"{name} must be one of {', '.join(map(str, args))}, not {_shown(value)}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise refuse()
        kinds = [args[0]] * len(value) if len(args) == 2 and args[1] is Ellipsis else list(args)
        if len(kinds) != len(value):
            raise refuse()
        if len(value) > LONGEST:
            raise OptionError(f"{name} must be a list of at most {LONGEST:,}, not of {len(value):,}")
        return tuple(_convert(v, k, limits, f"{name}[{i}]") for i, (v, k) in enumerate(zip(value, kinds, strict=True)))
    if origin is dict:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise refuse()
        if len(value) > LONGEST:
            raise OptionError(f"{name} must be a table of at most {LONGEST:,} names, not of {len(value):,}")
        return {key: _convert(v, args[1], limits, f"{name}.{key}") for key, v in value.items()}
    if is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise refuse()
        return _from_dict(kind, value, prefix=name + ".")  # type: ignore[arg-type]
    if kind is bool:
        if not isinstance(value, bool):
            raise refuse()
        return value
    if kind is int:
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) > LARGEST:
            raise refuse()
        return _within(value, limits, name)
    if kind is float:
        if isinstance(value, str) and value in ("inf", "-inf"):  # strict JSON has no infinity
            value = float(value)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise refuse()
        if value != value or (isinstance(value, int) and abs(value) > LARGEST):
            raise refuse()
        if math.isinf(value):
            if limits.get("infinite"):
                return value
            raise OptionError(f"{name} must be a finite number, not {_shown(value)}")
        return _within(float(value), limits, name)
    if kind is str:
        if not isinstance(value, str):
            raise refuse()
        return _within(value, limits, name)
    raise TypeError(f"field {name!r} has the unsupported type {kind!r}")


def _within(value: Any, limits: Mapping[str, Any], name: str) -> Any:
    choices = limits.get("choices")
    if choices is not None and value not in choices:
        raise OptionError(f"{name} must be one of {', '.join(map(str, choices))}, not {_shown(value)}")
    low, high = limits.get("min"), limits.get("max")
    if (low is not None and value < low) or (high is not None and value > high):
        if low is not None and high is not None:
            raise OptionError(f"{name} must lie between {low} and {high}, not {_shown(value)}")
        bound = f"at least {low}" if low is not None else f"at most {high}"
        raise OptionError(f"{name} must be {bound}, not {_shown(value)}")
    return value


def _set(cls: type, data: dict[str, Any], name: str, text: str, prefix: str) -> None:
    head, _, rest = name.partition(".")
    known = [item.name for item in fields(cls) if item.init]
    if head not in known:
        raise OptionError(f"{cls.__name__} has no field {prefix + head!r}; {nearest(head, known)}")
    kind = _types(cls)[head]
    if rest:
        inner = next((k for k in (kind, *get_args(kind)) if is_dataclass(k)), None)
        if inner is None:
            raise OptionError(f"{prefix + head} is {_name(kind)} and has no field {rest!r}")
        if data[head] is None:
            data[head] = {}
        _set(inner, data[head], rest, text, prefix + head + ".")  # type: ignore[arg-type]
    else:
        data[head] = _parse(text, kind, prefix + head)


def _parse(text: str, kind: Any, name: str) -> Any:
    """Text from a command line as plain data for ``_convert``."""
    origin, args = get_origin(kind), get_args(kind)
    if kind is str:
        return text
    text = text.strip()
    refusal = OptionError(f"{name} must be {_name(kind)}, not {_shown(text)}")
    if origin in (Union, types.UnionType):
        if type(None) in args and text.lower() in _NONE:
            return None
        for option in (option for option in args if option is not type(None)):
            try:
                return _parse(text, option, name)
            except OptionError:
                continue
        raise refusal
    if origin is Literal:
        return next((option for option in args if str(option) == text), text)
    if origin is tuple:
        if text.startswith(("(", "[")) and text.endswith((")", "]")):
            text = text[1:-1]
        parts = [part for part in text.split(",") if part.strip()]
        kinds = [args[0]] * len(parts) if len(args) == 2 and args[1] is Ellipsis else list(args)
        if len(parts) != len(kinds):
            raise refusal
        return [_parse(part, k, name) for part, k in zip(parts, kinds, strict=True)]
    if origin is dict or is_dataclass(kind):
        try:
            return strict_json(text)
        except ValueError:
            raise OptionError(f"{name} must be a JSON object, not {_shown(text)}") from None
    if kind is bool:
        if text.lower() not in _TRUE | _FALSE:
            raise OptionError(f"{name} must be true or false, not {_shown(text)}")
        return text.lower() in _TRUE
    try:
        if kind is int:
            return int(text)
        if kind is float:
            return float(text)
    except ValueError:
        raise refusal from None
    return text


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value


def _name(kind: Any) -> str:
    """A type in words a user reads."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join("none" if option is type(None) else _name(option) for option in args)
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            return f"a list, each {_name(args[0])}"
        return f"a list of {len(args)} ({', '.join(_name(a) for a in args)})"
    if origin is dict:
        return "a table of names"
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return names.get(kind, getattr(kind, "__name__", str(kind)))


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print the largest whole numbers
        text = f"a {type(value).__name__} of too many digits"
    return text if len(text) <= 60 else text[:57] + "..."


__all__ = ["from_dict", "nearest", "override", "parse", "to_dict", "validate"]
