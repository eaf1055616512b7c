"""What travels in a federation, as a paper sees it: ``Update`` up, ``State`` on the server, ``Context`` at a client.

A model here is a dict of tensors by name. ``network`` is the one that ``Federation.model`` makes; a paper may send more
beside it: a teacher, architecture parameters, images, features. What travels and what is kept lies on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import DataError

Tensors = dict[str, Tensor]


class Update:
    """What a client answers: models by name, the number of cases behind them, and numbers for the tables.

    Of a model that the server sent, names and shapes must be the server's; others are the paper's own business. The
    server fills in ``client`` and ``weight``, how much the client counts by ``Federation.weights``.
    """

    client: int = -1
    weight: float = math.nan

    def __init__(
        self, models: Mapping[str, nn.Module | Mapping[str, Any]] | None = None, *, num_examples: int, **numbers: float
    ) -> None:
        self.models = {name: tensors_of(model) for name, model in (models or {}).items()}
        self.num_examples = int(num_examples)
        self.numbers = {name: value if isinstance(value, int) else float(value) for name, value in numbers.items()}


@dataclass(frozen=True)
class State:
    """What the server has: ``models``, which go to every client, and ``own``, which stays here.

    ``own`` is a nest of numbers, text, tensors, lists and dicts: momentum, sums over rounds, a learned data set. Both
    are in the checkpoints. ``round`` counts from 1; ``exchange`` is the one of ``Federation.exchanges`` that has just
    been answered, and ``failed`` the clients that gave no usable answer to it. ``addressed``: what goes to one client
    alone, by its number, with the next exchange of this round, such as the gradients of its features.
    """

    models: dict[str, Tensors]
    own: dict[str, Any] = field(default_factory=dict)
    round: int = 0
    exchange: str = ""
    failed: tuple[int, ...] = ()
    addressed: Mapping[int, dict[str, Tensors]] = field(default_factory=dict)

    @property
    def network(self) -> Tensors:
        return self.models["network"]

    def updated(self, own: Mapping[str, Any] | None = None, **models: Mapping[str, Tensor]) -> State:
        """With some models replaced or new, and some of its own as well."""
        changed = {name: dict(model) for name, model in models.items()}
        return replace(self, models={**self.models, **changed}, own={**self.own, **(own or {})})


@dataclass
class Context:
    """Who a client is, what it got, and what it keeps.

    ``kept`` is this client's own from round to round, on every engine and after a kill: a nest of numbers, text,
    tensors, lists and dicts. ``received``: every model that the server sent, on this client's device.
    """

    client: int
    round: int
    exchange: str
    device: torch.device
    received: dict[str, Tensors]
    kept: dict[str, Any]


def average(updates: Sequence[Update], state: State) -> State:
    """FedAvg: every model of the server's that the clients return becomes their mean, by their weights.

    Raises ``DataError`` for a model that some of them return and others don't.
    """
    there = [name for name in state.models if any(name in update.models for update in updates)]
    for name in there:
        if lacking := [update.client for update in updates if name not in update.models]:
            raise DataError(f"client {lacking[0]} returns no {name}, and other clients do")
    weights = [update.weight for update in updates]
    return state.updated(**{name: weighted_mean([u.models[name] for u in updates], weights) for name in there})


@dataclass(frozen=True)
class Best:
    """``aggregate``, and a copy of the network of the best round so far, the first of equal ones.

    ``score``: of a state, more is better, NaN is worst. The copy is in the state's own ``best``, with the ``score`` and
    the ``round``.
    """

    aggregate: Callable[[Sequence[Update], State], State]
    score: Callable[[State], float]

    def __call__(self, updates: Sequence[Update], state: State) -> State:
        after = self.aggregate(updates, state)
        score, best = self.score(after), after.own.get("best")
        if best is not None and not score > best["score"]:
            return after
        score = score if score == score else -math.inf
        return after.updated({"best": {"score": score, "round": after.round, "network": dict(after.network)}})


def weighted_mean(models: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> Tensors:
    """The mean of models in the number types of the first: that of step counters is a whole number."""
    total = sum(weights)
    return {name: _mean([model[name] for model in models], [w / total for w in weights]) for name in models[0]}


def _mean(tensors: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    whole = not (tensors[0].is_floating_point() or tensors[0].is_complex())
    wide = torch.float64 if whole else tensors[0].dtype
    mean = tensors[0].to(wide) * shares[0]
    for tensor, share in zip(tensors[1:], shares[1:], strict=True):
        mean = mean + tensor.to(wide) * share
    return (mean.round() if whole else mean).to(tensors[0].dtype)


def tensors_of(model: nn.Module | Mapping[str, Any]) -> Tensors:
    """Tensors by name, on the CPU and without gradient."""
    named = model.state_dict() if isinstance(model, nn.Module) else model
    return {name: torch.as_tensor(value).detach().cpu() for name, value in named.items()}
