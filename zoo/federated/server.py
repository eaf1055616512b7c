"""The server's side: Flower's strategy round by round, with accounts, exclusion of failed clients and exact resume."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.federated import flower  # noqa: F401  (first: it says what's missing)

# isort: split
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from flwr.supercore.run import Run as FlowerRun

from zoo.errors import DataError
from zoo.federated.client import WHO, array_record, client_of
from zoo.federated.federation import Federation, Outcome, check_shapes, weigh
from zoo.federated.history import History
from zoo.seeds import derive_seed, seed_everything
from zoo.training.log import MetricLog

if TYPE_CHECKING:
    from zoo.training import Run

NOT_FINITE = 100  # error code of an answer with NaN or infinity in it; Flower's own codes are below
WEIGHT = "weight"
CONNECT_SECONDS = 120.0
ROWS_SHOWN = 12


def serve(
    federation: Federation,
    grid: Grid,
    run: Run,
    stage: str,
    arrays: Mapping[str, Any],
    *,
    stop: threading.Event | None = None,
) -> Outcome:
    """Run the rounds that are left of a federation on ``grid``, from the weights ``arrays``.

    It's ``Strategy.start`` with a checkpoint after every round. Raises ``DataError`` when too few clients answer.
    """
    server = _Server(federation, array_record(arrays))
    run.keep(server=server)
    folder = None if run.out is None else run.out / "metrics"
    history = None
    if federation.history is not None:
        history = History(federation.history, None if run.out is None else run.out / "history" / stage)
    tables = _Table(folder, f"{stage}-clients"), _Table(folder, f"{stage}-communication")
    cohort: Cohort | None = None
    before, run.checkpoint_every = run.checkpoint_every, 1  # clients go back one round at most
    try:
        for step in run.steps(federation.rounds, description=stage):
            if cohort is None:  # only now is the position known
                for table in tables:
                    table.truncate(step)
                cohort = Cohort(grid, federation.clients, federation.timeout, stop)
                if history is not None and step == 0:
                    history.add(0, server.numpy(), {}, federation.clients)
            row = _round(federation, cohort, server, step + 1, run, tables, history)
            server.rows.append(row)
            run.log(**{name: value for name, value in row.items() if name != "round"})
            run.show(_live_table(step + 1, federation.rounds, tables[0].latest, row))
    finally:
        run.checkpoint_every = before
        for table in tables:
            table.close()
    return Outcome(server.arrays, server.rows, tables[0].read(), tables[1].read(), history)


def _round(
    federation: Federation,
    cohort: Cohort,
    server: _Server,
    number: int,
    run: Run,
    tables: tuple[_Table, _Table],
    history: History | None,
) -> dict[str, float]:
    strategy = federation.strategy
    cohort.begin(number)
    seed_everything(derive_seed(run.seed, "server", number))
    row: dict[str, float] = {"round": number}

    asked = strategy.configure_train(number, server.arrays, ConfigRecord(), cohort)
    replies = [_checked(message) for message in cohort.send_and_receive(asked)]
    usable = [message for message in replies if not message.has_error()]
    weights: dict[int, float] = {}
    if replies:
        _require_enough(federation, number, replies, usable)
        if federation.same_shapes:
            check_shapes(_shapes(server.arrays), {client_of(m): _shapes(_arrays(m)) for m in usable})
        weights = _weigh(federation, strategy, usable, train=True)
    returned = {client_of(m): _numpy(_arrays(m)) for m in usable} if history and history.policy.clients else {}
    tables[0].write(number, [_client_row(message, "train", weights) for message in replies])
    aggregated, metrics = strategy.aggregate_train(number, replies)
    if aggregated is not None:
        server.arrays = _like(server.arrays, aggregated)
    row |= {"clients": len(usable), "failed": len(replies) - len(usable), **_named("train", metrics)}

    asked = strategy.configure_evaluate(number, server.arrays, ConfigRecord(), cohort)
    replies = cohort.send_and_receive(asked)
    _weigh(federation, strategy, [message for message in replies if not message.has_error()], train=False)
    tables[0].write(number, [_client_row(message, "evaluate", {}) for message in replies])
    row |= _named("evaluate", strategy.aggregate_evaluate(number, replies))

    if federation.evaluate is not None:
        row |= _named("global", federation.evaluate(number, server.arrays))
    if history is not None:
        history.add(number, server.numpy(), returned, federation.clients)
    tables[1].write(number, cohort.ledger)
    row["bytes-down"] = sum(entry["down"] for entry in cohort.ledger)
    row["bytes-up"] = sum(entry["up"] for entry in cohort.ledger)
    return row


class Cohort(Grid):
    """Another grid with its nodes numbered 1 .. n by client, in every engine, and an account of each exchange.

    Every message gets an answer, in the order of the clients: an error where a client failed or stayed silent.
    """

    def __init__(self, grid: Grid, clients: int, timeout: float, stop: threading.Event | None = None) -> None:
        self.grid, self.clients, self.timeout = grid, clients, timeout
        self._stop = stop or threading.Event()
        self._node_of: dict[int, int] = {}
        self.begin(0)
        self._find_clients()

    def begin(self, number: int) -> None:
        """A new round, with an empty ledger."""
        self.number, self._exchange, self.ledger = number, 0, list[dict[str, Any]]()

    def _find_clients(self) -> None:
        """Ask every node which client it is: Flower numbers nodes at random."""
        end = time.monotonic() + CONNECT_SECONDS
        while len(nodes := list(self.grid.get_node_ids())) < self.clients:
            if time.monotonic() > end or self._stop.is_set():
                raise DataError(f"{len(nodes)} of {self.clients} clients connected within {CONNECT_SECONDS:g} s")
            time.sleep(0.2)
        questions = [Message(RecordDict(), node, WHO, group_id="0.0") for node in nodes]
        for answer in self._exchange_all(questions, CONNECT_SECONDS):
            if not answer.has_error():
                self._node_of[int(str(answer.content["client"]["id"]))] = answer.metadata.src_node_id
        if missing := sorted(set(range(self.clients)) - self._node_of.keys()):
            raise DataError(f"no node says that it is client {missing[0]}; give every node its own partition-id")

    def get_node_ids(self) -> list[int]:
        return list(range(1, self.clients + 1))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        asked = sorted(messages, key=lambda message: message.metadata.dst_node_id)
        limit = self.timeout if timeout is None else timeout
        group = f"{self.number}.{self._exchange}"
        self._exchange += 1
        outgoing = [
            Message(m.content, self._node_of[m.metadata.dst_node_id - 1], m.metadata.message_type, group_id=group)
            for m in asked
        ]
        clients = {node: client for client, node in self._node_of.items()}
        answers = {clients[a.metadata.src_node_id]: a for a in self._exchange_all(outgoing, limit)}
        replies = []
        for message in asked:
            client = message.metadata.dst_node_id - 1
            answer = answers.get(client)
            if answer is None:
                reply = Message(
                    Error(ErrorCode.REPLY_MESSAGE_UNAVAILABLE, f"no answer in {limit:g} s"), reply_to=message
                )
            elif answer.has_error():
                reply = Message(answer.error, reply_to=message)
            else:
                reply = Message(answer.content, reply_to=message)
            up = 0 if reply.has_error() else _size(reply.content)
            phase = message.metadata.message_type
            self.ledger.append({"client": client, "phase": phase, "down": _size(message.content), "up": up})
            replies.append(reply)
        return replies

    def _exchange_all(self, messages: Sequence[Message], timeout: float) -> list[Message]:
        waiting = set(self.grid.push_messages(messages)) if messages else set()
        answers: list[Message] = []
        end = time.monotonic() + timeout
        while waiting:
            if self._stop.is_set():
                raise KeyboardInterrupt
            new = list(self.grid.pull_messages(sorted(waiting, key=lambda name: (len(name), name))))
            answers += new
            waiting -= {answer.metadata.reply_to_message_id for answer in new}
            if time.monotonic() > end:
                break
            if waiting and not new:
                time.sleep(0.05)
        return answers

    def set_run(self, run: FlowerRun) -> None:
        self.grid.set_run(run)

    @property
    def run(self) -> FlowerRun:
        return self.grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        raise NotImplementedError("strategies of the zoo use send_and_receive")

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        raise NotImplementedError("strategies of the zoo use send_and_receive")


class _Server:
    """What a killed server needs to go on: the global weights, the strategy's own state and the rounds so far."""

    def __init__(self, federation: Federation, arrays: ArrayRecord) -> None:
        self.strategy = federation.strategy
        self.arrays = arrays
        self.rows: list[dict[str, float]] = []

    def numpy(self) -> dict[str, np.ndarray]:
        return _numpy(self.arrays)

    def state_dict(self) -> dict[str, Any]:
        return {"arrays": self.numpy(), "rows": self.rows, "strategy": strategy_state(self.strategy)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.arrays = array_record(state["arrays"])
        self.rows = list(state["rows"])
        load_strategy_state(self.strategy, state["strategy"])


def strategy_state(strategy: Any) -> dict[str, Any]:
    """The plain attributes of a strategy (and of one it wraps): numbers, text, arrays, nests of them, ArrayRecords."""
    if hasattr(strategy, "state_dict"):
        return strategy.state_dict()
    state = {}
    for name, value in vars(strategy).items():
        try:
            state[name] = {"strategy": strategy_state(value)} if isinstance(value, Strategy) else _plain(value)
        except TypeError:  # functions and the like are made anew with the strategy
            continue
    return state


def load_strategy_state(strategy: Any, state: Mapping[str, Any]) -> None:
    """Bring a strategy to what ``strategy_state`` noted."""
    if hasattr(strategy, "load_state_dict"):
        strategy.load_state_dict(state)
        return
    for name, value in state.items():
        if isinstance(value, Mapping) and "strategy" in value:
            load_strategy_state(getattr(strategy, name), value["strategy"])
        else:
            setattr(strategy, name, _restored(value))


def _plain(value: Any) -> Any:
    if isinstance(value, ArrayRecord):
        return {"array record": _numpy(value)}
    if (
        value is None
        or isinstance(value, bool | int | float | str | np.generic | np.ndarray)
        or hasattr(value, "detach")
    ):
        return value
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    raise TypeError(type(value).__name__)


def _restored(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"array record"}:
            return array_record(value["array record"])
        return {key: _restored(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_restored(item) for item in value)
    return value


# ---- replies -----------------------------------------------------------------------------------------------------


def _arrays(message: Message) -> ArrayRecord:
    """All arrays of a reply."""
    return ArrayRecord({k: v for record in message.content.array_records.values() for k, v in record.items()})


def _numpy(arrays: ArrayRecord) -> dict[str, np.ndarray]:
    return {name: array.numpy() for name, array in arrays.items()}


def _shapes(arrays: ArrayRecord) -> dict[str, tuple[int, ...]]:
    return {name: tuple(array.shape) for name, array in arrays.items()}


def _size(content: RecordDict) -> int:
    return sum(record.count_bytes() for record in content.values())


def _metrics(message: Message) -> dict[str, float]:
    """The numbers of a reply; lists of numbers are left to the strategy."""
    records = message.content.metric_records.values()
    return {k: float(v) for record in records for k, v in record.items() if not isinstance(v, list)}


def _named(prefix: str, metrics: Mapping[str, Any] | None) -> dict[str, float]:
    numbers = {
        k: v for k, v in (metrics or {}).items() if not isinstance(v, list) and k not in (WEIGHT, "num-examples")
    }
    return {f"{prefix}/{name}": float(value) for name, value in numbers.items()}


def _checked(message: Message) -> Message:
    """The reply, or an error in its place if its weights aren't finite."""
    if message.has_error():
        return message
    for record in message.content.array_records.values():
        for name, array in record.items():
            values = array.numpy()
            if np.issubdtype(values.dtype, np.inexact) and not np.isfinite(values).all():
                refused = Message(Error(NOT_FINITE, f"NaN or infinity in {name}"), reply_to=message)
                for part in ("_src_node_id", "_dst_node_id"):  # it stands for the reply, not for an answer to it
                    refused.metadata.__dict__[part] = message.metadata.__dict__[part]
                return refused
    return message


def _require_enough(federation: Federation, number: int, replies: list[Message], usable: list[Message]) -> None:
    if len(usable) >= min(federation.min_clients, len(replies)) and usable:
        return
    first = next(message for message in replies if message.has_error())
    raise DataError(
        f"round {number}: {len(usable)} of {len(replies)} clients returned usable weights and "
        f"{federation.min_clients} are needed; client {client_of(first)}: {_reason(first)}"
    )


def _reason(message: Message) -> str:
    """An error in one line."""
    lines = [line.strip() for line in (message.error.reason or "it failed").splitlines() if line.strip()]
    return (lines[-1] if lines else "it failed")[:200]


def _weigh(federation: Federation, strategy: Strategy, usable: list[Message], *, train: bool) -> dict[int, float]:
    """Write each client's aggregation weight where Flower's strategies look for it; evaluations count by cases."""
    if not usable or not hasattr(strategy, "weighted_by_key"):
        return {}
    clients, metrics = [client_of(m) for m in usable], [_metrics(m) for m in usable]
    weights = weigh(federation.weights if train else "samples", clients, metrics)
    strategy.weighted_by_key = WEIGHT
    for message, weight in zip(usable, weights, strict=True):
        for record in message.content.metric_records.values():
            record[WEIGHT] = weight
    return dict(zip(clients, weights, strict=True))


def _client_row(message: Message, phase: str, weights: Mapping[int, float]) -> dict[str, Any]:
    row: dict[str, Any] = {"client": client_of(message), "phase": phase, "status": "ok"}
    if message.has_error():
        return {**row, "status": _reason(message)}
    numbers = {name: value for name, value in _metrics(message).items() if name != WEIGHT}
    if client_of(message) in weights:
        row[WEIGHT] = weights[client_of(message)] / sum(weights.values())
    return {**row, **numbers}


def _like(before: ArrayRecord, after: ArrayRecord) -> ArrayRecord:
    """The aggregate in the number types of what was sent: an average of step counters stays a whole number."""
    if before.keys() != after.keys():
        return after
    arrays = {}
    for name, value in _numpy(after).items():
        dtype = np.dtype(before[name].dtype)
        arrays[name] = (np.rint(value) if np.issubdtype(dtype, np.integer) else value).astype(dtype)
    return array_record(arrays)


# ---- accounts ----------------------------------------------------------------------------------------------------


class _Table:
    """Rows per round: in ``<folder>/<name>.csv``, or in memory where a run keeps nothing on disk."""

    def __init__(self, folder: Path | None, name: str) -> None:
        self._rows: list[dict[str, Any]] = []
        self._log = None if folder is None else MetricLog(folder, name, tensorboard=False)
        self.latest: list[dict[str, Any]] = []

    def truncate(self, step: int) -> None:
        if self._log is not None:
            self._log.truncate(step)

    def write(self, number: int, rows: Iterable[Mapping[str, Any]]) -> None:
        entries = [{"round": number, **row} for row in rows]
        if entries and entries[0].get("phase") == "train":
            self.latest = []
        self.latest += entries
        if self._log is None:
            self._rows += entries
            return
        for entry in entries:
            self._log.write(number - 1, entry)
        self._log.flush()

    def read(self) -> list[dict[str, Any]]:
        if self._log is None:
            return self._rows
        return [
            {name: _cell(value) for name, value in row.items() if name != "step" and value != ""}
            for row in self._log.read()
        ]

    def close(self) -> None:
        if self._log is not None:
            self._log.__exit__()


def _cell(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _live_table(number: int, total: int, rows: Sequence[Mapping[str, Any]], summary: Mapping[str, float]) -> Any:
    """The clients of a round and what came out of it, for a terminal."""
    from rich.table import Table

    names = list(
        dict.fromkeys(name for row in rows for name in row if name not in ("round", "client", "phase", "status"))
    )
    caption = "  ".join(f"{k} {v:.4g}" for k, v in summary.items() if "/" in k and math.isfinite(v))
    table = Table("client", "phase", *names[:6], "status", title=f"round {number} of {total}", caption=caption)
    for row in rows[:ROWS_SHOWN]:
        numbers = [f"{row[name]:.4g}" if name in row else "" for name in names[:6]]
        table.add_row(str(row["client"]), str(row["phase"]), *numbers, str(row["status"])[:60])
    if len(rows) > ROWS_SHOWN:
        table.add_row("...", f"{len(rows) - ROWS_SHOWN} more", *[""] * len(names[:6]), "")
    return table
