"""Dividing a data set so that no patient is seen in training and in testing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo.data.sets import Dataset
from zoo.errors import DataError, MissingExtraError, OptionError
from zoo.text import strict_json

FRACTIONS = (0.7, 0.1, 0.2)
PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class TrainData:
    """The parts of a data set; ``validation`` and ``test`` may be empty if a fraction of 0 was asked for."""

    train: Dataset
    validation: Dataset
    test: Dataset

    def to_dict(self) -> dict[str, Any]:
        """The ids of each part."""
        return {part: getattr(self, part).ids for part in PARTS}


@dataclass(frozen=True)
class Split:
    """How a model's data are divided: in shares, or in folds for cross-validation.

    ``fractions``: of train, validation and test. ``folds``: the recipe's fields ``folds`` and ``fold`` say how many
    there are and which is the test; of the others, ``fractions`` say how much is for validation.
    """

    fractions: tuple[float, float, float] = FRACTIONS
    folds: bool = False


def divide(dataset: Dataset, how: Split | None = None, recipe: Any = None, seed: int = 0) -> TrainData:
    """The parts of ``dataset`` that a training with ``recipe`` and ``seed`` takes: everybody divides by this.

    Patients stay together, labels are shared out evenly, and splits that a set states are kept. Raises ``OptionError``
    for a fold that doesn't exist, ``DataError`` for too few patients or a patient stated in two splits.
    """
    how = how or Split()
    if not how.folds:
        return split(dataset, how.fractions, seed)
    if recipe.fold >= recipe.folds:
        raise OptionError(f"fold must be below folds, {recipe.folds}, not {recipe.fold}; the first fold is 0")
    if any(entry.split for entry in dataset.entries):
        return split(dataset, how.fractions, seed)
    return _fold(dataset, recipe.folds, recipe.fold, how.fractions, seed)


def _fold(dataset: Dataset, folds: int, fold: int, fractions: Sequence[float], seed: int) -> TrainData:
    """One fold for the test and one part of the rest for validation. Phantoms aren't drawn to know their labels."""
    try:
        from sklearn.model_selection import StratifiedGroupKFold
    except ImportError as error:
        raise MissingExtraError("folds by patient", "scikit-learn", "train") from error
    labels = np.array([_label(dataset, place) for place in range(len(dataset))])
    patients = np.array([entry.patient or f"case {entry.id}" for entry in dataset.entries])
    if len(set(patients)) < 2 * folds:
        raise DataError(f"{dataset.spec} has {len(set(patients))} patients, too few for {folds} folds")

    def parts(places: np.ndarray, count: int) -> list[np.ndarray]:
        cut = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
        return [places[held_out] for _, held_out in cut.split(places, labels[places], patients[places])]

    everything = np.arange(len(dataset))
    test = parts(everything, folds)[fold]
    rest = np.setdiff1d(everything, test)
    of_rest = round((fractions[0] + fractions[1]) / fractions[1]) if fractions[1] else 0
    validation = parts(rest, of_rest)[0] if of_rest else rest[:0]
    return TrainData(*(dataset.subset(part) for part in (np.setdiff1d(rest, validation), validation, test)))


def split(dataset: Dataset, fractions: Sequence[float] = FRACTIONS, seed: int = 0) -> TrainData:
    """Divide ``dataset`` by patient into train, validation and test.

    Where the set states splits they are kept; without a validation part, one is taken from the training patients.
    Otherwise patients are drawn at random (``seed``) so that each part gets its share of every label. The result
    doesn't depend on the order of the cases. A case without a patient is a patient of its own.

    Raises ``DataError`` when there are too few patients, or a patient is stated in two splits.
    """
    if len(fractions) != 3 or min(fractions) < 0 or fractions[0] <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise OptionError(f"split fractions must be three shares that add up to 1, not {tuple(fractions)}")
    stated = [entry.split for entry in dataset.entries]
    if any(stated):
        if not all(stated):
            missing = next(entry.id for entry in dataset.entries if entry.split is None)
            raise DataError(f"{dataset.spec} states a split for some cases but not for {missing}; state all or none")
        if found := leaks(dataset):
            patient, parts = next(iter(found.items()))
            raise DataError(f"patient {patient} of {dataset.spec} is in {' and '.join(parts)}; a patient is in one")
        chosen = {part: [i for i, name in enumerate(stated) if name == part] for part in PARTS}
        if not chosen["train"]:
            raise DataError(f"{dataset.spec} states splits but has no training case")
        if not chosen["validation"] and fractions[1] > 0 and not dataset.whole:
            share = fractions[1] / (fractions[0] + fractions[1])
            places = chosen["train"]
            chosen["train"], chosen["validation"] = ([places[i] for i in part] for part in
                _draw(dataset.subset(places), (1 - share, share), seed))  # fmt: skip
    else:
        chosen = dict(zip(PARTS, _draw(dataset, fractions, seed), strict=True))
    return TrainData(**{part: dataset.subset(chosen[part]) for part in PARTS})


def leaks(dataset: Dataset) -> dict[str, list[str]]:
    """Patients whose cases are stated in more than one split, with these splits."""
    parts: dict[str, dict[str, None]] = {}
    for entry in dataset.entries:
        if entry.patient is not None and entry.split is not None:
            parts.setdefault(entry.patient, {})[entry.split] = None
    return {patient: list(found) for patient, found in parts.items() if len(found) > 1}


def save_split(data: TrainData, path: str | Path, seed: int) -> Path:
    """Write which case is in which part, with the specification and seed, as JSON."""
    from zoo.storage import write_file

    record = {"data": data.train.spec, "seed": seed, **data.to_dict()}
    return write_file(path, json.dumps(record, indent=1) + "\n")


def load_split(dataset: Dataset, path: str | Path) -> TrainData:
    """The division of ``dataset`` that ``save_split`` wrote. Raises ``DataError`` if it's of other cases."""
    try:
        record = strict_json(Path(path).read_text(encoding="utf-8"))
        ids = {part: list(record[part]) for part in PARTS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no record of a split: {error}") from error
    place = {name: i for i, name in enumerate(dataset.ids)}
    for part in PARTS:
        if lost := [name for name in ids[part] if name not in place]:
            raise DataError(f"{path} divides other data: {dataset.spec} has no case {lost[0]!r}")
    return TrainData(**{part: dataset.subset(place[name] for name in ids[part]) for part in PARTS})


def _draw(dataset: Dataset, fractions: Sequence[float], seed: int) -> list[list[int]]:
    """Places of the cases in each part."""
    patients: dict[str, list[int]] = {}
    for i, entry in enumerate(dataset.entries):
        # a tag keeps a patient called like another case's id apart from it
        patients.setdefault(f"case {entry.id}" if entry.patient is None else f"patient {entry.patient}", []).append(i)
    wanted = [p for p, fraction in enumerate(fractions) if fraction > 0]
    if len(patients) < len(wanted):
        raise DataError(f"{dataset.spec} has {len(patients)} patients, too few for {len(wanted)} parts")
    label = {name: _label(dataset, places[0]) for name, places in patients.items()}
    members: list[list[str]] = [[] for _ in fractions]
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0x5917]))
    for stratum in sorted(set(label.values())):
        names = sorted(name for name in patients if label[name] == stratum)
        total = sum(len(patients[name]) for name in names)
        lack = np.array([fraction * total for fraction in fractions])
        for k in rng.permutation(len(names)):
            part = int(np.argmax(np.where(np.array(fractions) > 0, lack, -np.inf)))
            members[part].append(names[k])
            lack[part] -= len(patients[names[k]])
    for part in wanted:  # rounding may have left a small part without anybody
        if not members[part]:
            members[part].append(max(members, key=len).pop())
    return [sorted(i for name in part for i in patients[name]) for part in members]


def _label(dataset: Dataset, place: int) -> str:
    """The label by which a patient's share is balanced; a phantom would have to be made to know its own."""
    case = dataset.entries[place].case
    return "" if callable(case) or case.label is None else str(case.label)
