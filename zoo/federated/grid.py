"""``LocalGrid``: Flower's ``Grid`` in one process, for claims, tests and small federations."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable

from zoo.federated import flower  # noqa: F401  (first: it says what's missing)

# isort: split
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run as FlowerRun
from flwr.supercore.task_identity import TaskIdentity

from zoo.seeds import rng_state, set_rng_state


class LocalGrid(Grid):
    """Runs ``app`` for one client after the other, in the order of the messages; nodes are 1 .. ``clients``.

    A client's exception becomes an error reply, as on Flower's other grids, and so does an answer that took longer
    than ``timeout`` seconds. The global random number generators are the server's again when a client has answered.
    Memory: one client works at a time; what is kept per client is what it puts into ``context.state``.
    """

    def __init__(self, app: ClientApp, clients: int, *, timeout: float | None = None) -> None:
        self.app = app
        self.timeout = timeout
        self._run = FlowerRun.create_empty(run_id=0)
        self._numbers = itertools.count(1)
        self._waiting: dict[str, Message] = {}
        self._contexts = {
            node: Context(0, node, {"partition-id": node - 1, "num-partitions": clients}, RecordDict(), {})
            for node in range(1, clients + 1)
        }
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 0, 0, SUPERLINK_NODE_ID  # of new messages

    def set_run(self, run: FlowerRun) -> None:
        self._run = run

    @property
    def run(self) -> FlowerRun:
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

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

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        before, self.timeout = self.timeout, timeout if timeout is not None else self.timeout
        try:
            return self.pull_messages(self.push_messages(messages))
        finally:
            self.timeout = before

    def _answer(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        if node not in self._contexts:
            return Message(Error(ErrorCode.NODE_UNAVAILABLE, f"there is no node {node}"), reply_to=message)
        server = rng_state()
        start = time.monotonic()
        try:
            # Messages of a round may share their records; a client may change what it got.
            own = RecordDict({name: record.copy() for name, record in message.content.items()})
            answer = self.app(_with_content(message, own), self._contexts[node])
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)
        finally:
            set_rng_state(server)
        took = time.monotonic() - start
        if self.timeout is not None and took > self.timeout:
            reason = f"answered after {took:.1f} s, later than the timeout of {self.timeout:g} s"
            return Message(Error(ErrorCode.REPLY_MESSAGE_UNAVAILABLE, reason), reply_to=message)
        return answer


def _with_content(message: Message, content: RecordDict) -> Message:
    copy = Message(content, message.metadata.dst_node_id, message.metadata.message_type)
    copy.__dict__["_metadata"] = message.metadata
    return copy
