"""Lesions of patients: their labels, what is known beside the images, and all of it as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from zoo import media
from zoo.data.case import Case
from zoo.data.dermoscopy import DIAGNOSES, SITES, site_of
from zoo.data.images import Views, resize, rgb_bytes, square
from zoo.data.patients import SEXES, age_of, sex_of
from zoo.errors import DataError, MediaError, OptionError, ZooError
from zoo.media.doubts import require_content
from zoo.models.meldd import plugin
from zoo.models.meldd.network import UNKNOWN_SITE, Sets


@dataclass(frozen=True)
class Evidence:
    """What is known of a patient beside the images; ``sites`` has an entry for each lesion."""

    sites: tuple[str | None, ...]
    age: float | None
    sex: str | None

    @property
    def site(self) -> bool:
        return any(self.sites)

    @property
    def person(self) -> bool:
        return self.age is not None or self.sex is not None


def evidence_of(patient: Case) -> Evidence:
    """What the case states. Raises ``DataError`` for a site, age or sex that means nothing."""
    return Evidence(tuple(map(_site, patient.images)), age_of(patient), sex_of(patient))


def told(patient: Case, site: Sequence[str] | None, age: float | None, sex: str | None) -> Evidence:
    """What a user says, else what the case states. Raises ``OptionError`` for sites that don't fit the lesions."""
    stated = evidence_of(patient)
    sites, count = stated.sites, len(patient.images)
    if site is not None:
        sites = tuple(site_of(one) for one in site) * (count if len(site) == 1 else 1)
        if len(sites) != count:
            raise OptionError(
                f"{len(sites)} sites were given for {count} lesions of {patient.id}; give one for each, with unknown "
                "where it isn't known"
            )
    return Evidence(sites, stated.age if age is None else float(age), sex or stated.sex)


def as_sets(evidence: Sequence[Evidence], features: Float[Tensor, "t f"]) -> Sets:
    """Patients as tensors; ``features`` are those of their lesions, patient by patient."""
    sites = [UNKNOWN_SITE if site is None else SITES.index(site) for one in evidence for site in one.sites]
    return Sets(
        features,
        torch.tensor(sites, dtype=torch.int64),
        torch.tensor([len(one.sites) for one in evidence], dtype=torch.int64),
        torch.tensor([float("nan") if one.age is None else one.age for one in evidence]),
        torch.tensor([-1 if one.sex is None else SEXES.index(one.sex) for one in evidence]).long(),
    )


class Lesions:
    """All lesions of some patients: ``y`` is 1 for melanoma; images are read at once where they fit into memory."""

    def __init__(self, patients: Sequence[Case], size: int) -> None:
        images = [one for patient in patients for one in patient.images]
        self.y = torch.tensor([label_of(one) for one in images], dtype=torch.float32)
        self.evidence = [evidence_of(patient) for patient in patients]
        self.views = Views([one.image for one in images], partial(view_of, size=size), size * size * 3, f"meldd {size}")

    def __len__(self) -> int:
        return len(self.y)


def view_of(image: Any, size: int) -> UInt8[np.ndarray, "s s 3"]:
    """What the network sees of an image: its largest centred square, scaled. Raises ``MediaError``."""
    try:
        return resize(centre_of(image), size)
    except MediaError:
        raise
    except ZooError as error:
        raise MediaError(str(error)) from error


def centre_of(image: Any) -> UInt8[np.ndarray, "s s 3"]:
    """The largest centred square of an image, in full resolution."""
    return square(rgb_bytes(require_content(media.read(image).require_2d(plugin.name))))


def label_of(lesion: Case) -> int:
    """1 for melanoma, 0 for what is not; a diagnosis counts. Raises ``DataError`` for what says neither."""
    text = str(lesion.label).strip().lower()
    if text in ("1", "melanoma", "mel", "malignant", "true"):
        return 1
    if text in ("0", "benign", "false", *(d.lower() for d in DIAGNOSES)):
        return 0
    raise DataError(f"case {lesion.id} has the label {lesion.label!r}; {plugin.name} needs benign or melanoma (0 or 1)")


def _site(lesion: Case) -> str | None:
    stated = lesion.attributes.get("site")
    try:
        return None if stated is None else site_of(str(stated))
    except ValueError as error:
        raise DataError(f"case {lesion.id}: the site {error}") from None
