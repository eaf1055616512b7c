"""Several images as one case: the patients of a data set, and what a user means by a folder, a list or a table.

For models whose first input is of the kind ``images``. A case without ``images`` is one image alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from zoo import media
from zoo.data import phantoms
from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry, load_dataset
from zoo.errors import DataError, OptionError
from zoo.spec import is_kind
from zoo.storage import user_path

SEXES = ("female", "male")
OLDEST = 120  # years


def by_patient(dataset: Dataset) -> Dataset:
    """The same set with one case for each patient, in the order in which they first occur.

    A case without a patient stays as it is, and so does one that is still to be drawn (a phantom).
    """
    groups: dict[str, list[Entry]] = {}
    for entry in dataset.entries:
        name = None
        if isinstance(entry.case, Case) and not entry.case.images:
            name = entry.patient or entry.case.attributes.get("patient")
        groups.setdefault(f"case {entry.id}" if name is None else f"patient {name}", []).append(entry)
    entries = []
    for key, members in groups.items():
        kind, _, name = key.partition(" ")
        if kind == "case":
            entries += members
        else:
            images = tuple(replace(one.case, id=one.id) for one in members if isinstance(one.case, Case))
            entries.append(Entry(name, Case(None, name, images=images), name, members[0].split))
    return Dataset(dataset.spec, entries, dataset.columns, dataset.labels)


def patients_of(cases: Dataset | Iterable[Case]) -> list[Case]:
    """The patients of a set, or of any cases, drawn where they are phantoms; each has its ``images``.

    A case that names no patient is a patient of its own.
    """
    if not isinstance(cases, Dataset):
        cases = Dataset("cases", [Entry(case.id, case) for case in cases])
    return [case if case.images else Case(None, case.id, images=(case,)) for case in by_patient(cases)]


def case_of(item: Any, noun: str = "image") -> Case:
    """What one input of a model of several images stands for, as a case with ``images``.

    ``item``: a list of images, a folder, one image, a stack ``[n h w c]``, a table with one patient, a phantom, or a
    case. Images that aren't files are called ``noun`` and their number.

    Raises ``MediaError`` for a folder or pattern without images, ``OptionError`` for a table of several patients.
    """
    if isinstance(item, Case):
        return item if item.images else Case(None, item.id, images=(item,))
    if isinstance(item, (list, tuple)) and len(item) == 1:
        return case_of(item[0], noun)
    if is_table(item):
        found = patients_in(item)
        if len(found) > 1:
            raise OptionError(f"{item} is a table of {len(found)} patients; zoo.predict gives a result for each")
        return found[0]
    if is_kind(item, "phantom"):
        return replace(case_of(phantoms.make(item), noun), id=item)
    if isinstance(item, np.ndarray) and item.ndim == 4 and item.shape[-1] in (1, 3, 4):
        images: list[Any] = list(item)
    else:
        images = media.members(item)
    cases = tuple(
        Case(one, Path(os.fspath(one)).name if isinstance(one, (str, os.PathLike)) else f"{noun} {number}")
        for number, one in enumerate(images, start=1)
    )
    source = item[0] if isinstance(item, (list, tuple)) else item
    return Case(None, os.fspath(source) if isinstance(source, (str, os.PathLike)) else "array", images=cases)


def unfold(item: Any) -> list[Any]:
    """The predictions that one input stands for: a table its patients, the images beside it another one."""
    if is_table(item):
        return list(patients_in(item))
    if isinstance(item, (list, tuple)) and any(is_table(one) for one in item):
        rest = [one for one in item if not is_table(one)]
        found: list[Any] = [patient for one in item if is_table(one) for patient in patients_in(one)]
        return [*found, rest] if rest else found
    return [item]


def is_table(item: Any) -> bool:
    return isinstance(item, (str, os.PathLike)) and os.fspath(item).lower().endswith((".csv", ".tsv"))


def patients_in(table: str | os.PathLike[str]) -> list[Case]:
    """The patients of a table with the columns image and perhaps patient, without which all rows are one patient's.

    Raises ``DataError`` for a table that can't be used.
    """
    path = user_path(table)
    dataset = load_dataset(f"csv:{path}")
    if "patient" not in dataset.columns:
        dataset = Dataset(dataset.spec, [replace(entry, patient=path.stem) for entry in dataset.entries])
    return patients_of(dataset)


def age_of(patient: Case) -> float | None:
    """Years: the median over the images that state it. Raises ``DataError`` for what is no age."""
    known = []
    for value in _stated(patient, "age"):
        try:
            age = float(value)
        except ValueError:
            age = math.nan
        if not 0 <= age <= OLDEST:
            raise DataError(f"case {patient.id}: the age {value!r} is no number of years from 0 to {OLDEST}")
        known.append(age)
    return float(np.median(known)) if known else None


def sex_of(patient: Case) -> str | None:
    """Female or male, as most images state. Raises ``DataError`` for anything else."""
    known = [str(value).strip().lower() for value in _stated(patient, "sex")]
    if wrong := [value for value in known if value not in SEXES]:
        raise DataError(
            f"case {patient.id}: the sex {wrong[0]!r} is neither female nor male; leave it empty if unknown"
        )
    return max(set(known), key=lambda value: (known.count(value), value)) if known else None


def _stated(patient: Case, name: str) -> list[Any]:
    values = [patient.attributes.get(name), *(image.attributes.get(name) for image in patient.images)]
    return [one for one in values if one is not None and str(one).strip().lower() not in ("", "nan", "unknown")]
