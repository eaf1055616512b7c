"""What one prediction is made of: the first input of a card and the named ones beside it.

Everything that may name them ends here: a call with ``prior=...``, a mapping, a case of a data set, a phantom that
draws several images, and a line of a table whose columns are the names of the inputs. ``Model.predict`` takes what
:func:`deal` gives; nobody else reads a named input.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from zoo import media, options
from zoo.data import patients, phantoms
from zoo.data.case import Case
from zoo.data.tables import inside, table_rows
from zoo.errors import DataError, MediaError, OptionError
from zoo.media.doubts import require_content
from zoo.options import PATHS, READ, is_table
from zoo.plugin import Input, Plugin
from zoo.spec import is_kind
from zoo.storage import user_path
from zoo.text import close_to

ABOUT = ("id", "label", "patient", "site", "split", "mask")
"""Columns of a data set that aren't inputs: a table that one trains on can be predicted on as it is."""


@dataclass(frozen=True)
class Dealt:
    """One case as ``predict`` takes it: its first input, and its options checked and read."""

    first: Any
    chosen: dict[str, Any]
    stated: dict[str, Any]  # the options as plain data
    traces: dict[str, dict[str, str]]  # of each named input that was read: its source and its digest


def deal(plugin: Plugin, inputs: Sequence[Any], given: Mapping[str, Any]) -> list[Dealt]:
    """What each of ``inputs`` and the options ``given`` with all of them come to.

    An input is what ``_read`` takes, or has named inputs of its own: a mapping from the names of the card, a ``Case``
    with ``inputs``, a ``phantom:`` that draws them. What is ``given`` by name stands before a case's own. Cases that
    have none share the same ``chosen``.

    Raises ``OptionError`` for an option that is wrong or missing, ``MediaError`` for a named image that can't be used.
    """
    given = {name: value for name, value in options.check(plugin, given, whole=False).items() if value is not None}
    shared: Dealt | None = None
    dealt = []
    for one in inputs:
        first, own = _own(plugin, one, given)
        if not own:
            shared = shared or _dealt(plugin, given)
            dealt.append(replace(shared, first=first))
        else:
            dealt.append(replace(_dealt(plugin, {**own, **given}), first=first))
    if not inputs:
        options.check(plugin, given)
    return dealt


def expand(plugin: Plugin, inputs: Iterable[Any], given: Iterable[str] = ()) -> list[Any]:
    """The predictions that files, folders, patterns, specifications and tables stand for, one item each.

    For a model of several images as :func:`zoo.media.group` has it, with tables as their patients; for others as
    :func:`zoo.media.expand` has it, with a table as its lines. ``given``: the options that hold for all.
    """
    listed = list(inputs)
    if plugin.primary_input.kind == "images":
        whole = [one for one in listed if isinstance(one, Mapping)]
        rest = [one for one in listed if not isinstance(one, Mapping)]
        return [*whole, *(unfold(plugin, media.group(rest), given) if rest or not whole else [])]
    if not all(isinstance(one, str | os.PathLike) for one in listed):
        return unfold(plugin, listed, given)
    return unfold(plugin, media.expand(listed), given)


def unfold(plugin: Plugin, items: Iterable[Any], given: Iterable[str] = ()) -> list[Any]:
    """Items with tables replaced by what their lines stand for. Raises ``DataError`` for a table that can't be used."""
    if plugin.primary_input.kind == "images":
        return [one for item in items for one in patients.unfold(item)]
    taken = tuple(given)
    return [one for item in items for one in (cases_of(plugin, item, taken) if is_table(item) else [item])]


def told(one: Any) -> str:
    """What stands for an item in a list: the name of a case with the named inputs that are its own."""
    if isinstance(one, Case):
        return " ".join([one.id, *(f"{name}={value}" for name, value in options.record(one.inputs).items())])
    return str(one)


def files_of(one: Any) -> list[str]:
    """The files that an item names."""
    named = [one.image, *one.inputs.values()] if isinstance(one, Case) else one if isinstance(one, list) else [one]
    return [str(value) for value in named if isinstance(value, str | os.PathLike) and os.path.exists(value)]


def cases_of(plugin: Plugin, table: str | os.PathLike[str], given: Iterable[str] = ()) -> list[Case]:
    """The lines of a table whose columns are the names of the inputs; ``image`` too stands for the first.

    Files are named relative to the table's folder and lie in it. ``id`` names a line, and of the columns of a data
    set those that are no inputs are left out. Raises ``DataError`` for any other column, for a line without the first
    input, and for a column that is ``given`` for all; ``OptionError`` for a cell that its input doesn't take.
    """
    path = user_path(table)
    rows = table_rows(path)
    if not rows:
        raise DataError(f"{table} has no lines; name the inputs in its first one and a case in each after it")
    return [_case_of(plugin, path, number, row, set(given)) for number, row in enumerate(rows, start=1)]


# ---- a case of its own -------------------------------------------------------------------------------------------


def _own(plugin: Plugin, one: Any, given: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The first input, and the named ones that come with it."""
    several = plugin.primary_input.kind == "images"
    if isinstance(one, Mapping):
        rest = dict(one)
        name = plugin.primary_input.name
        if rest.get(name) is None:
            raise OptionError(f"{plugin.name} needs {name} ({plugin.primary_input.help}); give it under that name")
        return rest.pop(name), {name: value for name, value in rest.items() if value is not None}
    if isinstance(one, Case):
        return (one if several else _picture(one)), _declared(plugin, one)
    spec = one[0] if isinstance(one, list | tuple) and len(one) == 1 else one
    if is_kind(spec, "phantom") and _wants(plugin, given):
        case = phantoms.make(spec)
        if own := _declared(plugin, case):
            return (one if several else phantoms.picture(case, spec)), own
    return one, {}


def drawn(plugin: Plugin) -> dict[str, Any]:
    """The named inputs that the card's phantom draws beside its image."""
    return _declared(plugin, phantoms.make(plugin.phantom)) if plugin.phantom and _wants(plugin, {}) else {}


def _wants(plugin: Plugin, given: Mapping[str, Any]) -> bool:
    """Whether a phantom is worth a look for more than its picture."""
    return any(given.get(item.name) is None and (item.required or item.kind in READ) for item in plugin.options)


def _declared(plugin: Plugin, case: Case) -> dict[str, Any]:
    known = {item.name for item in plugin.options}
    return {name: value for name, value in case.inputs.items() if name in known and value is not None}


def _picture(case: Case) -> Any:
    return phantoms.picture(case, case.id) if isinstance(case.image, np.ndarray) else case.image


def _case_of(plugin: Plugin, path: Path, number: int, row: Mapping[str, Any], given: set[str]) -> Case:
    cells = {str(name).strip(): value for name, value in row.items()}
    first = plugin.primary_input
    image = cells.pop(first.name, None) or cells.pop("image", None)
    if image is None:
        raise DataError(
            f"line {number} of {path} names no {first.name} ({first.help}); add it in a column of that name"
        )
    found: dict[str, Any] = {}
    declared = {item.name: item for item in plugin.options}
    for column, cell in cells.items():
        item = declared.get(column.replace("-", "_"))
        if item is None:
            if column in ABOUT or column.startswith("mask_"):
                continue
            near = close_to(column, [first.name, *declared], cutoff=0.6)
            hint = f"did you mean {near[0]}?" if near else f"its inputs are {', '.join([first.name, *declared])}"
            raise DataError(f"{path} has a column {column!r}, which is no input of {plugin.name}; {hint}")
        if item.name in given:
            raise DataError(f"{item.name} is given for all and is a column of {path}; leave out one of the two")
        found[item.name] = _cell(plugin, item, str(cell), path)
    file = str(inside(path.parent, str(image), path))
    return Case(file, str(cells["id"]) if "id" in cells else file, inputs=found)


def _cell(plugin: Plugin, item: Input, text: str, table: Path) -> Any:
    """What a cell says; of an input that may be given several times, parts between semicolons."""
    parts = [part.strip() for part in text.split(";")] if item.many else [text]
    if item.kind in PATHS:
        paths = tuple(str(inside(table.parent, part, table)) for part in parts)
        return paths if item.many else paths[0]
    return options.parse(plugin, [f"{item.name}={part}" for part in parts], whole=False)[item.name]


# ---- reading -----------------------------------------------------------------------------------------------------


def _dealt(plugin: Plugin, given: Mapping[str, Any]) -> Dealt:
    stated = options.complete(plugin, given)
    chosen = dict(stated)
    traces: dict[str, dict[str, str]] = {}
    for item in plugin.options:
        value = stated[item.name]
        if value is None or item.kind not in (*READ, "mask"):
            continue
        values = value if item.many else (value,)
        # A mask is left to the plugin, which knows what its labels mean.
        read = tuple(one if item.kind == "mask" else _read(plugin, item, one) for one in values)
        chosen[item.name] = read if item.many else read[0]
        for number, (one, of) in enumerate(zip(read, values, strict=True), start=1):
            traces[f"{item.name} {number}" if item.many else item.name] = trace(one, of)
    return Dealt(None, chosen, options.record(stated), traces)


def _read(plugin: Plugin, item: Input, value: Any) -> Any:
    """A named input as ``_predict`` gets it: an image that was refused or taken as the first one is, or rows."""
    if item.kind == "table":
        return _rows(item, value)
    try:
        image = media.read(value)
        image = image.require_2d(plugin.name) if item.kind == "image" else image.require_3d(plugin.name)
        require_content(image)
        return image
    except MediaError as error:
        raise MediaError(f"{item.name}: {error}") from error


def _rows(item: Input, value: Any) -> tuple[dict[str, Any], ...]:
    """The rows of a table: a file, a mapping (one row), a list of mappings, or a ``pandas.DataFrame``."""
    try:
        if isinstance(value, str | os.PathLike):
            rows = table_rows(user_path(value))
        elif isinstance(value, Mapping):
            rows = [dict(value)]
        else:
            listed = value.to_dict("records") if hasattr(value, "to_dict") else list(value)
            rows = [{key: cell for key, cell in dict(row).items() if cell is not None} for row in listed]
    except (DataError, TypeError, ValueError) as error:
        reason = str(error) if isinstance(error, DataError) else "it is no table"
        raise OptionError(f"{item.name}: {reason}; give a CSV file or a list of rows by column") from error
    if not rows:
        raise OptionError(f"{item.name}: the table has no rows; give at least one")
    return tuple(rows)


def trace(value: Any, given: Any = None) -> dict[str, str]:
    """Where something that was read came from, and the SHA-256 of what it holds: of an image its pixels as read, of a
    file its bytes, of rows their JSON."""
    source = str(getattr(value, "source", None) or (given if isinstance(given, str | os.PathLike) else "given"))
    if isinstance(value, str | os.PathLike):
        path = user_path(value)
        return {"source": str(value), **({"sha256": _file_digest(path)} if path.is_file() else {})}
    if isinstance(value, tuple):
        content = json.dumps(value, sort_keys=True, default=str).encode()
        return {"source": source, "sha256": hashlib.sha256(content).hexdigest()}
    array = getattr(value, "array", value)
    array = array.detach().cpu().numpy() if hasattr(array, "detach") else np.asarray(array)
    return {"source": source, "sha256": hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()}


def _file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def alike(dealt: Iterable[Dealt]) -> Iterator[list[Dealt]]:
    """Neighbours that have the same options, which can be predicted on together."""
    run: list[Dealt] = []
    for one in dealt:
        if run and run[-1].chosen is not one.chosen:
            yield run
            run = []
        run.append(one)
    if run:
        yield run
