"""Which cases weights have seen, so that nobody measures them on what they were trained on without knowing.

A case is known by its content: a drawn one by the name, options and seed of its phantom, all others by a short hash of
their image. ``seen.json`` beside the weights holds the cases of training and validation, and hashes of their patients;
these stay at home when the weights are published.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry
from zoo.data.splits import TrainData
from zoo.errors import WeightsError

PARTS = ("train", "validation")
DIGITS = 16  # of a hash, in hexadecimal: two in ten million cases share one with a chance of 3 in a million
MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class Seen:
    """The cases that weights were trained on and chosen by, and whose they were."""

    train: frozenset[str]
    validation: frozenset[str]
    patients: frozenset[str] = frozenset()

    @classmethod
    def of(cls, data: TrainData) -> Seen:
        """What a training on ``data`` sees."""
        train, validation = (frozenset(map(content, getattr(data, part).entries)) for part in PARTS)
        entries = [entry for part in PARTS for entry in getattr(data, part).entries]
        named = frozenset(_short(e.patient.encode()) for e in entries if e.patient and not e.drawn)
        return cls(train, validation, named)

    @property
    def cases(self) -> frozenset[str]:
        return self.train | self.validation

    def marks(self, dataset: Dataset) -> list[str]:
        """For each case ``train`` or ``validation`` if it was seen, ``patient`` if others of its patient were, or "".

        A patient's name is believed where the set shares a case with what was seen: "1" is somebody else elsewhere.
        """
        keys = [content(entry) for entry in dataset.entries]
        found = ["train" if k in self.train else "validation" if k in self.validation else "" for k in keys]
        if not any(found):
            return found
        known = [bool(e.patient) and _short(str(e.patient).encode()) in self.patients for e in dataset.entries]
        return [mark or ("patient" if patient else "") for mark, patient in zip(found, known, strict=True)]

    def to_json(self) -> str:
        """Drawn cases as their phantom with its seeds, all others as hashes."""
        record: dict[str, Any] = {}
        for part in PARTS:
            hashes: list[str] = []
            phantoms: dict[str, list[int]] = {}
            for key in getattr(self, part):
                drawn, mark, seed = key.rpartition("#")
                if mark:
                    phantoms.setdefault(drawn, []).append(int(seed))
                else:
                    hashes.append(key)
            record[part] = {"cases": sorted(hashes), "phantoms": {k: sorted(phantoms[k]) for k in sorted(phantoms)}}
        return json.dumps({**record, "patients": sorted(self.patients)}) + "\n"


def read(path: Path) -> Seen | None:
    """The list beside weights; ``None`` where there is none. Raises ``WeightsError`` for one that can't be read."""
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it is larger than {MAX_BYTES >> 20} MiB")
        record = json.loads(path.read_text(encoding="utf-8"))
        train, validation = (frozenset(_keys(record[part])) for part in PARTS)
        return Seen(train, validation, frozenset(str(name) for name in record["patients"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{path} is no list of the cases that weights saw; get the file again") from error


def _keys(part: Any) -> Iterable[str]:
    yield from (str(key) for key in part["cases"])
    for drawn, seeds in part["phantoms"].items():
        yield from (f"{drawn}#{int(seed)}" for seed in seeds)


def content(entry: Entry) -> str:
    """What a case is known by, whatever it and its set are called. A file that can't be read is known by its id."""
    if entry.drawn:
        return entry.drawn
    case = entry.case if isinstance(entry.case, Case) else entry.case()
    digest = hashlib.sha256()
    for one in case.images or (case,):
        try:
            _feed(digest, one.image)
        except OSError:
            digest.update(f"unreadable {one.id}".encode())
    return digest.hexdigest()[:DIGITS]


def _feed(digest: Any, image: Any) -> None:
    if isinstance(image, (str, Path)):
        path = Path(image)
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            part = hashlib.sha256()
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    part.update(block)
            digest.update(part.digest())
        return
    array = np.ascontiguousarray(getattr(image, "array", image))
    digest.update(f"{array.dtype.str} {array.shape}".encode())
    digest.update(array.tobytes())


def _short(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:DIGITS]
