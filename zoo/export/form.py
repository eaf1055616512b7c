"""What a plugin says of its network: ``export.json`` or ``export.py`` beside its model, see ``zoo.export``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import OptionError, PluginError
from zoo.model import Model
from zoo.text import listed

FORM = "export.json"
BATCH, MULTIPLES = 2, 4
"""Lengths of varying axes in the example."""


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


def exportable(model: Model) -> Exportable:
    """What the plugin says. Raises ``OptionError`` with the reason where a model can't be exported."""
    name, home = model.plugin.name, model.plugin.model.partition(":")[0].rpartition(".")[0]
    spec = _spec_of(f"{home}.export") if home else None
    if spec is not None:
        made: Exportable = import_module(spec.name).exportable(model)
        return made
    folder = _spec_of(model.plugin.model.partition(":")[0])
    path = Path(folder.origin).with_name(FORM) if folder and folder.origin else Path(FORM)
    if not path.is_file():
        raise OptionError(f"{name} can't be exported: its plugin has no {FORM}, which says what its network takes")
    form = _filled(json.loads(path.read_text(encoding="utf-8")), model)
    if "not" in form:
        raise OptionError(f"{name} can't be exported: {form['not']}")
    wanted = {item.name for item in fields(Exportable)}
    if wrong := [key for key in form if key not in wanted]:
        raise PluginError(f"{path} says {wrong[0]!r}, which is none of {listed(sorted(wanted))}")
    shapes = {one: [_axis(length) for length in _flat(shape)] for one, shape in form["inputs"].items()}
    generator = torch.Generator().manual_seed(0)
    sizes = {one: [BATCH if isinstance(size, str) else size for size, _ in shape] for one, shape in shapes.items()}
    return Exportable(
        **{
            **form,
            "network": _part(model, form["network"]),
            "inputs": {one: torch.rand(size, generator=generator) for one, size in sizes.items()},
            "varying": {one: {i: dim for i, (_, dim) in enumerate(shape) if dim} for one, shape in shapes.items()},
        }
    )


def _spec_of(module: str) -> ModuleSpec | None:
    try:
        return find_spec(module)
    except ImportError:
        return None


def _filled(value: Any, model: Model) -> Any:
    """A form with ``{name}`` replaced by what the configuration, or else the model, has under this name.

    A text that is nothing else becomes the value itself.
    """
    if isinstance(value, dict):
        return {key: _filled(item, model) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, model) for item in value]
    if not isinstance(value, str):
        return value

    def found(path: str) -> Any:
        owner = model.config if hasattr(model.config, path.partition(".")[0]) else model
        return attrgetter(path)(owner)

    if whole := re.fullmatch(r"\{([\w.]+)\}", value):
        return found(whole[1])
    return re.sub(r"\{([\w.]+)\}", lambda match: str(found(match[1])), value)


def _flat(shape: Iterable[Any]) -> Iterator[int | str]:
    """A shape in which a field of the configuration may stand for several axes."""
    for length in shape:
        yield from _flat(length) if isinstance(length, list | tuple) else [length]


def _axis(length: int | str) -> tuple[int | str, Any]:
    """The length of the example, and what varies: ``"batch"`` is any length, ``"rows*16"`` any multiple of 16."""
    if isinstance(length, int):
        return length, None
    name, _, step = length.partition("*")
    return (MULTIPLES * int(step), int(step) * torch.export.Dim(name, min=1)) if step else (name, name)


def _part(model: Model, path: str) -> nn.Module:
    """The model, a module or a method of it."""
    found = attrgetter(path)(model) if path else model
    return found if isinstance(found, nn.Module) and found is not model else _Method(model, found)


class _Method(nn.Module):
    """A call of a model as a module, with the frozen SAM that it stands on, which is no part of its weights."""

    def __init__(self, model: Model, call: Callable[..., Any]) -> None:
        super().__init__()
        self.model, self.call = model, call
        self.base = getattr(getattr(model, "base", None), "sam", None)

    def forward(self, *inputs: Tensor) -> Any:
        return self.call(*inputs)
