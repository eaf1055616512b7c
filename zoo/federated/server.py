"""The server's side: ask, leave out what failed, aggregate, keep accounts; round by round, with exact resume."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from zoo.errors import DataError
from zoo.federated import records
from zoo.federated.accounts import Table, live_table
from zoo.federated.contributions import Contributions, of_state
from zoo.federated.exchange import State, Tensors, Update
from zoo.federated.federation import Federation, Outcome, weigh
from zoo.federated.grid import Cohort, line
from zoo.federated.history import History
from zoo.seeds import derive_seed, seed_everything
from zoo.training import Run


def serve(
    federation: Federation,
    grid: Any,
    run: Run,
    stage: str,
    models: Mapping[str, Tensors],
    *,
    stop: threading.Event | None = None,
) -> Outcome:
    """Run the rounds that are left of a federation on ``grid``, from ``models``, with a checkpoint after each.

    Raises ``DataError`` when too few clients answer.
    """
    server = _Server(State({name: dict(tensors) for name, tensors in models.items()}))
    run.keep(server=server)
    folder = None if run.out is None else run.out / "metrics"
    history = None
    if federation.history is not None:
        history = History(federation.history, None if run.out is None else run.out / "history" / stage)
        if federation.history.schemes:
            server.contributions = history.continued(federation)
    clients, ledger = Table(folder, f"{stage}-clients"), Table(folder, f"{stage}-communication")
    cohort: Cohort | None = None
    before, run.checkpoint_every = run.checkpoint_every, 1  # clients go back one round at most
    try:
        for step in run.steps(federation.rounds, description=stage):
            if cohort is None:  # only now is the position known
                clients.truncate(step)
                ledger.truncate(step)
                cohort = Cohort(grid, federation.clients, federation.timeout, stop)
                if history is not None and step == 0 and not federation.before:
                    history.add(0, server.state.network, {}, federation.clients)
            seed_everything(derive_seed(run.seed, "server", step + 1))
            row = _round(federation, cohort, server, step + 1, clients, ledger, history)
            server.rows.append(row)
            run.log(**{name: value for name, value in row.items() if name != "round"})
            run.show(live_table(step + 1, federation.rounds, clients.latest, row))
    finally:
        run.checkpoint_every = before
        clients.close()
        ledger.close()
    if history is not None and server.contributions is not None:
        history.conclude(server.contributions, federation.before + federation.rounds, server.state.network)
    return Outcome(server.state, server.rows, clients.read(), ledger.read(), history)


def _round(
    federation: Federation,
    cohort: Cohort,
    server: _Server,
    number: int,
    clients: Table,
    ledger: Table,
    history: History | None,
) -> dict[str, float]:
    row: dict[str, float] = {"round": number}
    sizes: list[dict[str, Any]] = []
    client_rows: list[dict[str, Any]] = []
    returned: dict[int, Tensors] = {}
    begun, first = server.state.network, []
    for place, exchange in enumerate(federation.exchanges):
        names = None if federation.sends is None else federation.sends(exchange)
        question = records.question(server.state, exchange, names)
        answers, bytes_ = cohort.ask(question, f"{number}.{place}", server.state.addressed)
        checked = {
            client: _checked(content, client, server.state.models, federation.refuse)
            for client, content in answers.items()
        }
        _leave_out_others(federation, exchange, server.state.models, checked)
        updates = [update for update in checked.values() if isinstance(update, Update)]
        failed = {client: why for client, why in checked.items() if isinstance(why, str)}
        _require_enough(federation, number, updates, failed)
        shares = _weigh(federation, exchange, updates)
        for client, found in checked.items():
            client_rows.append(_client_row(client, exchange, found, shares))
        state = replace(server.state, round=number, exchange=exchange, failed=tuple(failed), addressed={})
        server.state = federation.aggregate(updates, state)
        if place == 0:
            first = updates
            row |= {"clients": len(updates), "failed": len(failed)}
            if history is not None and history.policy.clients:
                returned = {u.client: u.models["network"] for u in updates if "network" in u.models}
        row |= {f"{exchange}/{name}": value for name, value in _means(updates).items()}
        sizes += [{"client": e.pop("client"), "phase": exchange, **e} for e in bytes_]
    if number % federation.evaluate_every == 0 or number == federation.rounds:
        row |= evaluated(federation, server.state)
    if history is not None:
        history.add(federation.before + number, server.state.network, returned, federation.clients)
        if server.contributions is not None:
            server.contributions.add(begun, server.state.network, first, federation.numbers)
    clients.write(number, client_rows)
    ledger.write(number, sizes)
    for way in ("down", "up"):
        row[f"bytes-{way}"] = sum(entry[way] for entry in sizes)
    return row


def evaluated(federation: Federation, state: State) -> dict[str, float]:
    """The federation's numbers on a state, as the tables spell them."""
    scores = federation.evaluate(state) if federation.evaluate is not None else None
    return {f"global/{_hyphens(name)}": float(value) for name, value in (scores or {}).items()}


class _Server:
    """What a killed server needs to go on: its state and the rounds so far."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.rows: list[dict[str, float]] = []
        self.contributions: Contributions | None = None

    def state_dict(self) -> dict[str, Any]:
        kept = {} if self.contributions is None else {"contributions": self.contributions.state_dict()}
        return {"models": self.state.models, "own": self.state.own, "rows": self.rows, **kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rows = list(state["rows"])
        if "contributions" in state:
            self.contributions = of_state(state["contributions"])
        self.state = State(state["models"], state["own"], len(self.rows))


def _checked(
    content: Any, client: int, sent: Mapping[str, Tensors], refuse: Callable[[Update], str] | None = None
) -> Update | str:
    """The update, or why it's of no use."""
    if isinstance(content, str):
        return content
    try:
        update = records.update_of(content, client, sent)
    except Exception as error:  # whatever a stranger's bytes may cause, the others go on
        return line(str(error)) or type(error).__name__
    for model in update.models.values():
        for name, tensor in model.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                return f"NaN or infinity in {name}"
    return line(refuse(update)) or update if refuse is not None else update


def _leave_out_others(
    federation: Federation, exchange: str, sent: Mapping[str, Tensors], checked: dict[int, Update | str]
) -> None:
    """Whoever can't be aggregated with the others: other models than most return, or no usable weight."""
    usable = [update for update in checked.values() if isinstance(update, Update)]
    kinds = Counter(frozenset(update.models.keys() & sent.keys()) for update in usable)
    common = max(kinds, key=lambda kind: (kinds[kind], len(kind)), default=frozenset())
    rule = federation.weights if exchange == "train" else None
    metric = rule.removeprefix("metric:") if isinstance(rule, str) and rule.startswith("metric:") else None
    for update in usable:
        value = update.numbers.get(metric, 0.0) if metric not in (None, "num_examples") else 0.0
        if update.models.keys() & sent.keys() != common:
            checked[update.client] = "it returns other models than most clients"
        elif metric not in (None, "num_examples") and metric not in update.numbers:
            checked[update.client] = f"it reports no {metric!r}, by which the clients are weighted"
        elif not (math.isfinite(value) and value >= 0):
            checked[update.client] = f"it has the aggregation weight {value}; weights are numbers of at least 0"


def _require_enough(federation: Federation, number: int, updates: Sequence[Update], failed: Mapping[int, str]) -> None:
    if len(updates) >= federation.min_clients:
        return
    first, reason = next(iter(failed.items()))
    raise DataError(
        f"round {number}: {len(updates)} of {len(updates) + len(failed)} clients returned usable weights and "
        f"{federation.min_clients} are needed; client {first}: {reason}"
    )


def _weigh(federation: Federation, exchange: str, updates: Sequence[Update]) -> dict[int, float]:
    """Set each update's weight; the shares of the clients, where a rule for them is stated."""
    stated = exchange == "train" and federation.weights is not None
    rule = federation.weights if stated else "samples"
    assert rule is not None
    numbers = [{"num_examples": float(update.num_examples), **update.numbers} for update in updates]
    weights = weigh(rule, [update.client for update in updates], numbers)
    for update, weight in zip(updates, weights, strict=True):
        update.weight = weight
    return {update.client: update.weight / sum(weights) for update in updates} if stated else {}


def _means(updates: Sequence[Update]) -> dict[str, float]:
    """Of each number that clients report, by their weights."""
    means = {}
    for name in dict.fromkeys(name for update in updates for name in update.numbers):
        known = [update for update in updates if name in update.numbers]
        total = sum(update.weight for update in known)
        if total:
            means[_hyphens(name)] = float(sum(u.numbers[name] * (u.weight / total) for u in known))
    return means


def _client_row(client: int, phase: str, found: Update | str, shares: Mapping[int, float]) -> dict[str, Any]:
    if isinstance(found, str):
        return {"client": client, "phase": phase, "status": found}
    share = {"weight": shares[client]} if client in shares else {}
    numbers = {_hyphens(name): value for name, value in found.numbers.items()}
    return {"client": client, "phase": phase, "status": "ok", **share, "num-examples": found.num_examples, **numbers}


def _hyphens(name: str) -> str:
    """As the tables spell it."""
    return name.replace("_", "-")
