"""From a data set to an ordered stream of domains, and from its labels to the model's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from zoo.data.case import Case
from zoo.data.images import ImageSet, label_index, read_views, resize, rgb_bytes, square
from zoo.data.sets import Dataset, Entry, load_dataset
from zoo.data.splits import TrainData, split
from zoo.errors import DataError, OptionError
from zoo.media import Image
from zoo.models.continual_gen import plugin
from zoo.models.continual_gen.ensembles import FEWEST

LEFT_OUT = "-"
SHIFT, SOURCE = "ham-shift", "source"


@dataclass(frozen=True)
class Labels:
    """The model's classes, and which labels of data sets count as which of them (``-``: left out)."""

    names: tuple[str, ...]
    merge: Mapping[str, str]

    def of(self, case: Case) -> int | None:
        """The class of a case; ``None`` for one that is left out. Raises ``DataError`` for an unknown label."""
        label = self.merge.get(str(case.label), case.label)
        if label == LEFT_OUT:
            return None
        return label_index(label, self.names, f"case {case.id}", "say what it counts as: --set network.merge")


@dataclass(frozen=True)
class DomainSet:
    """One domain of the stream, as images in memory. The model is never told its name."""

    name: str
    train: ImageSet
    validation: ImageSet
    test: ImageSet


def view_of(picture: Image, size: int) -> UInt8[np.ndarray, "s s 3"]:
    """The largest centred square, scaled."""
    return resize(square(rgb_bytes(picture)), size, "bilinear")


def load(cases: Iterable[Case], labels: Labels, size: int) -> ImageSet:
    """Images and classes, without the cases that are left out. Raises ``DataError`` for an unknown label."""
    known = [(case, y) for case in cases if (y := labels.of(case)) is not None]
    views = read_views([case for case, _ in known], lambda one: view_of(one, size), plugin.name, f"square {size}")
    return ImageSet.of(views, [y for _, y in known], [case.id for case, _ in known], empty=(3, size, size))


def stream(
    data: TrainData, by: str, order: Sequence[str], labels: Labels, size: int, fewest: int = FEWEST
) -> list[DomainSet]:
    """The domains of a set, one after the other.

    ``by``: the attribute of a case that names its domain (``set`` of a ``stream:`` list), ``file:PATH`` for a table
    with the columns id and value, ``source`` for HAM, BCN or MSK by ISIC 2019's lesions, or ``ham-shift`` for the
    shifts of dermoscopic sets (head or neck by the site, the young by age); ``order`` their order, by default that of
    the set. Raises ``DataError`` or ``OptionError`` where that can't be.
    """
    parts = {name: getattr(data, name) for name in ("train", "validation", "test")}
    parts = {name: part.in_memory() for name, part in parts.items()}
    named = {name: domains_of(part, by) for name, part in parts.items()}
    known = list(dict.fromkeys(named["train"]))
    if by == "set":
        known = sorted(known, key=lambda name: int(name.partition(" ")[0]) if name[:1].isdigit() else 0)
    if unknown := [name for name in order if name not in known]:
        has = ", ".join(known[:8])
        raise OptionError(f"order names the domain {unknown[0]!r}, which the training part lacks; it has {has}")
    made = []
    for name in order or known:
        some = {
            part: load((parts[part][i] for i, one in enumerate(named[part]) if one == name), labels, size)
            for part in parts
        }
        made.append(require(DomainSet(name, **some), fewest))
    return made


def require(domain: DomainSet, fewest: int) -> DomainSet:
    """The domain itself. Raises ``DataError`` for one that is too small to have a cluster."""
    if (n := len(domain.train)) < fewest:
        few = f"{n} image{'s' if n != 1 else ''} with one of the labels to train on"
        raise DataError(f"the domain {domain.name!r} has {few}; a cluster needs at least {fewest}")
    return domain


def pooled(domains: Sequence[DomainSet]) -> DomainSet:
    """All domains as one."""

    def together(some: Sequence[ImageSet]) -> ImageSet:
        names = tuple(name for one in some for name in one.ids)
        return ImageSet(torch.cat([one.views for one in some]), torch.cat([one.y for one in some]), names)

    parts = [together([getattr(one, part) for one in domains]) for part in ("train", "validation", "test")]
    return DomainSet(" + ".join(one.name for one in domains), *parts)


def arrived(
    given: str | Sequence[Case], name: str, labels: Labels, size: int, seed: int, fewest: int = FEWEST
) -> tuple[DomainSet, TrainData]:
    """One domain that comes later, as a data set's name or as cases; a fifth, by patient, is for validation."""
    if isinstance(given, str):
        dataset = load_dataset(given, plugin=plugin)
    else:
        dataset = Dataset(name or "cases", [Entry(c.id, c, c.attributes.get("patient")) for c in given])
    data = split(dataset, (0.8, 0.2, 0.0), seed)
    parts = [load(part, labels, size) for part in (data.train, data.validation, data.test)]
    return require(DomainSet(name or dataset.spec, *parts), fewest), data


def domains_of(dataset: Dataset, by: str) -> list[str]:
    """The domain of every case. Raises ``DataError`` for a set that doesn't state it."""
    if by == SHIFT:
        return [shift_of(case.attributes) for case in dataset]
    if by == SOURCE:
        return [str(case.attributes.get("lesion_id") or "unknown").partition("_")[0] for case in dataset]
    found = dataset.values(by)
    if by == "set":
        return ["1" if name == "unknown" else name for name in found]
    if found and set(found) == {"unknown"}:
        raise DataError(f"{dataset.spec} doesn't state the attribute {by!r} that tells domains apart; name another one")
    return found


def shift_of(attributes: Mapping[str, Any]) -> str:
    """The group of a dermoscopic image by site and age, after Fogelberg et al. 2023, whom the paper follows.

    The paper doesn't say which three groups of HAM10000 it takes; here: head or neck, up to 30 years, all others.
    """
    site = str(attributes.get("localization") or attributes.get("anatom_site_general") or "").lower()
    if {"head", "neck", "face", "scalp", "ear"} & set(site.replace("/", " ").split()):
        return "head-neck"
    try:
        age = float(attributes.get("age") or attributes.get("age_approx") or "nan")
    except ValueError:
        age = float("nan")
    return "young" if age <= 30 else "default"
