"""Small helpers for text and JSON that several rooms need: names, near misses, lists in a sentence, finite numbers."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def close_to(name: str, known: Iterable[str], *, count: int = 1, cutoff: float = 0.5) -> list[str]:
    """At most ``count`` of ``known`` that look like ``name``, the nearest first. ``cutoff``: 0 takes all, 1 itself."""
    return difflib.get_close_matches(name, list(known), n=count, cutoff=cutoff)


def nearest(name: str, known: Iterable[str]) -> str:
    """A remedy for a mistyped ``name``: the closest of ``known``, or all of them."""
    known = list(known)
    close = close_to(name, known)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(known)}" if known else "there are none"


def listed(items: Sequence[str], last: str = "and") -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} {last} {items[-1]}"


def kebab(name: str) -> str:
    """A name in kebab-case, from camel case, spaces or anything else: ``MyModel 2`` becomes ``my-model-2``.

    Only ``a-z``, digits and single hyphens remain; it may be empty.
    """
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name)
    return re.sub(r"[^a-z0-9]+", "-", split.lower()).strip("-")


def normalised(distribution: str) -> str:
    """The name of a distribution as package indices compare it (PEP 503): ``My_Zoo.Plugin`` is ``my-zoo-plugin``."""
    return re.sub(r"[-_.]+", "-", distribution.strip()).lower()


class Distinct:
    """Names none of which comes twice, whatever their case: the second ``eye`` becomes ``eye_2``.

    Where a number was given out is remembered, so that a table of one name a million times over stays quick.
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._counts: dict[str, int] = {}

    def __contains__(self, name: str) -> bool:
        return name.casefold() in self._taken

    def take(self, name: str) -> str:
        """``name``, or with the lowest free number from 2 behind it."""
        found, key = name, name.casefold()
        while found in self:
            self._counts[key] = self._counts.get(key, 1) + 1
            found = f"{name}_{self._counts[key]}"
        self._taken.add(found.casefold())
        return found


def finite(value: Any) -> Any:
    """Plain data without NaN and infinities, which JSON lacks: they become None. Tuples become lists."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def printable(text: object, longest: int | None = None) -> str:
    """A stranger's text on one line, without anything that moves a terminal's cursor, and cut to a length."""
    try:
        words = str(text).split()
    except Exception:  # a stranger's error may fail at being told, too
        words = [type(text).__name__]
    kept = "".join(c if c.isprintable() else "?" for c in " ".join(words))
    return kept if longest is None or len(kept) <= longest else kept[: longest - 3] + "..."


def strict_json(text: str) -> Any:
    """JSON as the standard has it: no NaN, no infinity, no number too large for a float, no name twice in an object.

    Raises ``ValueError``, also for a nest that is too deep.
    """
    try:
        return json.loads(text, parse_constant=_no_number, parse_float=_float, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _float(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:40]} is too large a number")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"it has the name {ascii(twice)[:60]} twice")
    return found
