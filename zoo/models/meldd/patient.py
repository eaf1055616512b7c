"""A patient: lesion images with what is known about them, from files, folders, phantoms, tables and data sets."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from zoo import media
from zoo.data.case import Case
from zoo.data.dermoscopy import SITES, site_of
from zoo.data.phantoms.skin import DIAGNOSES
from zoo.data.sets import Dataset, Entry, load_dataset
from zoo.errors import DataError, OptionError
from zoo.models.meldd import plugin

SEXES = ("female", "male")
OLDEST = 120


@dataclass(frozen=True, eq=False)
class Patient:
    """``images`` are what ``zoo.media.read`` takes; ``sites`` are of ``zoo.data.dermoscopy.SITES`` or None."""

    name: str
    images: tuple[Any, ...]
    sites: tuple[str | None, ...]
    age: float | None = None
    sex: str | None = None
    names: tuple[str, ...] = ()  # of the images
    labels: tuple[int, ...] | None = None  # 1 is melanoma

    def __str__(self) -> str:
        return self.name

    @property
    def label(self) -> str:
        return "melanoma" if self.labels and any(self.labels) else "benign"

    def told(self, site: Sequence[str] | None, age: float | None, sex: str | None) -> Patient:
        """With what a user says beside the images. Raises ``OptionError`` where sites and images don't match."""
        sites = self.sites
        if site is not None:
            sites = tuple(map(site_of, site)) * (len(self.images) if len(site) == 1 else 1)
            if len(sites) != len(self.images):
                raise OptionError(
                    f"{len(sites)} sites were given for {len(self.images)} lesions of {self.name}; give one for each, "
                    "with unknown where it isn't known"
                )
        return replace(self, sites=sites, age=self.age if age is None else float(age), sex=sex or self.sex)


def patient_from(item: Any) -> Patient:
    """The patient that one input of ``predict`` stands for.

    Raises ``MediaError`` for what is no image, ``OptionError`` for a table of several patients.
    """
    if isinstance(item, Patient):
        return item
    if isinstance(item, (list, tuple)) and len(item) == 1:
        return patient_from(item[0])
    if is_table(item):
        found = patients_in(item)
        if len(found) > 1:
            raise OptionError(f"{item} is a table of {len(found)} patients; zoo.predict gives a result for each")
        return found[0]
    if isinstance(item, (str, os.PathLike)) and os.fspath(item).startswith("phantom:"):
        from zoo.data.phantoms import make

        return replace(_of_case(make(os.fspath(item))), name=os.fspath(item), labels=None)
    if isinstance(item, np.ndarray) and item.ndim == 4 and item.shape[-1] in (1, 3, 4):
        images: list[Any] = list(item)
    else:
        images = media.members(item)
    names = tuple(
        Path(os.fspath(one)).name if isinstance(one, (str, os.PathLike)) else f"lesion {i}"
        for i, one in enumerate(images, start=1)
    )
    source = item[0] if isinstance(item, (list, tuple)) else item
    name = os.fspath(source) if isinstance(source, (str, os.PathLike)) else "array"
    return Patient(name, tuple(images), (None,) * len(images), names=names)


def is_table(item: Any) -> bool:
    return isinstance(item, (str, os.PathLike)) and os.fspath(item).lower().endswith((".csv", ".tsv"))


def patients_in(table: Any) -> list[Patient]:
    """The patients of a table with the columns image, and perhaps site, age, sex and patient.

    Without the column patient, all rows are one patient's. Raises ``DataError`` for a table that can't be used.
    """
    path = Path(os.fspath(table)).expanduser()
    dataset = load_dataset(f"csv:{path}")
    if "patient" not in dataset.columns:
        dataset = Dataset(dataset.spec, [replace(entry, patient=path.stem) for entry in dataset.entries])
    return [replace(one, labels=None) for one in patients_of(dataset, labelled=False)]


def patients_of(dataset: Iterable[Case] | Dataset, *, labelled: bool = True) -> list[Patient]:
    """The patients of a set whose cases are lesions, or whole patients as the phantom draws them.

    A lesion without a patient is a patient of its own. A patient's age is the median over the images that state it.
    Raises ``DataError`` for a site, age, sex or label that means nothing.
    """
    return [_of_case(entry.case) if isinstance(entry.case, Case) else _of_case(entry.case()) for entry in
            grouped(dataset, labelled=labelled).entries]  # fmt: skip


def grouped(dataset: Any, *, labelled: bool = True) -> Dataset:
    """The same set with one case for each patient; its image is a :class:`Patient`. Phantoms are not drawn yet."""
    entries: list[Entry] = []
    lesions: dict[str, list[tuple[Case, str]]] = {}
    splits: dict[str, str | None] = {}
    source = dataset if isinstance(dataset, Dataset) else Dataset("cases", [Entry(case.id, case) for case in dataset])
    for entry in source.entries:
        case = entry.case
        if not isinstance(case, Case):
            entries.append(Entry(entry.id, partial(_made, case), entry.patient, entry.split))
        elif isinstance(case.image, Patient):
            entries.append(entry)
        elif isinstance(case.image, np.ndarray) and case.image.ndim == 4:
            entries.append(Entry(entry.id, _wrapped(_of_case(case)), entry.patient, entry.split))
        else:
            patient = entry.patient or str(case.attributes.get("patient") or entry.id)
            lesions.setdefault(patient, []).append((case, entry.id))
            splits[patient] = entry.split
    for name, members in lesions.items():
        entries.append(Entry(name, _wrapped(_of_lesions(name, members, labelled)), name, splits[name]))
    return Dataset(source.spec, entries, source.columns)


def _made(make: Callable[[], Case]) -> Case:
    return _wrapped(_of_case(make()))


def _wrapped(patient: Patient) -> Case:
    return Case(patient, patient.name, label=patient.label)


def _of_case(case: Case) -> Patient:
    """A whole patient: a stack of lesions with an entry for each in ``site`` and ``labels``; or a single lesion."""
    if isinstance(case.image, Patient):
        return case.image
    if not (isinstance(case.image, np.ndarray) and case.image.ndim == 4):
        return _of_lesions(case.id, [(case, case.id)], labelled=case.label is not None)
    facts, n = case.attributes, len(case.image)
    labels = facts.get("labels")
    return Patient(
        case.id,
        tuple(case.image),
        tuple(_site(one, case.id) for one in facts.get("site", (None,) * n)),
        _age([facts.get("age")], case.id),
        _sex([facts.get("sex")], case.id),
        tuple(f"lesion {i}" for i in range(1, n + 1)),
        None if labels is None else tuple(label_of(one, case.id) for one in labels),
    )


def _of_lesions(name: str, members: Sequence[tuple[Case, str]], labelled: bool) -> Patient:
    return Patient(
        name,
        tuple(case.image for case, _ in members),
        tuple(_site(case.attributes.get("site"), identity) for case, identity in members),
        _age([case.attributes.get("age") for case, _ in members], name),
        _sex([case.attributes.get("sex") for case, _ in members], name),
        tuple(Path(identity).name for _, identity in members),
        tuple(label_of(case.label, identity) for case, identity in members) if labelled else None,
    )


def label_of(label: Any, identity: str) -> int:
    """1 for melanoma, 0 for what is not; a diagnosis counts. Raises ``DataError`` for what says neither."""
    text = str(label).strip().lower()
    if text in ("1", "melanoma", "mel", "malignant", "true"):
        return 1
    if text in ("0", "benign", "false", *(d.lower() for d in DIAGNOSES)):
        return 0
    raise DataError(f"case {identity} has the label {label!r}; {plugin.name} needs benign or melanoma (0 or 1)")


def _site(value: Any, identity: str) -> str | None:
    try:
        return None if value is None else site_of(str(value))
    except ValueError as error:
        raise DataError(f"case {identity}: the site {error}") from None


def _age(values: Sequence[Any], identity: str) -> float | None:
    known = []
    for value in values:
        if value is None or str(value).strip().lower() in ("", "nan", "unknown"):
            continue
        try:
            age = float(value)
        except ValueError:
            age = math.nan
        if not 0 <= age <= OLDEST:
            raise DataError(f"case {identity}: the age {value!r} is no number of years from 0 to {OLDEST}")
        known.append(age)
    return float(np.median(known)) if known else None


def _sex(values: Sequence[Any], identity: str) -> str | None:
    known = [str(value).strip().lower() for value in values if value is not None]
    known = [value for value in known if value not in ("", "nan", "unknown")]
    if wrong := [value for value in known if value not in SEXES]:
        raise DataError(f"case {identity}: the sex {wrong[0]!r} is neither female nor male; leave it empty if unknown")
    return max(set(known), key=lambda value: (known.count(value), value)) if known else None


def site_number(site: str | None) -> int:
    """Column of E^L."""
    return len(SITES) if site is None else SITES.index(site)
