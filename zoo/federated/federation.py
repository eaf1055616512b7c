"""What a paper hands over to be federated, and what comes back."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from zoo.data.sets import Dataset
from zoo.data.splits import TrainData
from zoo.errors import DataError, OptionError
from zoo.federated.exchange import Context, State, Tensors, Update, average, tensors_of
from zoo.federated.history import History, HistoryPolicy
from zoo.seeds import derive_seed, seed_everything

Weights = str | Callable[[list[dict[str, float]]], Sequence[float]]
Client = Callable[[Any, Any, np.random.Generator, Context], Update]
Aggregate = Callable[[Sequence[Update], State], State]
Build = Callable[[Any, "TrainData", int], "Federation"]


@dataclass(frozen=True)
class Federation:
    """One federated training: the network, what a client does, what the server makes of it, who holds which cases.

    A function ``(recipe, data, seed) -> Federation`` builds it anew in every process (server, simulation worker,
    node), so it must give the same in all of them: whatever it draws comes from ``seed``.

    ``model``: makes the network. ``client``: ``(network, data, rng, context) -> Update``, with the server's weights in
    the network. ``data``: what client i works on. ``partitions``: for each client, its indices into ``data.train``.
    ``aggregate``: ``(updates, state) -> state``, after each exchange, from the usable updates in the order of the
    clients. ``start``: the models before round 1, where that isn't a new ``model()`` alone. ``exchanges``: their names;
    in every round each client is asked once for each. ``sends``: the names of the server's models that go out with an
    exchange; by default all do, every time. ``weights``: how much a client counts in ``train``, ``samples``,
    ``uniform``, ``metric:NAME`` (a number that the clients report) or a function from the clients' numbers to their
    weights; elsewhere, and with ``None``, by cases. ``evaluate``: numbers on the state after each round, or after every
    ``evaluate_every``-th and the last of the rounds that are made. A round goes on while at least ``min_clients`` of
    the clients return usable updates within ``timeout`` seconds. ``target``: what every training case needs, ``label``
    or ``mask``. ``refuse``: of an update that is well formed, why it's of no use all the same, such as a data set of
    unknown classes; an empty text takes it.

    What follows is for ``zoo unlearn``. ``names``: what the clients are called. ``held_out``: for each client, its
    indices into ``data.test``. ``objective``: ``(network, data, rng) -> (loss, score)`` of a batch of a client's data,
    which is lower for a better network, and a score in [0, 1], which is higher; schemes that climb it need it.
    ``distil``: ``(student, teacher, rng, leaving, temperature) -> loss`` of a batch of unlabelled data that the server
    has itself and that came from none of the clients ``leaving``; how far the two networks' answers are apart.
    ``aside``: for each client, its indices into ``data.train`` that the server has for this and that nobody trains on.
    ``learned``: the score that the whole model must reach on everybody's data before anything is compared.
    ``remaining`` and ``before``: of a training without some clients, which numbers the others had, and how many rounds
    it goes on from.
    """

    model: Callable[[], nn.Module]
    client: Client
    data: Callable[[int], Any]
    partitions: Sequence[Sequence[int] | np.ndarray]
    rounds: int
    aggregate: Aggregate = average
    start: Callable[[], Mapping[str, nn.Module | Mapping[str, Any]]] | None = None
    exchanges: Sequence[str] = ("train",)
    sends: Callable[[str], Collection[str]] | None = None
    weights: Weights | None = "samples"
    evaluate: Callable[[State], Mapping[str, float] | None] | None = None
    evaluate_every: int = 1
    min_clients: int = 2
    timeout: float = 3600.0
    target: str | None = None
    history: HistoryPolicy | None = None
    refuse: Callable[[Update], str] | None = None
    names: Sequence[str] = ()
    held_out: Sequence[Sequence[int] | np.ndarray] = ()
    objective: Callable[[Any, Any, np.random.Generator], tuple[Tensor, float]] | None = None
    distil: Callable[[Any, Any, np.random.Generator, Sequence[int], float], Tensor] | None = None
    aside: Sequence[Sequence[int] | np.ndarray] = ()
    learned: float = 0.0
    remaining: Sequence[int] = ()
    before: int = 0

    @property
    def numbers(self) -> Sequence[int]:
        return self.remaining or range(self.clients)

    @property
    def clients(self) -> int:
        return len(self.partitions)


@dataclass(frozen=True)
class Outcome:
    """The end of a federated training.

    ``state``: the server's. ``rows``: one row of global numbers per round. ``clients``: one row per client and exchange
    (``round``, ``client``, ``phase``, ``status``, ``weight`` and the client's numbers). ``ledger``: bytes ``down`` to
    and ``up`` from each client in each exchange. ``history``: what the server kept, if it was asked to.
    """

    state: State
    rows: list[dict[str, float]]
    clients: list[dict[str, Any]] = field(default_factory=list)
    ledger: list[dict[str, Any]] = field(default_factory=list)
    history: History | None = None

    def state_dict(self) -> Tensors:
        """The global weights for ``Module.load_state_dict``: of the best round where one was kept, else of the last."""
        return self.state.own["best"]["network"] if "best" in self.state.own else self.state.network


def construct(build: Build, recipe: Any, data: TrainData, seed: int) -> Federation:
    """The same federation in every process, whatever random numbers were drawn there before."""
    seed_everything(derive_seed(seed, "federation"))
    return build(recipe, data, seed)


def initial_models(federation: Federation, seed: int, stage: str) -> dict[str, Tensors]:
    """What the server has before round 1."""
    seed_everything(derive_seed(seed, "model", stage))
    models = federation.start() if federation.start is not None else {"network": federation.model()}
    return {name: tensors_of(model) for name, model in models.items()}


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
        name = "num_examples" if rule == "samples" else rule.removeprefix("metric:")
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


def holdings(
    labels: Sequence[Any] | np.ndarray, partitions: Sequence[Sequence[int] | np.ndarray]
) -> list[Counter[Any]]:
    """How many cases of each label each client holds."""
    return [Counter(labels[int(place)] for place in places) for places in partitions]
