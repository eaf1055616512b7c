"""Stored answers: what a set of weights said of one input, kept beside it, so that anybody can ask again.

``answer.json`` holds the input (a phantom and its seed), the options, the prediction's quantities, and a sketch of each
of its arrays: shape, digest, and means over a few blocks. ``zoo train`` and ``zoo push`` write it from the weights as
they are stored, ``zoo test`` and ``zoo check`` compare. Numbers may differ by the tolerance of the number type and the
device, since other machines add in another order; ``exact`` says that nothing differs at all.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoo import extras, inputs, loading, media, registry
from zoo.errors import WeightsError
from zoo.model import Model
from zoo.plugin import Input, Plugin
from zoo.prediction import Prediction
from zoo.spec import Spec, is_kind
from zoo.storage import write_file
from zoo.text import finite, printable, strict_json
from zoo.weights import ANSWER, Located, owner, read_headers, release

FORMAT = 1
SEED = 97  # of the phantom
BLOCKS = 4  # of a sketch, along each of the last three axes
MAX_BYTES = 1 << 20
TOLERANCE = {
    "cpu float32": 1e-3,
    "cuda float32": 5e-3,
    "cpu bfloat16": 2e-2,
    "cuda bfloat16": 2e-2,
    "cpu float16": 2e-2,
    "cuda float16": 2e-2,
}
"""How far a number may be off, of the larger of 1 and itself. Another device or number type counts as the coarsest."""

SAME_LABELS = 1e-2
"""... and a mean of labels in a block, where a probability may lie at the threshold."""

_MADE = ("phantom", "sample")  # never a file of whoever loads the weights
_PLAIN = ("number", "integer", "choice", "flag", "text", "box", "point", "click")


@dataclass(frozen=True)
class Answer:
    """What weights said. ``pixels``, ``tensors``: SHA-256 of the input and of the files of tensors."""

    input: str
    options: dict[str, Any]
    kind: str
    unlike: bool | None
    quantities: dict[str, Any]
    arrays: dict[str, Any]
    pixels: str
    tensors: str
    made: dict[str, str]  # device, dtype, and the versions of the model's package and of torch
    tolerance: dict[str, float] = field(default_factory=lambda: dict(TOLERANCE))

    def to_json(self) -> str:
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=1, allow_nan=False)
        return re.sub(r"\[[^][{}\"]*\]", lambda found: " ".join(found[0].split()), text) + "\n"  # numbers on one line


@dataclass(frozen=True)
class Tested:
    """How a model answers today. ``differences``: what is off by more than ``tolerance``; ``exact``: nothing is off."""

    model: str
    weights: str
    revision: str | None
    input: str
    device: str
    tolerance: float
    differences: tuple[str, ...]
    exact: bool
    made: dict[str, str]

    @property
    def ok(self) -> bool:
        return not self.differences

    def sentence(self) -> str:
        """One line: same or not, and by how much that is told."""
        if self.differences:
            return f"answers otherwise than its author saw: {'; '.join(self.differences[:4])}"
        return "the stored answer to the bit" if self.exact else f"the stored answer, within {self.tolerance:g}"

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "differences": list(self.differences), "ok": self.ok}


def ask_again(name: str, *, weights: str | None = None, device: str = "auto") -> Tested:
    """Ask the model ``name`` again what its weights were asked, and compare.

    Raises ``WeightsError`` for weights without a stored answer, and as :func:`zoo.load` does.
    """
    entry, model, located = _loaded(name, weights, device)
    return compare(model, located, entry.plugin.name)


def compare(model: Model, located: Located, name: str = "") -> Tested:
    """The same for a model that is loaded from ``located``."""
    expected = read(located)
    if expected is None:
        raise WeightsError(
            f"weights {located.spec} carry no {ANSWER}; for weights that you trust, zoo test {model.plugin.name} "
            "--write makes one"
        )
    plain = {item.name for item in model.plugin.options if item.kind in _PLAIN}
    if files := [name for name, value in expected.options.items() if name not in plain and not is_kind(value, *_MADE)]:
        raise WeightsError(
            f"{ANSWER} of weights {located.spec} names a file as {printable(files[0], 40)}; don't use it"
        )
    found = ask(model, located, expected.input, expected.options)
    tolerance = tolerance_of(expected, found)
    differences = list(_differences(expected, found, tolerance))
    if differences and expected.tensors != found.tensors:
        differences.append("the tensors are not those that were asked")
    if differences and expected.pixels != found.pixels:
        differences.append(f"{expected.input} is drawn otherwise than it was")
    same = (expected.quantities, expected.arrays) == (found.quantities, found.arrays)
    provenance = model.provenance
    return Tested(
        name or model.plugin.name, provenance.weights, provenance.revision, expected.input, found.made["device"],
        tolerance, tuple(differences), same and not differences, expected.made,
    )  # fmt: skip


def write(name: str, *, weights: str | None = None, device: str = "cpu") -> Path:
    """Ask the weights of ``name`` and store the answer beside them; returns its path.

    Raises ``WeightsError`` for weights on the Hub, which a push gives theirs, and for a model that can't be asked.
    """
    if weights is not None and weights.startswith("hf://"):
        raise WeightsError(f"the answer of {weights} can't be written there; pull it, write, and push the folder")
    entry, model, located = _loaded(name, weights, device)
    spec = question(entry.plugin)
    if spec is None:
        raise WeightsError(f"{name} can't be asked by itself: its card names neither a phantom nor a sample")
    return write_file(located.folder / ANSWER, ask(model, located, spec).to_json())


def write_beside(model_class: type[Model], folder: Path) -> Answer | None:
    """Store the answer of weights that were just saved to ``folder``, as they load from there; None if none can be."""
    spec = question(model_class.plugin)
    if spec is None:
        return None
    located = loading.locate(str(folder), model_class.plugin)
    answer = ask(loading.load_into(model_class, str(folder), "cpu"), located, spec)
    write_file(folder / ANSWER, answer.to_json())
    return answer


def question(plugin: Plugin) -> str | None:
    """The input that weights of a plugin are asked: its phantom, else its sample; None where it can't be made up."""
    needed = [item for item in plugin.options if item.required and not (item.kind in _PLAIN or item.choices)]
    if needed and not {item.name for item in needed} <= inputs.drawn(plugin).keys():
        return None
    return str(Spec.parse(plugin.phantom).with_options(seed=SEED)) if plugin.phantom else plugin.sample


def ask(model: Model, located: Located, spec: str, given: Mapping[str, Any] | None = None) -> Answer:
    """What ``model`` says of the phantom or sample ``spec``. Options that it needs are made up where none are given."""
    plugin = model.plugin
    image = media.read(spec)
    if given is None:
        given = made_up(plugin, image)
    prediction = model.predict([spec] if plugin.primary_input.kind == "images" else spec, **given)
    parameter = next(model.parameters())
    distribution = owner(plugin)
    return Answer(
        input=spec,
        options={name: _plain(value) for name, value in given.items()},
        kind=prediction.kind,
        unlike=None if prediction.domain is None else prediction.unlike,
        quantities=_rounded(prediction.quantities()),
        arrays={name: sketch(array) for name, array in _arrays(prediction)},
        pixels=hashlib.sha256(np.ascontiguousarray(image.array).tobytes()).hexdigest(),
        tensors=_digest(located),
        made={
            "device": parameter.device.type,
            "dtype": str(parameter.dtype).removeprefix("torch."),
            distribution: release(distribution),
            "torch": torch.__version__,
        },
    )


def read(located: Located) -> Answer | None:
    """The answer beside weights; None where there is none. Raises ``WeightsError`` for one that can't be used."""
    path = located.folder / ANSWER
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it is larger than {MAX_BYTES >> 20} MiB")
        record = strict_json(path.read_text(encoding="utf-8"))
        if record.pop("format") != FORMAT:
            raise ValueError("it is of another release")
        texts: dict[str, Any] = dict.fromkeys(("input", "kind", "pixels", "tensors"), str)
        kinds = {**texts, "unlike": (bool, type(None))}
        for item in fields(Answer):
            if not isinstance(record[item.name], kinds.get(item.name, dict)):
                raise ValueError(f"its {item.name} is a {type(record[item.name]).__name__}")
        answer = Answer(**record)
        for array in answer.arrays.values():
            np.array([*array["shape"], *array["means"]], np.float64)  # numbers, or an error
        if not is_kind(answer.input, *_MADE):
            raise ValueError(f"it asks {printable(answer.input, 40)}, which is neither a phantom nor a sample")
        if not all(isinstance(value, float) and 0 <= value <= 1 for value in answer.tolerance.values()):
            raise ValueError("its tolerances must lie between 0 and 1")
        return answer
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{ANSWER} of weights {located.spec} can't be read: {printable(error, 120)}; get the file again"
        ) from error


def tolerance_of(expected: Answer, found: Answer) -> float:
    """How far numbers may be off: the coarser of where the answer was made and where it is asked again."""
    coarsest = max(expected.tolerance.values(), default=max(TOLERANCE.values()))
    keys = (f"{made.get('device')} {made.get('dtype')}" for made in (expected.made, found.made))
    return max(expected.tolerance.get(key, coarsest) for key in keys)


def sketch(array: np.ndarray) -> dict[str, Any]:
    """Shape, digest and block means of an array; axes before the last three are kept whole up to ``BLOCKS``."""
    values = np.ascontiguousarray(array)
    means = values.astype(np.float64)
    for axis, length in enumerate(values.shape):
        if length > BLOCKS:
            edges = np.linspace(0, length, BLOCKS, endpoint=False).astype(int)
            counts = np.diff([*edges, length]).reshape(-1, *[1] * (values.ndim - axis - 1))
            means = np.add.reduceat(means, edges, axis=axis) / counts
    return {
        "shape": list(values.shape),
        "dtype": values.dtype.name,
        "digest": hashlib.sha256(values.tobytes()).hexdigest(),
        "means": _rounded(means.ravel()[:4096].tolist()),
    }


def made_up(plugin: Plugin, image: media.Image) -> dict[str, Any]:
    """Something that counts as given for each required option, but for those that the card's phantom draws."""
    drawn = inputs.drawn(plugin)
    needed = [item for item in plugin.options if item.required and item.name not in drawn]
    values = {item.name: good_values(item, image)[0] for item in needed}
    return {item.name: (values[item.name],) if item.many else values[item.name] for item in needed}


def good_values(item: Input, image: media.Image) -> list[Any]:
    """Values that an input must take, for an image to go with them; none where they can't be made up."""
    h, w = image.size[-2:]
    limits = [bound for bound in (item.minimum, item.maximum) if bound is not None]
    default = [] if item.default is None else [item.default]
    if item.kind == "choice":
        return list(item.choices)
    if item.kind == "flag":
        return [True, False]
    if item.kind == "number":
        return default + limits or [1.0]
    if item.kind == "integer":
        return default + [int(bound) for bound in limits] or [1]
    if item.kind == "text":
        return list(item.choices) or default or ["text"]
    if item.kind == "images":
        return list(item.choices) or default
    if item.kind == "mask":
        return [np.ones(image.size, np.uint8)]
    if item.kind in ("image", "volume"):
        return [image]
    if item.kind == "table":
        return [[{}]]
    if item.kind == "box":
        return [(w // 4, h // 4, 3 * w // 4, 3 * h // 4)]
    if item.kind == "point":
        return [(w // 2, h // 2)]
    if item.kind == "click":
        return [(w // 2, h // 2, 1), (w // 2, h // 2, 0)]
    return default


def _loaded(name: str, spec: str | None, device: str) -> tuple[Any, Model, Located]:
    entry = registry.find(name)
    assert entry.plugin is not None
    extras.require(entry.plugin.extras, entry.plugin.name, entry.distribution)
    model_class: type[Model] = registry.resolve(entry, "model")
    spec = spec or "demo"
    if spec == "none":
        raise WeightsError("a random initialisation has no answer to keep; pass --weights")
    model = loading.load_into(model_class, spec, loading.pick_device(device))
    return entry, model, loading.locate(spec, entry.plugin)


def _differences(expected: Answer, found: Answer, tolerance: float) -> Iterator[str]:
    if expected.kind != found.kind:
        yield f"it is a {found.kind}, not a {printable(expected.kind, 40)}"
        return
    if expected.unlike != found.unlike and expected.unlike is not None:
        yield f"the input is {'un' if found.unlike else ''}like the training images, which it was not"
    for name in dict.fromkeys([*expected.quantities, *found.quantities]):
        before, now = expected.quantities.get(name), found.quantities.get(name)
        if not _close(before, now, tolerance):
            yield f"{printable(name, 60)} is {_shown(now)}, not {_shown(before)}"
    for name in dict.fromkeys([*expected.arrays, *found.arrays]):
        yield from _array_differences(name, expected.arrays.get(name), found.arrays.get(name), tolerance)


def _array_differences(name: str, before: Any, now: Any, tolerance: float) -> Iterator[str]:
    if before is None or now is None:
        yield f"{printable(name, 60)} is {'new' if before is None else 'gone'}"
    elif before == now:
        return
    elif len(before["shape"]) != len(now["shape"]) or not all(
        _close(a, b, tolerance) for a, b in zip(before["shape"], now["shape"], strict=True)
    ):
        yield f"{printable(name, 60)} has the shape {now['shape']}, not {printable(before['shape'], 60)}"
    else:
        old, new = np.array(before["means"], np.float64), np.array(now["means"], np.float64)
        floats = str(now["dtype"]).startswith(("float", "complex"))
        limit = max(tolerance, 0 if floats else SAME_LABELS) * max(1.0, float(np.abs(new).max(initial=0)))
        gap = float(np.abs(old - new).max(initial=0)) if old.shape == new.shape else math.inf
        if not gap <= limit:
            yield f"{printable(name, 60)} is off by {gap:.3g}"


def _close(before: Any, now: Any, tolerance: float) -> bool:
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in (before, now))
    return abs(before - now) <= tolerance * max(1.0, abs(before)) if numbers else before == now


def _arrays(prediction: Prediction) -> Iterator[tuple[str, np.ndarray]]:
    for item in fields(prediction):
        value = getattr(prediction, item.name)
        if item.compare and item.name != "image" and isinstance(value, np.ndarray) and value.dtype.kind in "buif":
            yield item.name, value


def _digest(located: Located) -> str:
    """Of the files of tensors, by name."""
    total = hashlib.sha256()
    for path in sorted({stored.file for stored in read_headers(located).values()}):
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                total.update(chunk)
    return total.hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise WeightsError(f"a {type(value).__name__} can't be kept in {ANSWER}")


def _rounded(value: Any) -> Any:
    """Six digits: more than any tolerance, and a small file."""
    if isinstance(value, Mapping):
        return {str(name): _rounded(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return float(f"{value:.6g}") if isinstance(value, float) and math.isfinite(value) else finite(value)


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else printable(value, 40)
