"""The two formats: writing a file with its metadata, and running it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo._version import __version__
from zoo.errors import MissingExtraError, OptionError
from zoo.export.form import Exportable
from zoo.export.graph import quiet
from zoo.extras import DISTRIBUTION
from zoo.text import printable

KEY = "zoo"
"""Under which the metadata stand: in ONNX's ``metadata_props``; of a program, the extra file ``zoo.json``."""


def require_onnx() -> None:
    for library in ("onnx", "onnxscript", "onnxruntime"):
        try:
            import_module(library)
        except ImportError:
            raise MissingExtraError("zoo export --format onnx", library, "export") from None


def write_onnx(
    program: torch.export.ExportedProgram, made: Exportable, metadata: Mapping[str, Any], path: Path
) -> None:
    import onnx

    try:
        with quiet():
            plain = program.run_decompositions(
                {
                    torch.ops.aten.adaptive_max_pool2d.default: _adaptive_max_pool2d,
                    torch.ops.aten.sort.stable: _stable_sort,
                    torch.ops.aten.where.self: _where,
                }
            )
            written = torch.onnx.export(
                plain, input_names=list(made.inputs), output_names=list(made.outputs), dynamo=True, verbose=False
            )
    except Exception as failed:
        error: BaseException = failed
        while error.__cause__ is not None:  # the step that failed hides what failed in it
            error = error.__cause__
        model, reason = metadata["model"], printable(str(error).strip().partition("\n")[0], 200)
        raise OptionError(f"{model} can't be exported to ONNX: {reason}; try --format torch-export") from failed
    assert written is not None
    proto = written.model_proto
    onnx.helper.set_model_props(proto, {KEY: json.dumps(metadata)})
    proto.producer_name, proto.producer_version, proto.doc_string = DISTRIBUTION, __version__, metadata["disclaimer"]
    onnx.save(proto, path)


def run_onnx(path: Path, inputs: Mapping[str, Tensor]) -> list[np.ndarray]:
    """The outputs of a file for these inputs, by onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    wanted = {one.name for one in session.get_inputs()}  # an input that changes nothing may be gone
    return session.run(None, {name: value.numpy() for name, value in inputs.items() if name in wanted})


def _adaptive_max_pool2d(x: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """By slices, for ONNX has no operator for it; the places of the maxima, which no network of ours reads, are 0."""
    for axis, count in zip((-2, -1), size, strict=True):
        n = x.shape[axis]
        bounds = [(i * n // count, -(-(i + 1) * n // count)) for i in range(count)]
        x = torch.stack([x.narrow(axis, first, last - first).amax(axis) for first, last in bounds], axis)
    return x, torch.zeros_like(x, dtype=torch.long)


def _stable_sort(
    x: Tensor, *, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> tuple[Tensor, Tensor]:
    """By the largest or smallest of all: ONNX says that of equals its TopK has the first one first."""
    found = torch.topk(x, x.shape[dim], dim, largest=descending, sorted=True)
    return found.values, found.indices


def _where(condition: Tensor, one: Tensor, other: Tensor) -> Any:
    """Of small kinds by way of a larger one, for runtimes choose among floats and long integers alone."""
    if one.dtype == other.dtype and one.dtype in (torch.bool, torch.int8, torch.int16):
        return torch.where(condition, one.int(), other.int()).to(one.dtype)
    return NotImplemented


def write_program(
    program: torch.export.ExportedProgram, made: Exportable, metadata: Mapping[str, Any], path: Path
) -> None:
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files={f"{KEY}.json": json.dumps(metadata)})


def run_program(path: Path, inputs: Mapping[str, Tensor]) -> list[np.ndarray]:
    """The outputs of a program for these inputs."""
    with path.open("rb") as file:
        program = torch.export.load(file)
    with torch.no_grad():
        return [one.numpy() for one in program.module()(*inputs.values())]
