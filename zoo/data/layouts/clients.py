"""Sets of several hospitals, each with the classes that it has annotated: one table that names them all."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry, Layout, load_dataset
from zoo.data.tables import inside, table_rows
from zoo.errors import DataError
from zoo.spec import Spec
from zoo.text import strict_json

LESIONS = ("cancer", "tumor", "tumour", "lesion")
"""What sets of one organ call its tumours."""
PARTS = {"training": "train", "validation": "validation", "testing": "test"}
# Of the lists that came with ConDistFL: the first 16 digits of the SHA-256 of the sorted case numbers, one a line.
RELEASED = {
    "KITS": ("98fb770c4f01ac19", "c137a1aaca83eb06", "b4b828a3addba231"),
    "LVR": ("2612dd10781b39fc", "6171415cf2b143e6", "1080286ca0fcea3e"),
    "PAN": ("99ab4bd13b2ca56e", "f6087a126592f27e", "79598e4603d921c9"),
    "SPL": ("00aa7034a8ad6e8b", "1c8a3626a8f8be9b", "c18a985cb10ea90e"),
}


def read(spec: str, table: Path) -> Dataset:
    """``clients:client.csv``: a line a client, with the columns ``path`` and ``classes``, and maybe ``split``.

    ``path``: a data specification such as ``msd:Task03_Liver`` or ``kits:kits19``, relative to the table. ``classes``:
    what this client has annotated, such as ``liver; liver tumour``. ``split``: a ``datalist.json`` that says which
    case is for what; one of the four that came with ConDistFL must be whole.

    A case then has the attributes ``client`` (from 0), ``labels`` and ``labelled``. Raises ``DataError`` for a table
    that isn't so, a class that the set's masks don't name, and a list that doesn't fit its set.
    """
    if table.is_dir():
        table = table / "client.csv"
    if not table.is_file():
        raise DataError(f"data {spec!r}: there is no table {table} with the columns path and classes")
    entries = []
    for client, row in enumerate(table_rows(table)):
        if not row.get("path") or not row.get("classes"):
            raise DataError(f"{table}, client {client}: the columns path and classes must be filled")
        source = Spec.parse(str(row["path"]))
        place = source.rest if source.kind == "phantom" else str(inside(table.parent, source.rest, table))
        cases = load_dataset(f"{source.kind}:{place}")
        wanted = [name.strip() for name in re.split(r"[;,]", str(row["classes"])) if name.strip()]
        parts = _parts(inside(table.parent, str(row["split"]), table)) if row.get("split") else None
        entries += _entries(cases, client, wanted, parts, table)
    return Dataset(spec, entries, ["image", "mask", "client"])


def labels_of(names: Sequence[str]) -> tuple[str, ...]:
    """Names of mask values from 1 on; what a set of one organ calls cancer is that organ's tumour."""
    organs = [name for name in names if name.casefold() not in LESIONS]
    return tuple(f"{organs[0]} tumour" if name not in organs and len(organs) == 1 else name for name in names)


def _entries(
    cases: Dataset, client: int, wanted: Sequence[str], parts: Mapping[str, str] | None, table: Path
) -> list[Entry]:
    stated = cases.labels[1:] or tuple(cases[0].attributes.get("labels", ()))
    labels = labels_of(stated)
    if unknown := [name for name in wanted if name not in labels]:
        raise DataError(f"{table}, client {client}: no {unknown[0]!r} in {cases.spec}, which has {', '.join(labels)}")
    more = {"client": client, "labels": labels, "labelled": [1 + labels.index(name) for name in wanted]}
    found = []
    for entry in cases.entries:
        split = entry.split
        if parts is not None:
            if (number := entry.id.rpartition("_")[2].lstrip("0") or "0") not in parts:
                continue
            split = parts[number]
        case = partial(_marked, entry.case, client, more)
        found.append(Entry(f"{client}/{entry.id}", case, f"{client}/{entry.patient or entry.id}", split))
    if parts is not None and len(found) != len(parts):
        raise DataError(f"{table}, client {client}: its list names {len(parts)} cases, {cases.spec} has {len(found)}")
    return found


def _marked(case: Any, client: int, more: Mapping[str, Any]) -> Case:
    made: Case = case if isinstance(case, Case) else case()
    return replace(made, id=f"{client}/{made.id}", attributes={**made.attributes, **more})


def _parts(path: Path) -> dict[str, str]:
    """The part of each case of a ``datalist.json``, by its number without leading zeros."""
    try:
        document = strict_json(path.read_text(encoding="utf-8"))
        names = {part: [Path(item["image"]).name.partition(".")[0] for item in document[part]] for part in PARTS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no list of training, validation and testing cases: {error!r}") from error
    numbers = {part: [name.rpartition("_")[2] for name in some] for part, some in names.items()}
    kinds = {match[1] for some in names.values() for name in some if (match := re.fullmatch(r"IM_([A-Z]+)_\d+", name))}
    for kind in kinds & RELEASED.keys():
        for part, known in zip(PARTS, RELEASED[kind], strict=True):
            digest = hashlib.sha256("\n".join(sorted(numbers[part])).encode()).hexdigest()[:16]
            if digest != known:
                raise DataError(f"{path} isn't the released list of {kind}: its {part} part differs; get it again")
    found: dict[str, str] = {}
    for part, split in PARTS.items():
        for number in numbers[part]:
            if found.setdefault(number.lstrip("0") or "0", split) != split:
                raise DataError(f"{path} has case {number} in two parts")
    return found


layout = Layout(
    "a table of clients and what each has annotated (columns path, classes, split)", read, licence="that of each set"
)
