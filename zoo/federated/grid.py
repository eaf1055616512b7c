"""How questions reach the clients: ``LocalGrid`` in one process; ``Cohort`` over any grid, with accounts."""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from zoo.federated import flower  # noqa: F401  (first: it says what's missing)

# isort: split
from flwr.app import Context, Error, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.supercore.task_identity import TaskIdentity

from zoo.errors import DataError
from zoo.federated import records
from zoo.federated.client import WHO
from zoo.federated.exchange import Tensors
from zoo.seeds import rng_state, set_rng_state

CONNECT_SECONDS = 120.0


class LocalGrid:
    """Runs ``app`` for one client after the other, in the order of the messages; nodes are 1 .. ``clients``.

    A client's exception becomes an error reply, as on Flower's grids, and so does an answer that took longer than
    ``timeout`` seconds. The global random number generators are the server's again when a client has answered.
    Memory: one client works at a time.
    """

    def __init__(self, app: Callable[[Message, Context], Message], clients: int, *, timeout: float | None = None):
        self.app, self.timeout = app, timeout
        self._numbers = itertools.count(1)
        self._waiting: dict[str, Message] = {}
        self._contexts = {
            node: Context(0, node, {"partition-id": node - 1, "num-partitions": clients}, RecordDict(), {})
            for node in range(1, clients + 1)
        }
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 0, 0, SUPERLINK_NODE_ID  # of new messages

    def get_node_ids(self) -> list[int]:
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        pushed = []
        for message in messages:
            name = str(next(self._numbers))
            message.metadata.__dict__["_message_id"] = name  # as Flower's grids do
            self._waiting[name] = message
            pushed.append(name)
        return pushed

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [self._answer(self._waiting.pop(name)) for name in message_ids if name in self._waiting]

    def _answer(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        if node not in self._contexts:
            return Message(Error(ErrorCode.NODE_UNAVAILABLE, f"there is no node {node}"), reply_to=message)
        server = rng_state()
        start = time.monotonic()
        try:
            with _interrupts() as interrupts:
                answer = self.app(message, self._contexts[node])
        except BaseException as error:  # SystemExit of a client is that client's end, not everybody's
            if interrupts:
                raise
            reason = f"{type(error).__name__}: {error}"
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)
        finally:
            set_rng_state(server)
        took = time.monotonic() - start
        if self.timeout is not None and took > self.timeout:
            reason = f"answered after {took:.1f} s, later than the timeout of {self.timeout:g} s"
            return Message(Error(ErrorCode.REPLY_MESSAGE_UNAVAILABLE, reason), reply_to=message)
        return answer


class Cohort:
    """All clients of a grid by their numbers, in every engine, and an account of each exchange.

    Every question gets an answer, in the order of the clients: its content, or in one line why there is none.
    """

    def __init__(self, grid: Any, clients: int, timeout: float, stop: threading.Event | None = None) -> None:
        self.grid, self.clients, self.timeout = grid, clients, timeout
        self._stop = stop or threading.Event()
        self._node_of: dict[int, int] = {}
        self._find_clients()

    def _find_clients(self) -> None:
        """Ask every node which client it is: Flower numbers nodes at random."""
        end = time.monotonic() + CONNECT_SECONDS
        while len(nodes := list(self.grid.get_node_ids())) < self.clients:
            if time.monotonic() > end or self._stop.is_set():
                raise DataError(f"{len(nodes)} of {self.clients} clients connected within {CONNECT_SECONDS:g} s")
            time.sleep(0.2)
        questions = [Message(RecordDict(), node, WHO, group_id="0.0") for node in nodes]
        for answer in self._exchange(questions, CONNECT_SECONDS):
            with suppress(Exception):  # a node that answers anything else is no client
                who = int(str(answer.content["client"]["id"]))
                self._node_of.setdefault(who, answer.metadata.src_node_id)
        if missing := sorted(set(range(self.clients)) - self._node_of.keys()):
            raise DataError(f"no node says that it is client {missing[0]}; give every node its own partition-id")

    def ask(
        self, content: RecordDict, group: str, addressed: Mapping[int, Mapping[str, Tensors]] | None = None
    ) -> tuple[dict[int, RecordDict | str], list[dict[str, Any]]]:
        """The answers by client, and the bytes ``down`` to and ``up`` from each. ``group``: "round.exchange".

        ``addressed``: models that go to one client alone, beside ``content``.
        """
        own = {client: records.addressed(content, models) for client, models in (addressed or {}).items()}
        contents = [own.get(client, content) for client in range(self.clients)]
        messages = [Message(one, self._node_of[c], "train", group_id=group) for c, one in enumerate(contents)]
        got = {answer.metadata.src_node_id: answer for answer in self._exchange(messages, self.timeout)}
        answers: dict[int, RecordDict | str] = {}
        ledger = []
        for client in range(self.clients):
            answer = got.get(self._node_of[client])
            if answer is None:
                answers[client] = f"no answer in {self.timeout:g} s"
            else:
                answers[client] = _content(answer)
            found = answers[client]
            up = 0 if isinstance(found, str) else records.size(found)
            ledger.append({"client": client, "down": records.size(contents[client]), "up": up})
        return answers, ledger

    def _exchange(self, messages: Sequence[Message], timeout: float) -> list[Message]:
        names = list(self.grid.push_messages(messages)) if messages else []
        asked = {name: message.metadata.dst_node_id for name, message in zip(names, messages, strict=True)}
        waiting = set(names)
        answers: list[Message] = []
        end = time.monotonic() + timeout
        while waiting:
            if self._stop.is_set():
                raise KeyboardInterrupt
            new = list(self.grid.pull_messages(sorted(waiting, key=lambda name: (len(name), name))))
            for answer in new:  # each question has one answer, by the node that was asked
                name = answer.metadata.reply_to_message_id
                if name in waiting and asked[name] == answer.metadata.src_node_id:
                    answers.append(answer)
                    waiting.discard(name)
            if time.monotonic() > end:
                break
            if waiting and not new:
                time.sleep(0.05)
        return answers


def _content(answer: Message) -> RecordDict | str:
    """What a client answered, or in one line why there is nothing."""
    try:
        if answer.has_error():
            return line(answer.error.reason or "") or "it failed"
        records.size(answer.content)
        return answer.content
    except Exception as error:  # neither content nor an error, or content that isn't Flower's
        return f"its answer can't be read ({line(str(error)) or type(error).__name__})"


def line(said: str) -> str:
    """The last line of what a stranger says, without what a terminal would obey."""
    lines = [text.strip() for text in said[-10_000:].splitlines() if text.strip()]
    return "".join(c if c.isprintable() else " " for c in (lines[-1] if lines else ""))[:200]


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """The interrupts that arrive within it, to be told from a KeyboardInterrupt that a client raises itself."""
    seen: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield seen
        return

    def noted(number: int, frame: Any) -> None:
        seen.append(number)
        before(number, frame)

    signal.signal(signal.SIGINT, noted)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)
