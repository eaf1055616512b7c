"""``zoo export``: a model's network as a file that runs without the zoo, in ONNX or as a program of ``torch.export``.

A plugin says beside its model what of it is a network, and what comes before and after: in ``export.json``,

    {"network": "network", "inputs": {"image": ["batch", 3, "{image_size}", "{image_size}"]},
     "outputs": {"logits": "one for each label"}, "preprocessing": ["..."], "postprocessing": ["..."]}

where a name in braces stands for a field of the configuration, or where that takes code in ``export.py``, by a function
``exportable(model) -> Exportable``. What stands there enters the file as metadata, for a network alone is no model: who
runs it prepares images as it says. The file is run once against the network, and isn't kept where they differ.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoo import inference
from zoo._version import __version__
from zoo.errors import OptionError, PluginError
from zoo.export.files import require_onnx, run_onnx, run_program, write_onnx, write_program
from zoo.export.form import Exportable, exportable
from zoo.export.graph import Positional, traced
from zoo.extras import DISTRIBUTION
from zoo.model import Model
from zoo.storage import replacing, user_path
from zoo.text import listed, nearest

__all__ = ["FORMATS", "TOLERANCE", "Exportable", "Exported", "export", "exportable", "traced"]

FORMATS: dict[str, str] = {"onnx": ".onnx", "torch-export": ".pt2"}
TOLERANCE = 1e-4
"""How far the file's outputs may be from the network's, of numbers up to 1; of larger ones, of their size."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exported:
    """A file that was written."""

    path: Path
    format: str
    difference: float  # largest, between its outputs and the network's
    metadata: dict[str, Any]


def export(name: str, out: str | Path | None = None, *, format: str = "onnx", weights: str | None = None) -> Exported:
    """Write a model's network to ``out`` (by default ``MODEL.onnx`` or ``MODEL.pt2``).

    Raises ``OptionError`` for an unknown format, a model that can't be exported, with the reason, and a file that can't
    be written; ``MissingExtraError``, and what :func:`zoo.load` raises.
    """
    if format not in FORMATS:
        raise OptionError(f"there is no format {format!r}; {nearest(format, FORMATS)}")
    target = user_path(out or f"{name.rpartition(':')[2]}{FORMATS[format]}", OptionError)
    if target.is_dir():
        raise OptionError(f"--out {target} is a folder; name a file such as {target / f'{name}{FORMATS[format]}'}")
    if format == "onnx":
        require_onnx()
    model = inference.load(name, weights=weights, device="cpu")
    made = exportable(model)
    program = traced(made, model.plugin.name)
    metadata = describe(model, made)
    write, check = (write_onnx, run_onnx) if format == "onnx" else (write_program, run_program)
    try:
        with replacing(target) as draft:
            write(program, made, metadata, draft)
            difference = _difference(made, check(draft, made.inputs), name)
    except OSError as error:
        raise OptionError(f"can't write {target}: {error.strerror or error}; choose another file with --out") from error
    return Exported(target, format, difference, metadata)


def describe(model: Model, made: Exportable) -> dict[str, Any]:
    """The metadata: whose network it is, what goes in and comes out, and what to do before and after."""
    card, from_ = model.plugin, model.provenance
    inputs = {
        name: {
            "shape": [_length(made.varying.get(name, {}).get(axis), size) for axis, size in enumerate(example.shape)],
            "type": str(example.dtype).removeprefix("torch."),
            **({"meaning": made.meanings[name]} if name in made.meanings else {}),
        }
        for name, example in made.inputs.items()
    }
    return {
        "made_by": f"{DISTRIBUTION} {__version__}",
        "model": card.name,
        "title": card.title,
        "task": card.task,
        "labels": list(getattr(model.config, "labels", ()) or card.labels),
        "weights": from_.weights,
        "revision": from_.revision,
        "trained_on": from_.trained_on,
        "disclaimer": from_.disclaimer,
        "inputs": inputs,
        "outputs": dict(made.outputs),
        "preprocessing": list(made.preprocessing),
        "temperature": model.temperature,
        "postprocessing": [*_tempered(model.temperature), *made.postprocessing],
        "facts": dict(made.facts),
    }


def _tempered(temperature: float | None) -> list[str]:
    if temperature is None:
        return []
    return [
        f"logits, or the logarithms of probabilities, are divided by {temperature:g} before they become probabilities"
    ]


def _length(dim: Any, size: int) -> int | str:
    if dim is None:
        return size
    return dim if isinstance(dim, str) else str(dim.__name__)


def _difference(made: Exportable, found: Sequence[np.ndarray], name: str) -> float:
    """The largest, of numbers beyond 1 as a share of them. Raises ``OptionError`` where it's too large."""
    with torch.no_grad():
        expected = Positional(made.network.eval())(*made.inputs.values())
    if len(found) != len(expected) or len(found) != len(made.outputs):
        outputs = listed(list(made.outputs))
        raise PluginError(f"export.py of {name} names the outputs {outputs}, but its network gives {len(expected)}")
    largest = 0.0
    for one, own in zip(found, expected, strict=True):
        reference = own.double().numpy()
        apart = np.abs(one.astype(np.float64) - reference) / np.maximum(np.abs(reference), 1)
        largest = max(largest, float(np.nanmax(apart, initial=0.0)) if one.shape == reference.shape else np.inf)
    if not largest <= TOLERANCE:
        raise OptionError(
            f"{name} can't be exported: the file's outputs differ from the network's by {largest:.2g}, "
            f"more than {TOLERANCE:g}; nothing was written"
        )
    _log.info("%s: the file's outputs differ from the network's by %.2g", name, largest)
    return largest
