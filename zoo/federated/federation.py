"""What a paper hands over to be federated, and what comes back."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.errors import DataError, OptionError

if TYPE_CHECKING:
    from flwr.app import ArrayRecord
    from flwr.clientapp import ClientApp
    from flwr.serverapp.strategy import Strategy
    from torch import Tensor, nn

    from zoo.data.sets import Dataset
    from zoo.federated.history import History, HistoryPolicy

Weights = str | Callable[[list[dict[str, float]]], Sequence[float]]


@dataclass(frozen=True)
class Federation:
    """One federated training: the network, the server's strategy, the clients' app and who holds which cases.

    A function ``(recipe, data, seed) -> Federation`` builds it anew in every process (server, simulation worker,
    node), so it must give the same in all of them: whatever it draws comes from ``seed``.

    ``model``: makes the network whose weights start round 1. ``partitions``: for each client, its indices into
    ``data.train``. ``weights``: how much a client counts, ``samples``, ``uniform``, ``metric:NAME`` (a number that the
    clients report) or a function from the clients' numbers to their weights. ``evaluate``: numbers on the global
    model after each round, ``(round, arrays) -> {name: value}``. A round goes on while at least ``min_clients`` of the
    clients it asked return usable weights within ``timeout`` seconds. ``target``: what every training case needs,
    ``label`` or ``mask``. ``same_shapes``: the clients return what the server sent, name by name.
    """

    model: Callable[[], nn.Module]
    strategy: Strategy
    client: ClientApp
    partitions: Sequence[Sequence[int] | np.ndarray]
    rounds: int
    weights: Weights = "samples"
    evaluate: Callable[[int, ArrayRecord], Mapping[str, float] | None] | None = None
    min_clients: int = 2
    timeout: float = 3600.0
    target: str | None = None
    same_shapes: bool = True
    history: HistoryPolicy | None = None

    @property
    def clients(self) -> int:
        return len(self.partitions)


@dataclass(frozen=True)
class Outcome:
    """The end of a federated training.

    ``arrays``: the global weights. ``rows``: one row of global numbers per round. ``clients``: one row per client
    and exchange (``round``, ``client``, ``phase``, ``status``, ``weight`` and the client's numbers). ``ledger``: bytes
    ``down`` to and ``up`` from each client in each exchange. ``history``: what the server kept, if it was asked to.
    """

    arrays: ArrayRecord
    rows: list[dict[str, float]]
    clients: list[dict[str, Any]] = field(default_factory=list)
    ledger: list[dict[str, Any]] = field(default_factory=list)
    history: History | None = None

    def state_dict(self) -> dict[str, Tensor]:
        """The global weights for ``Module.load_state_dict``."""
        return self.arrays.to_torch_state_dict()


def check(federation: Federation, cases: Dataset) -> None:
    """Refuse a federation that can't be trained. Raises ``OptionError`` or ``DataError``."""
    clients = federation.clients
    if clients < 2:
        raise OptionError(f"a federation needs at least two clients, not {clients}; set clients=2 or more")
    if federation.rounds < 1:
        raise OptionError(f"a federation needs at least one round, not {federation.rounds}")
    for client, places in enumerate(federation.partitions):
        if len(places) == 0:
            raise DataError(f"client {client} of {clients} has no training case; use fewer clients or another split")
    if not 1 <= federation.min_clients <= clients:
        raise OptionError(f"min_clients must lie between 1 and the {clients} clients, not {federation.min_clients}")
    for name in ("min_train_nodes", "min_evaluate_nodes", "min_available_nodes"):
        if (wanted := getattr(federation.strategy, name, 0)) > clients:
            raise OptionError(f"the strategy waits for {name}={wanted} clients, and there are only {clients}")
    if federation.target is not None:
        for client, places in enumerate(federation.partitions):
            _check_targets(cases, client, places, federation.target)


def _check_targets(cases: Dataset, client: int, places: Sequence[int] | np.ndarray, target: str) -> None:
    for place in places:
        case = cases[int(place)]
        if (case.label is None) if target == "label" else (target not in case.masks):
            raise DataError(f"case {case.id} of client {client} has no {target}; every client trains on labelled cases")


def weigh(rule: Weights, clients: Sequence[int], metrics: list[dict[str, float]]) -> list[float]:
    """The aggregation weights of the clients whose numbers are ``metrics``. Raises ``OptionError``, ``DataError``."""
    if callable(rule):
        values = [float(value) for value in rule(metrics)]
        if len(values) != len(metrics):
            raise DataError(f"the weight rule gave {len(values)} weights for {len(metrics)} clients")
    elif rule == "uniform":
        values = [1.0] * len(metrics)
    elif rule == "samples" or rule.startswith("metric:"):
        name = "num-examples" if rule == "samples" else rule.removeprefix("metric:")
        for client, numbers in zip(clients, metrics, strict=True):
            if name not in numbers:
                raise DataError(f"client {client} reports no {name!r}, by which the clients are weighted")
        values = [float(numbers[name]) for numbers in metrics]
    else:
        raise OptionError(f"weights must be samples, uniform or metric:NAME, not {rule!r}")
    for client, value in zip(clients, values, strict=True):
        if not (math.isfinite(value) and value >= 0):
            raise DataError(f"client {client} has the aggregation weight {value}; weights are numbers of at least 0")
    if sum(values) == 0:
        raise DataError("all clients have the aggregation weight 0, so their models can't be averaged")
    return values


def check_shapes(sent: Mapping[str, tuple[int, ...]], replies: Mapping[int, Mapping[str, tuple[int, ...]]]) -> None:
    """Refuse clients whose arrays differ from the server's in names or shapes. Raises ``DataError``."""
    for client, got in replies.items():
        for name in [*sent, *(name for name in got if name not in sent)]:
            here, there = sent.get(name), got.get(name)
            if here != there:
                what = f"lacks {name}" if there is None else f"has a {name} that the server doesn't know"
                if here is not None and there is not None:
                    what = f"has {name} of shape {there} where the server's is {here}"
                raise DataError(f"client {client} trains another architecture: it {what}")


def holdings(labels: Sequence[Any], partitions: Sequence[Sequence[int] | np.ndarray]) -> list[Counter[Any]]:
    """How many cases of each label each client holds."""
    return [Counter(labels[int(place)] for place in places) for places in partitions]
