"""A few annotated cases that a user hands to a prediction: what models adapt to, or take as examples.

::

    cases = read_support("ward_7/", "fseft")                       # images/ and masks/, or dataset.json
    cases = read_support([("a.nii.gz", "a_liver.nii.gz")], "fseft")  # or arrays, or zoo.media.Image
    organ_of(cases[0], "liver")                                    # mask and which of its values are the liver
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from zoo.data.case import Case
from zoo.data.sets import Dataset, load_dataset
from zoo.errors import DataError, OptionError
from zoo.spec import is_kind
from zoo.storage import user_path


class Annotation(NamedTuple):
    """Where a structure stands: a mask of a case, and its values (none: whatever isn't 0)."""

    mask: str
    values: tuple[int, ...]


def read_support(given: Any, needed_by: str) -> list[Case]:
    """The annotated cases that ``given`` names.

    A folder with ``images/`` and ``masks/`` or with ``dataset.json``, a table as ``csv:`` takes it, ``phantom:NAME``,
    or a list of pairs (image, mask) or of cases. Raises ``OptionError`` for anything else, for none, and for a case
    without a mask; ``DataError`` for files that can't be used.
    """
    if isinstance(given, str | os.PathLike):
        cases = named(load_dataset(_spec(os.fspath(given), needed_by)))
    elif isinstance(given, Dataset):
        cases = named(given)
    elif isinstance(given, Sequence):
        cases = [_case(one, place, needed_by) for place, one in enumerate(given, start=1)]
    else:
        raise OptionError(f"{needed_by} takes as support {_FORMS}, not a {type(given).__name__}")
    if not cases:
        raise OptionError(f"the support of {needed_by} is empty; give {_FORMS}")
    if bare := [case.id for case in cases if not case.masks]:
        raise OptionError(f"{bare[0]} of the support of {needed_by} has no mask; give {_FORMS}")
    return cases


_FORMS = "a folder with images/ and masks/, or a list of pairs (image, mask)"


def _spec(given: str, needed_by: str) -> str:
    if is_kind(given, "phantom"):
        return given
    path = user_path(given, OptionError)
    if path.is_dir() and (path / "dataset.json").is_file():
        return f"msd:{path}"
    if path.is_dir():
        return f"pairs:{path}"
    if path.suffix == ".csv":
        return f"csv:{path}"
    raise OptionError(f"{needed_by} takes as support {_FORMS}, not {given}")


def _case(one: Any, place: int, needed_by: str) -> Case:
    if isinstance(one, Case):
        return one
    if isinstance(one, Sequence) and not isinstance(one, str) and len(one) == 2:
        mask = os.fspath(one[1]) if isinstance(one[1], os.PathLike) else one[1]
        return Case(one[0], f"support {place}", masks={"mask": mask})
    raise OptionError(f"item {place} of the support of {needed_by} is no pair (image, mask)")


# ---- what its masks show ---------------------------------------------------------------------------------------------


def named(dataset: Dataset) -> list[Case]:
    """The cases of a set, with the names of its masks' values, if it has any, as ``attributes["labels"]``."""
    names = dataset.labels[1:]
    if not names:
        return list(dataset)
    return [replace(case, attributes={"labels": names, **case.attributes}) for case in dataset]


def structures(case: Case) -> dict[str, Annotation]:
    """The structures that somebody has looked for in a case, by name, whether it is there or not.

    Masks with a name of their own, and the values of ``mask`` where ``attributes["labels"]`` names them from 1 on;
    ``attributes["labelled"]``, if there, are the values that ``mask`` knows. A tumour of an organ is of the organ.
    A ``mask`` without names is called so.
    """
    found = {name: Annotation(name, ()) for name in case.masks if name not in ("mask", "all")}
    labels = tuple(case.attributes.get("labels", ()))
    if "mask" not in case.masks:
        return found
    if not labels:
        return found or {"mask": Annotation("mask", ())}
    known = case.attributes.get("labelled", range(1, len(labels) + 1))
    for value, name in enumerate(labels, start=1):
        if value in known and name not in found:
            parts = [v for v, other in enumerate(labels, start=1) if other == f"{name} tumour"]
            found[name] = Annotation("mask", (value, *parts))
    return found


def organ_of(case: Case, organ: str) -> Annotation:
    """Where ``organ`` stands. Raises ``DataError`` where nobody has looked for it."""
    found = structures(case)
    if list(found) == ["mask"]:
        return found["mask"]
    for name, annotation in found.items():
        if same_name(name, organ):
            return annotation
    raise DataError(f"case {case.id} has no mask of {organ!r}; it has {', '.join(found) or 'none'}")


def same_name(a: str, b: str) -> bool:
    """Whether two names mean one structure: ``kidney_left`` and ``left kidney`` do."""
    return _words(a) == _words(b)


def _words(name: str) -> list[str]:
    return sorted(name.casefold().replace("oesophagus", "esophagus").replace("_", " ").replace("-", " ").split())
