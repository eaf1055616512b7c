"""From a network to a graph of PyTorch's own operators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from keyword import iskeyword
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from zoo import ops
from zoo.errors import OptionError, ZooError
from zoo.export.form import Exportable
from zoo.media import files
from zoo.text import printable


def traced(made: Exportable, name: str) -> torch.export.ExportedProgram:
    """The network as a graph of PyTorch's own operators: ours are replaced by their references.

    Raises ``OptionError`` where that can't be done.
    """
    dims: dict[str, Any] = {}  # the same name is the same length

    def dim(given: Any) -> Any:
        return dims.setdefault(given, torch.export.Dim(given)) if isinstance(given, str) else given

    shapes = tuple({axis: dim(d) for axis, d in made.varying.get(one, {}).items()} for one in made.inputs)
    network = Positional(made.network.eval())
    try:
        with torch.no_grad():
            network(*made.inputs.values())  # what is loaded on first use is there
    except ZooError:
        raise
    except Exception as error:
        reason = printable(str(error).strip().partition("\n")[0] or type(error).__name__, 200)
        raise OptionError(f"{name} can't be exported: these weights have no such network ({reason})") from error
    try:
        with torch.no_grad(), ops.by_reference(), quiet(), _flags(network):
            paths = [path for path, _ in (*network.named_parameters(), *network.named_buffers())]
            named = any(iskeyword(part) for path in paths for part in path.split("."))  # no name in a graph's code
            graph = _Flat(network) if named else network
            return torch.export.export(graph, tuple(made.inputs.values()), dynamic_shapes=(shapes,), strict=False)
    except Exception as error:  # whatever its graph can't hold
        reason = printable(str(error).strip().partition("\n")[0], 200)
        raise OptionError(f"{name} can't be exported: torch.export refuses its network ({reason})") from error


class Positional(nn.Module):
    """A network whose outputs are a flat tuple, whatever it gives."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(one for one in pytree.tree_leaves(self.network(*inputs)) if one is not None)


class _Flat(nn.Module):
    """A network whose tensors have one name each, without dots: parts called as words of Python would spoil a graph."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.held = [network]  # no part of this one
        self.paths: dict[str, str] = {}
        for path, tensor in network.named_parameters():
            self.register_parameter(self._name(path), cast(nn.Parameter, tensor))
        for path, buffer in network.named_buffers():
            self.register_buffer(self._name(path), buffer)

    def _name(self, path: str) -> str:
        name = f"tensor_{path.replace('.', '_')}"
        self.paths[path] = name
        return name

    def forward(self, *inputs: Tensor) -> Any:
        tensors = {path: getattr(self, name) for path, name in self.paths.items()}
        return torch.func.functional_call(self.held[0], tensors, inputs)


@contextmanager
def _flags(network: nn.Module) -> Iterator[None]:
    """Buffers that hold yes or no as such: a graph is of one of the two."""
    found = [(part, name, flag) for part in network.modules() for name, flag in part.named_buffers(recurse=False)
             if flag.dtype == torch.bool and flag.dim() == 0]  # fmt: skip
    for part, name, flag in found:
        del part._buffers[name]
        setattr(part, name, bool(flag))
    try:
        yield
    finally:
        for part, name, flag in found:
            delattr(part, name)
            part.register_buffer(name, flag)


def quiet() -> AbstractContextManager[None]:
    """The exporters tell of their steps and doubts at length; what counts is the comparison afterwards."""
    return files.quiet("torch.onnx", "torch.export", "torch._export", "onnxscript")
