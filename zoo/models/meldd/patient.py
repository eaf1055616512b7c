"""A patient: lesion images with what is known about them, from files, folders, phantoms, tables and data sets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zoo.data import patients as data_patients
from zoo.data.case import Case
from zoo.data.dermoscopy import DIAGNOSES, SITES, site_of
from zoo.data.patients import age_of, case_of, sex_of
from zoo.data.sets import Dataset
from zoo.errors import DataError, OptionError
from zoo.models.meldd import plugin


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
    return item if isinstance(item, Patient) else _of_case(case_of(item, "lesion"), labelled=False)


def patients_of(cases: Iterable[Case] | Dataset) -> list[Patient]:
    """The patients of a set whose cases are lesions, or whole patients as the phantom draws them.

    A lesion without a patient is a patient of its own. A patient's age is the median over the images that state it.
    Raises ``DataError`` for a site, age, sex or label that means nothing.
    """
    return [_of_case(case, labelled=True) for case in data_patients.patients_of(cases)]


def _of_case(case: Case, labelled: bool) -> Patient:
    return Patient(
        case.id,
        tuple(one.image for one in case.images),
        tuple(_site(one.attributes.get("site"), one.id) for one in case.images),
        age_of(case),
        sex_of(case),
        tuple(Path(one.id).name for one in case.images),
        tuple(label_of(one.label, one.id) for one in case.images) if labelled else None,
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


def site_number(site: str | None) -> int:
    """Column of E^L."""
    return len(SITES) if site is None else SITES.index(site)
