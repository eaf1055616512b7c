"""``zoo export``: a model's network as a file that runs without the zoo, in ONNX or as a program of ``torch.export``.

A plugin says in its ``export.py``, beside its model, what of it is a network and what comes before and after:

    def exportable(model: MyModel) -> Exportable: ...

What stands there enters the file as metadata, for a network alone is no model: who runs it prepares images as it says.
The file is run once against the network before it's kept, and is refused where they differ.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from zoo import inference, ops
from zoo._version import __version__
from zoo.errors import MissingExtraError, OptionError, PluginError
from zoo.extras import DISTRIBUTION
from zoo.model import Model
from zoo.storage import replacing, user_path
from zoo.text import listed, nearest, printable

Format = Literal["onnx", "torch-export"]
FORMATS: dict[str, str] = {"onnx": ".onnx", "torch-export": ".pt2"}
TOLERANCE = 1e-4
"""How far the file's outputs may be from the network's, of numbers up to 1; of larger ones, of their size."""

KEY = "zoo"
"""Under which the metadata stand: in ONNX's ``metadata_props``; of a program, the extra file ``zoo.json``."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exportable:
    """A network from tensors to tensors, and how it's used."""

    network: nn.Module  # in eval mode; takes the inputs in their order, gives a tensor or a tuple of them
    inputs: Mapping[str, Tensor]  # an example of each
    outputs: Mapping[str, str]  # what each is
    preprocessing: Sequence[str]  # steps from a file of the card's kind to the inputs, in sentences
    postprocessing: Sequence[str] = ()  # from the outputs to the answer of zoo predict
    meanings: Mapping[str, str] = field(default_factory=dict)  # of inputs, where the steps don't say it
    varying: Mapping[str, Mapping[int, Any]] = field(default_factory=dict)
    """Axes of any length, by input: a name, or a ``torch.export.Dim`` for multiples."""
    facts: Mapping[str, Any] = field(default_factory=dict)  # numbers that a program needs, such as mean and deviation


@dataclass(frozen=True)
class Exported:
    """A file that was written."""

    path: Path
    format: str
    difference: float  # largest, between its outputs and the network's
    metadata: dict[str, Any]


def export(
    name: str, out: str | Path | None = None, *, format: Format = "onnx", weights: str | None = None
) -> Exported:
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
        _require_onnx()
    model = inference.load(name, weights=weights, device="cpu")
    made = exportable(model)
    program = traced(made, model.plugin.name)
    metadata = describe(model, made)
    write, check = (_write_onnx, run_onnx) if format == "onnx" else (_write_program, run_program)
    try:
        with replacing(target) as draft:
            write(program, made, metadata, draft)
            difference = _difference(made, check(draft, made.inputs), name)
    except OSError as error:
        raise OptionError(f"can't write {target}: {error.strerror or error}; choose another file with --out") from error
    return Exported(target, format, difference, metadata)


def exportable(model: Model) -> Exportable:
    """What the plugin's ``export.py`` says. Raises ``OptionError`` for a model that can't be exported, with the reason."""
    name, home = model.plugin.name, model.plugin.model.partition(":")[0].rpartition(".")[0]
    module = f"{home}.export"
    try:
        missing = not home or find_spec(module) is None
    except ImportError:
        missing = True
    if missing:
        raise OptionError(f"{name} can't be exported: its plugin has no export.py, which says what its network takes")
    function: Callable[[Model], Exportable] | None = getattr(import_module(module), "exportable", None)
    if function is None:
        raise PluginError(f"{module} has no function exportable; see zoo.export")
    return function(model)


def traced(made: Exportable, name: str) -> torch.export.ExportedProgram:
    """The network as a graph of PyTorch's own operators: ours are replaced by their references.

    Raises ``OptionError`` where that can't be done.
    """
    varying = tuple(
        {
            axis: torch.export.Dim(dim) if isinstance(dim, str) else dim
            for axis, dim in made.varying.get(one, {}).items()
        }
        for one in made.inputs
    )
    # the same name is the same length
    known: dict[str, Any] = {}
    shapes = tuple({axis: known.setdefault(str(dim.__name__), dim) for axis, dim in one.items()} for one in varying)
    network = _Positional(made.network.eval())
    try:
        with torch.no_grad(), ops.by_reference(), _quiet():
            return torch.export.export(network, tuple(made.inputs.values()), dynamic_shapes=(shapes,), strict=False)
    except Exception as error:  # whatever its graph can't hold
        reason = printable(str(error).strip().partition("\n")[0], 200)
        raise OptionError(f"{name} can't be exported: torch.export refuses its network ({reason})") from error


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
        "postprocessing": list(made.postprocessing),
        "facts": dict(made.facts),
    }


def _length(dim: Any, size: int) -> int | str:
    if dim is None:
        return size
    return dim if isinstance(dim, str) else str(dim.__name__)


class _Positional(nn.Module):
    """A network whose outputs are a flat tuple."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        found = self.network(*inputs)
        return (found,) if isinstance(found, Tensor) else tuple(found)


# ---- the two formats ----------------------------------------------------------------------------------------------


def _require_onnx() -> None:
    for library in ("onnx", "onnxscript", "onnxruntime"):
        try:
            import_module(library)
        except ImportError:
            raise MissingExtraError("zoo export --format onnx", library, "export") from None


def _write_onnx(
    program: torch.export.ExportedProgram, made: Exportable, metadata: Mapping[str, Any], path: Path
) -> None:
    import onnx

    try:
        with _quiet():
            written = torch.onnx.export(
                program, input_names=list(made.inputs), output_names=list(made.outputs), dynamo=True, verbose=False
            )
    except Exception as error:
        model, reason = metadata["model"], printable(str(error).strip().partition("\n")[0], 200)
        raise OptionError(f"{model} can't be exported to ONNX: {reason}; try --format torch-export") from error
    assert written is not None
    proto = written.model_proto
    onnx.helper.set_model_props(proto, {KEY: json.dumps(metadata)})
    proto.producer_name, proto.producer_version, proto.doc_string = DISTRIBUTION, __version__, metadata["disclaimer"]
    onnx.save(proto, path)


def _write_program(
    program: torch.export.ExportedProgram, made: Exportable, metadata: Mapping[str, Any], path: Path
) -> None:
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files={f"{KEY}.json": json.dumps(metadata)})


def run_onnx(path: Path, inputs: Mapping[str, Tensor]) -> list[np.ndarray]:
    """The outputs of a file for these inputs, by onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    wanted = {one.name for one in session.get_inputs()}  # an input that changes nothing may be gone
    return session.run(None, {name: value.numpy() for name, value in inputs.items() if name in wanted})


def run_program(path: Path, inputs: Mapping[str, Tensor]) -> list[np.ndarray]:
    """The outputs of a program for these inputs."""
    with path.open("rb") as file:
        program = torch.export.load(file)
    with torch.no_grad():
        return [one.numpy() for one in program.module()(*inputs.values())]


def _difference(made: Exportable, found: Sequence[np.ndarray], name: str) -> float:
    """The largest, of numbers beyond 1 as a share of them. Raises ``OptionError`` where it's too large."""
    with torch.no_grad():
        expected = _Positional(made.network.eval())(*made.inputs.values())
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


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters tell of their steps and doubts at length; what counts is the comparison afterwards."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "torch._export", "onnxscript")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)
