"""Several sets in the order in which they arrive, for models that learn one after the other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from zoo.data.case import Case
from zoo.data.sets import Dataset, Layout, load_dataset
from zoo.data.tables import inside
from zoo.errors import DataError
from zoo.spec import Spec


def read(spec: str, path: Path) -> Dataset:
    """``stream:LIST``: a text file with a data set in each line, such as ``ham10000:HAM`` or ``folder:clinic``.

    Paths are relative to the list's folder and may not leave it. Empty lines and those that begin with ``#`` don't
    count. Every case gets the attribute ``set``, the line's number and text; ids and patients get the number in front.

    Raises ``DataError`` for a list that can't be read, a set that can't be had, and for phantoms: weights that were
    trained on a list could not be told from those of real images.
    """
    if not path.is_file():
        raise DataError(f"data {spec!r}: {path} is no text file with a data set in each line")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} can't be read as text in UTF-8: {error}") from error
    entries, columns = [], {"image": None}
    named = [line for line in lines if line and not line.startswith("#")]
    if not named:
        raise DataError(f"{path} names no data set; write one in each line, such as ham10000:HAM")
    for number, line in enumerate(named, start=1):
        stated = Spec.parse(line)
        if stated.kind in ("phantom", "stream", ""):
            raise DataError(f"{path}, line {number}: {line!r} must be KIND:PATH, a set of real images")
        part = load_dataset(f"{stated.kind}:{inside(path.parent, stated.rest, path)}")
        columns |= dict.fromkeys(part.columns)
        for entry in part.entries:
            case = entry.case if isinstance(entry.case, Case) else entry.case()
            name = f"{number}/{entry.id}"
            patient = None if entry.patient is None else f"{number}/{entry.patient}"
            told = replace(case, id=name, attributes={**case.attributes, "set": f"{number} {line}"})
            entries.append(replace(entry, id=name, case=told, patient=patient))
    return Dataset(spec, entries, [*columns, "set"])


layout = Layout(
    "several sets in a text file, one in each line, in the order in which they arrive",
    read,
    licence="that of each set",
)
