"""Numbers in a DICOM header, which is text from outside: read right, left out with a note, or refused.

What had to be assumed is kept with the data set (:func:`note`) and ends in ``Image.notes``.
"""

from __future__ import annotations

import math
import re
from typing import Any

from zoo.media.files import printable, refusal

# What is read of a header as text; a value that isn't a number is left out.
_TEXTS = (
    "WindowCenter", "WindowWidth", "PixelSpacing", "ImagerPixelSpacing", "ImagePositionPatient",
    "ImageOrientationPatient", "SpacingBetweenSlices", "SliceThickness", "GridFrameOffsetVector",
)  # fmt: skip
_SEQUENCES = (
    "FrameVOILUTSequence", "PixelMeasuresSequence", "PlanePositionSequence", "PlaneOrientationSequence",
)  # fmt: skip


def note(dataset: Any, text: str) -> None:
    """Remember what was assumed of a data set, once."""
    known = dataset.__dict__.setdefault("notes", [])
    if text not in known:
        known.append(text)


def notes(dataset: Any) -> list[str]:
    """What was assumed of a data set so far, its number texts looked through."""
    sources = [dataset, *(one for one in (functional(dataset, 0, name) for name in _SEQUENCES) if one)]
    for name in _TEXTS:
        for source in sources:
            for value in _values(source.get(name)):
                _judge(dataset, name, value)
    return list(dataset.__dict__.get("notes", ()))


def numbers(source: Any, name: str, count: int | None = None) -> tuple[float, ...] | None:
    """All values of an element as finite numbers; None when it's absent, has another count, or one is no number."""
    found = [_number(value) for value in _values(source.get(name))]
    whole = tuple(value for value in found if value is not None)
    return whole if whole and len(whole) == len(found) and count in (None, len(whole)) else None


def number(source: Any, name: str) -> float | None:
    """The first value of an element as a finite number, or None."""
    values = _values(source.get(name))
    return _number(values[0]) if values else None


def rescale(path: Any, source: Any, dataset: Any) -> tuple[float, float] | None:
    """Slope and intercept; None where neither is stated. What is empty counts as 1 and 0, with a note.

    Raises ``MediaError`` for a text that is no number and for a slope of 0: without them the pixels mean nothing.
    """
    if "RescaleSlope" not in source and "RescaleIntercept" not in source:
        return None
    pair = []
    for name, usual in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0)):
        if not _values(source.get(name)):
            note(dataset, f"the {_words(name)} is empty and was taken as {usual:g}")
            pair.append(usual)
            continue
        value = number(source, name)
        if value is None or (value == 0 and usual == 1):
            text = printable(str(source.get(name)), 32)
            raise refusal(path, f"its {_words(name)} is {text!r}, which is no scale", "export it again")
        _judge(dataset, name, _values(source.get(name))[0])
        pair.append(value)
    return pair[0], pair[1]


def functional(dataset: Any, frame: int, name: str) -> Any:
    """The one item of a functional-group sequence: the frame's own, else the shared one, else None."""
    own = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for group in [*own[frame : frame + 1], *shared[:1]]:
        if group.get(name):
            return group.get(name)[0]
    return None


def _values(value: Any) -> list[Any]:
    several = list(value) if isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue" else [value]
    return [] if all(one is None or str(one).strip("\0 ") == "" for one in several) else several


def _number(value: Any) -> float | None:
    text = str(value).strip("\0 ")
    if re.fullmatch(r"[-+]?\d+,\d+", text):  # written by a program that minds its country
        text = text.replace(",", ".")
    try:
        found = float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def _judge(dataset: Any, name: str, value: Any) -> None:
    found, text = _number(value), printable(str(value), 32)
    if found is None:
        note(dataset, f"the {_words(name)} {text!r} is no number and was left out")
    elif "," in text:
        note(dataset, f"the {_words(name)} {text!r} was taken as {found:g}")


def _words(keyword: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", keyword).lower()
