"""Procedural images with exact ground truth. A phantom is a pure function of its seed and options.

A specification reads ``phantom:NAME?seed=7&OPTION=VALUE``; a data set of them adds ``n``, and case i has seed + i.

Other distributions add phantoms by an entry point that names the function, in the group ``zoo.phantoms``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from zoo import media
from zoo.config import nearest, parse
from zoo.data.case import Case
from zoo.errors import DataError, OptionError, ZooError

ENTRY_POINT_GROUP = "zoo.phantoms"

__all__ = ["ENTRY_POINT_GROUP", "PHANTOMS", "Phantom", "PhantomSpec", "describe", "image", "make", "parse_spec"]


@dataclass(frozen=True)
class Phantom:
    """A kind of procedural image; ``make`` names the function ``(seed, **options) -> Case``."""

    name: str
    summary: str
    make: str

    def load(self) -> Callable[..., Case]:
        """The function behind ``make``."""
        module, _, function = self.make.partition(":")
        return getattr(import_module(module), function)


PHANTOMS: dict[str, Phantom] = {
    phantom.name: phantom
    for phantom in (
        Phantom(
            "chest-xray",
            "frontal chest radiograph of a child: normal, bacterial or viral pneumonia",
            "zoo.data.phantoms.chest:chest_xray",
        ),
        Phantom(
            "ct-slice",
            "axial CT slice of the abdomen: six organs, liver metastases as an option",
            "zoo.data.phantoms.ct_slice:ct_slice",
        ),
        Phantom(
            "fundus",
            "colour fundus photograph: vessels, optic disc, macula, lesions, five kinds of camera",
            "zoo.data.phantoms.fundus:fundus",
        ),
        Phantom(
            "he-tile",
            "tile of an H&E section: tumour nests and stroma with every nucleus outlined",
            "zoo.data.phantoms.he_tile:he_tile",
        ),
        Phantom(
            "patients",
            "all lesions of one patient: naevi that look alike, melanomas that stand out by themselves or among them",
            "zoo.data.phantoms.patients:patients",
        ),
        Phantom(
            "serial-sections",
            "stack of stained tissue sections with tumour, each moved on its slide; folds and tears as options",
            "zoo.data.phantoms.serial_sections:serial_sections",
        ),
        Phantom(
            "skin-lesion",
            "dermoscopic photograph: eight diagnoses or healthy skin; hair, ruler, ink, dark corners; five devices",
            "zoo.data.phantoms.skin:skin_lesion",
        ),
        Phantom(
            "surgical-frame",
            "frame of a laparoscope: one to three instruments over wet tissue, with their parts",
            "zoo.data.phantoms.surgical_frame:surgical_frame",
        ),
        Phantom(
            "ultrasound",
            "B-mode image of the breast: benign or malignant lesion, or none",
            "zoo.data.phantoms.ultrasound:ultrasound",
        ),
    )
}


def _of_others() -> dict[str, Phantom]:
    """The phantoms of other distributions, none of them imported.

    A name of ours stays ours, and one that two distributions claim is nobody's.
    """
    points = [point for point in entry_points(group=ENTRY_POINT_GROUP) if point.name not in PHANTOMS]
    names = [point.name for point in points]
    return {
        point.name: Phantom(point.name, f"of {point.dist.name if point.dist else 'unknown'}", point.value)
        for point in sorted(points, key=lambda point: point.name)
        if names.count(point.name) == 1
    }


PHANTOMS |= _of_others()


@dataclass(frozen=True)
class PhantomSpec:
    """``phantom:NAME?seed=..&n=..&OPTION=..`` in parts, checked against the phantom's signature."""

    name: str
    seed: int = 0
    n: int | None = None
    options: dict[str, Any] = field(default_factory=dict)


def parse_spec(spec: str) -> PhantomSpec:
    """Take a specification apart. Raises ``DataError`` for an unknown phantom or option, or a value of wrong type."""
    name, _, query = spec.removeprefix("phantom:").partition("?")
    if name not in PHANTOMS:
        raise DataError(f"there is no phantom {name!r}; {nearest(name, PHANTOMS)}")
    function = PHANTOMS[name].load()
    hints = inspect.get_annotations(function, eval_str=True)
    known = ["seed", "n", *_options(function)]
    values: dict[str, Any] = {}
    for key, text in parse_qsl(query, keep_blank_values=True):
        if key not in known:
            raise DataError(f"the phantom {name!r} has no option {key!r}; {nearest(key, known)}")
        try:
            values[key] = parse(text, int if key in ("seed", "n") else hints[key], key)
        except OptionError as error:
            raise DataError(f"{spec}: {error}") from error
    if values.get("seed", 0) < 0 or values.get("n", 1) < 1:
        raise DataError(f"{spec}: seed must be at least 0 and n at least 1")
    return PhantomSpec(name, values.pop("seed", 0), values.pop("n", None), values)


def make(spec: str) -> Case:
    """The one case of a specification. Raises ``DataError`` as ``parse_spec`` does, and for ``n`` above 1."""
    parsed = parse_spec(spec)
    if parsed.n not in (None, 1):
        raise DataError(f"{spec} names {parsed.n} images where one is needed; choose it with seed=...")
    try:
        return PHANTOMS[parsed.name].load()(parsed.seed, **parsed.options)
    except ImportError as error:
        from zoo.errors import MissingExtraError

        raise MissingExtraError(f"the phantom {parsed.name!r}", error.name or str(error), "imaging") from error


def image(spec: str) -> media.Image:
    """The picture of a specification's one case: how ``zoo.media.read`` reads ``phantom:...``."""
    made = make(spec)
    if made.images:
        stack = np.stack([one.image for one in made.images])
        return replace(media.read(stack), source=spec, format="phantom")
    if not isinstance(made.image, np.ndarray):
        return replace(media.read(made.image), source=spec)
    is_volume = made.image.ndim == 3 and made.image.shape[-1] not in (1, 3, 4)
    picture = media.read(made.image, mode="volume" if is_volume else "auto")
    return replace(picture, source=spec, format="phantom", spacing=made.attributes.get("spacing"))


def describe() -> list[dict[str, Any]]:
    """Name, summary, specification and options with their defaults, one entry per phantom: plain data."""
    rows = []
    for phantom in PHANTOMS.values():
        try:
            options = _options(phantom.load())
        except (ImportError, ZooError):
            options = {}
        rows.append(
            {"name": phantom.name, "summary": phantom.summary, "spec": f"phantom:{phantom.name}", "options": options}
        )
    return rows


def _options(function: Callable[..., Case]) -> dict[str, Any]:
    return {name: p.default for name, p in inspect.signature(function).parameters.items() if name != "seed"}
