"""Candidate phrases from JSON, which images are the shots, and what CLIP makes of all images."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from zoo import media
from zoo.data.images import label_index
from zoo.data.sets import Dataset, load_dataset
from zoo.diagnoses import ISIC_2019
from zoo.errors import DataError
from zoo.models.cbvc import plugin
from zoo.models.cbvc.selection import Spread
from zoo.nn.clip import Clip
from zoo.storage import replacing, user_path
from zoo.text import strict_json
from zoo.training import Run

DEMO = "demo"
DEMO_FILE = Path(__file__).with_name("candidates.json")
MAX_BYTES = 16 << 20
Naming = Literal["refuse", "drop", "keep"]


@dataclass(frozen=True)
class Features:
    """What CLIP makes of images, with their classes."""

    x: Float[Tensor, "n d"]
    y: Int[Tensor, " n"]
    hidden: Float[Tensor, "n h"] | None = None


HAM10000 = {
    "actinic keratoses": "AK", "basal cell carcinoma": "BCC", "benign keratosis-like lesions": "BKL",
    "dermatofibroma": "DF", "melanocytic nevi": "NV", "melanoma": "MEL", "vascular lesions": "VASC",
}  # fmt: skip
"""What LaBo's file of candidates calls the classes of HAM10000, and the labels of ``ham10000:PATH``."""


def read_candidates(where: str, naming: Naming = "refuse") -> dict[str, list[str]]:
    """The candidate phrases of each class, from a JSON file ``{"class": ["phrase", ...]}``; ``demo``: the zoo's own.

    Spaces are collapsed, a phrase that a class has twice is taken once. Classes of HAM10000 and ISIC 2019 may have
    their full names. ``naming``: what becomes of phrases that contain the name of a class, which would make the
    concepts another spelling of the labels.

    Raises ``DataError`` for a file that is no such table, or with ``refuse`` for a phrase that names a class.
    """
    path = DEMO_FILE if where == DEMO else user_path(where)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path} has more than {MAX_BYTES >> 20} MiB; candidate phrases take far less")
        table = strict_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"the candidate phrases {path} can't be read: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(f"the candidate phrases {path} are no JSON: {error}") from error
    if not isinstance(table, Mapping) or len(table) < 2:
        raise DataError(f'{path} must hold the phrases of two classes or more: {{"class": ["phrase", ...]}}')
    found: dict[str, list[str]] = {}
    for name, phrases in table.items():
        label = label_of(name)
        if label in found:
            raise DataError(f"{path} has the class {label!r} twice; keep one")
        if not isinstance(phrases, list) or not all(isinstance(one, str) for one in phrases):
            raise DataError(f"{path}: the phrases of {name!r} must be a list of texts")
        found[label] = list(dict.fromkeys(text for one in phrases if (text := " ".join(one.split()))))
    names = {label: names_of(label, table) for label in found}
    found = {label: _unnamed(label, phrases, names, naming, path) for label, phrases in found.items()}
    if empty := next((label for label, phrases in found.items() if not phrases), None):
        raise DataError(f"{path} has no phrase for the class {empty!r}; give it some, or leave the class out")
    return found


def label_of(name: str) -> str:
    """The short label of a class that is spelled out: ``melanocytic nevi`` is ``NV``; others stay as they are."""
    plain = " ".join(name.lower().split())
    return HAM10000.get(plain) or {v: k for k, v in ISIC_2019.items()}.get(plain, name)


def names_of(label: str, table: Mapping[str, object]) -> tuple[str, ...]:
    """By what a phrase would name a class: as the file, HAM10000 and ISIC 2019 spell it. Labels of up to four letters
    are no words. Other words for it, such as nevus, aren't known."""
    spelled = [name for name in (*table, *HAM10000) if label_of(name) == label]
    return tuple(dict.fromkeys(name.lower() for name in (*spelled, ISIC_2019.get(label, "")) if len(name) > 4))


def _unnamed(
    label: str, phrases: list[str], names: Mapping[str, Sequence[str]], naming: Naming, path: Path
) -> list[str]:
    if naming == "keep":
        return phrases
    kept = []
    for phrase in phrases:
        named = next((name for some in names.values() for name in some if _says(phrase, name)), None)
        if named and naming == "refuse":
            raise DataError(
                f"{path}: the phrase {phrase!r} of {label} names the class {named!r}; reword it, or set "
                "class_names=drop to leave such phrases out (class_names=keep lets them in)"
            )
        if not named:
            kept.append(phrase)
    return kept


def _says(phrase: str, name: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", phrase.lower()) is not None


def draw_shots(
    y: Sequence[int], labels: Sequence[str], shots: int, rng: np.random.Generator | random.Random
) -> list[int]:
    """Places of ``shots`` images of every class; all for 0.

    ``rng``: numpy's, or Python's ``Random``, by which LaBo's code draws: one sample per class, in the classes' order.
    Raises ``DataError`` for a class with fewer images.
    """
    if not shots:
        return list(range(len(y)))
    chosen: list[int] = []
    for label, name in enumerate(labels):
        places = [i for i, one in enumerate(y) if one == label]
        if len(places) < shots:
            raise DataError(
                f"the class {name} has {len(places)} training images, fewer than the {shots} shots asked for"
            )
        if isinstance(rng, random.Random):
            chosen += rng.sample(places, shots)
        else:
            chosen += [places[i] for i in rng.permutation(len(places))[:shots]]
    return chosen


# ---- features -------------------------------------------------------------------------------------------------------


def extract(
    clip: Clip,
    parts: Mapping[str, Dataset],
    labels: Sequence[str],
    unlabelled: str,
    normalised: bool,
    probe: bool,
    run: Run,
) -> tuple[dict[str, Features], Spread]:
    """Features of all parts and the spread of X, computed once: a resumed run finds them beside its checkpoints."""
    from safetensors.torch import load_file, save_file

    stored = None if run.out is None else run.checkpoints / "features.safetensors"
    if stored is not None and stored.is_file():
        kept = load_file(stored)
    else:
        kept = {}
        for name, part in parts.items():
            x, hidden = clip.features(views(clip, part))
            kept[f"{name}.x"] = x.cpu().contiguous()
            if probe:
                kept[f"{name}.hidden"] = hidden.cpu().contiguous()
        spread = Spread(clip.width)
        for x in [kept["train.x"]] if not unlabelled else _batches(clip, unlabelled):
            spread.update(as_compared(x, normalised))
        if spread.count < 2:
            raise DataError(f"visual scores need two unlabelled images or more, not {spread.count}")
        kept |= {"count": torch.tensor(spread.count), "total": spread.total, "products": spread.products}
        if stored is not None and run.is_main:
            with replacing(stored) as draft:
                save_file(kept, draft)
    spread = Spread(clip.width)
    spread.count, spread.total, spread.products = int(kept["count"]), kept["total"], kept["products"]
    found = {
        name: Features(
            kept[f"{name}.x"],
            torch.tensor(classes_of(part, labels)).long(),
            kept.get(f"{name}.hidden"),
        )
        for name, part in parts.items()
    }
    return found, spread


def classes_of(cases: Dataset, labels: Sequence[str]) -> list[int]:
    """The class of every case. Raises ``DataError`` for one that has no candidate phrases."""
    remedy = "the classes are those of the candidate phrases: --set concepts=FILE.json"
    return [label_index(case.label, labels, f"case {case.id}", remedy) for case in cases]


def as_compared(features: Float[Tensor, "n d"], normalised: bool) -> Float[Tensor, "n d"]:
    return F.normalize(features, dim=1) if normalised else features


def views(clip: Clip, cases: Dataset) -> Iterator[UInt8[np.ndarray, "s s 3"]]:
    return (clip.view(media.read(case.image).require_2d(plugin.name)) for case in cases)


def _batches(clip: Clip, spec: str, size: int = 512) -> Iterator[Float[Tensor, "b d"]]:
    """Of an unlabelled set of any size; a piece of it is in memory at a time."""
    dataset = load_dataset(spec, plugin=plugin)
    for start in range(0, len(dataset), size):
        yield clip.images(views(clip, dataset[start : start + size]))
