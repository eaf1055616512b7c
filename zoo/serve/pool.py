"""The models of a server: each is loaded once, and the least recently used goes when memory is short."""

from __future__ import annotations

import gc
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from zoo import inference
from zoo.model import Model
from zoo.serve.settings import Settings, served

LOOK_AGAIN = 16  # uses after which a model is weighed anew: caches and frozen parts come with use


@dataclass
class Held:
    """A model that is loaded."""

    model: Model
    size: int  # bytes
    uses: int = 0


class Pool:
    """For one thread. ``load``: what loads a model, :func:`zoo.load`."""

    def __init__(self, settings: Settings, load: Callable[..., Model] = inference.load) -> None:
        self.settings, self._load = settings, load
        self.limit = settings.memory_limit
        self._held: OrderedDict[str, Held] = OrderedDict()
        self.weights = {served(name, settings).name: spec for name, spec in settings.weights.items()}

    def __contains__(self, name: str) -> bool:
        return name in self._held

    @property
    def size(self) -> int:
        """Bytes of the tensors of all models that are loaded."""
        return sum(held.size for held in self._held.values())

    def get(self, name: str) -> Model:
        """The model called ``name``, loaded if it isn't. Raises as :func:`zoo.load` does."""
        entry = served(name, self.settings)
        key = f"{entry.distribution}:{entry.name}"
        if key not in self._held:
            model = self._load(key, weights=self.weights.get(entry.name), device=self.settings.device)
            self._held[key] = Held(model, size_of(model))
        self._held.move_to_end(key)
        self._make_room()
        return self._held[key].model

    def used(self, model: Model) -> None:
        """Weigh a model after a use, for it may have grown."""
        for held in self._held.values():
            if held.model is model:
                held.uses += 1
                if held.uses % LOOK_AGAIN == 1:
                    held.size = size_of(model)
        self._make_room()

    def _make_room(self) -> None:
        """Unload until all fits; the one used last stays, whatever its size."""
        gone = False
        while self.size > self.limit and len(self._held) > 1:
            self._held.popitem(last=False)
            gone = True
        if gone:
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def size_of(model: nn.Module) -> int:
    """Bytes of all tensors that a model holds: its own, those of frozen parts beside it, and those it has kept."""
    seen: set[int] = set()
    storages: dict[int, int] = {}
    todo: list[Any] = [model]
    while todo:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, torch.Tensor):
            if not one.is_meta:
                storage = one.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(one, dict):
            todo += one.values()
        elif isinstance(one, (list, tuple, set)):
            todo += one
        elif isinstance(one, nn.Module) or type(one).__module__.startswith("zoo."):
            todo.append(getattr(one, "__dict__", {}))
    return sum(storages.values())
