"""Where the work is done: one thread, one task after the other, and a queue with a bound.

Models, readers and random numbers then never meet a second thread, and torch has all cores for the task of the moment.
A task ends early at its next layer or window: when somebody cancels it, or when its time is over.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, Literal, TypeVar

from zoo import progress
from zoo.errors import ZooError

T = TypeVar("T")
State = Literal["waiting", "running", "done", "failed", "cancelled"]


class BusyError(ZooError):
    """More is asked for than the queue holds."""

    def __init__(self, waiting: int, seconds: int) -> None:
        super().__init__(f"the server is busy: {waiting} requests are before yours; try again in {seconds} seconds")
        self.seconds = seconds


class CancelledError(ZooError):
    """Somebody stopped it."""


class TimeoutError(ZooError):
    """It took longer than the server allows."""


class Ticket(Generic[T]):
    """One task: where it stands, and what came of it (``future``)."""

    def __init__(self, desk: Desk, seconds: float) -> None:
        self.desk, self.seconds = desk, seconds
        self.future: Future[T] = Future()
        self.state: State = "waiting"
        self.done, self.total, self.part = 0, 1, 0.0  # inputs, and the share of the one that is worked on
        self.ended: float | None = None  # time.monotonic()
        self.deadline = float("inf")
        self._cancelled = False
        self._work: Callable[[Ticket[T]], T] | None = None

    @property
    def progress(self) -> float:
        """In [0, 1]."""
        return 1.0 if self.state == "done" else min(1.0, (self.done + self.part) / max(1, self.total))

    @property
    def before(self) -> int:
        """How many tasks are before this one."""
        return self.desk.before(self)

    def cancel(self) -> None:
        """Stop it: at once when it waits, at its next step when it runs."""
        self._cancelled = True
        self.desk.drop(self)

    def check(self) -> None:
        """Raise ``CancelledError`` or ``TimeoutError`` when the task is to end."""
        if self._cancelled:
            raise CancelledError("it was cancelled")
        if time.monotonic() > self.deadline:
            raise TimeoutError(
                f"it took more than the {self.seconds:g} seconds that this server allows; "
                "give it less, or ask who runs it for more"
            )

    def advance(self, done: int, total: int) -> None:
        """So many inputs of so many are done."""
        self.done, self.total, self.part = done, total, 0.0
        self.check()

    def hear(self, done: int, total: int) -> None:
        """Progress within an input, as its bars tell it."""
        self.part = min(1.0, done / max(1, total))
        self.check()

    def run(self) -> None:
        """On the thread of the desk."""
        assert self._work is not None
        self.state, self.deadline = "running", time.monotonic() + self.seconds
        try:
            self.check()
            with progress.heard_by(self.hear):
                value = self._work(self)
        except BaseException as error:
            self._finish("cancelled" if isinstance(error, CancelledError) else "failed")
            self.future.set_exception(error)
        else:
            self._finish("done")
            self.future.set_result(value)

    def _finish(self, state: State) -> None:
        self.state, self.ended, self._work = state, time.monotonic(), None


class Place:
    """A place in the queue, held from before the upload until the answer is there; use as a context."""

    def __init__(self, desk: Desk) -> None:
        self.desk, self.kept = desk, False

    def keep(self, ticket: Ticket[Any]) -> None:
        """The place outlives the context: it is held until the task has ended."""
        self.kept = True
        ticket.future.add_done_callback(lambda _: self.desk.leave())

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.kept:
            self.desk.leave()


class Desk:
    """Does one task after the other. ``places``: how many may be uploading, waiting or worked on."""

    def __init__(self, places: int, seconds: float) -> None:
        self.places, self.seconds = places, seconds
        self.taken = 0  # places
        self._usual = 1.0  # seconds that a task takes, lately
        self._waiting: deque[Ticket[Any]] = deque()
        self._current: Ticket[Any] | None = None
        self._closed = False
        self._unhook: Callable[[], None] = lambda: None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._serve, name="zoo-desk", daemon=True)
        self._thread.start()

    def place(self) -> Place:
        """Raises ``BusyError`` when there is none left."""
        with self._changed:
            if self.taken >= self.places:
                raise BusyError(self.taken, max(1, min(600, round(self._usual * self.taken / 2))))
            self.taken += 1
        return Place(self)

    def leave(self) -> None:
        with self._changed:
            self.taken -= 1

    def submit(self, work: Callable[[Ticket[T]], T], *, seconds: float | None = None) -> Ticket[T]:
        """Have ``work`` done; it is told of its ticket, and may tell it of progress."""
        ticket: Ticket[T] = Ticket(self, seconds or self.seconds)
        ticket._work = work
        with self._changed:
            if self._closed:
                raise CancelledError("the server is going down; try again later")
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket

    def before(self, ticket: Ticket[Any]) -> int:
        with self._changed:
            return self._waiting.index(ticket) + (self._current is not None) if ticket in self._waiting else 0

    def drop(self, ticket: Ticket[Any]) -> None:
        with self._changed:
            if ticket not in self._waiting:
                return
            self._waiting.remove(ticket)
        ticket.run()  # which ends at once

    def close(self) -> None:
        """Stop the task of the moment and all that wait."""
        with self._changed:
            self._closed = True
            tickets = [*self._waiting, *([self._current] if self._current else [])]
            self._changed.notify()
        for ticket in tickets:
            ticket.cancel()
        self._thread.join(10)
        self._unhook()

    def _serve(self) -> None:
        self._unhook = _stop_at_layers(self)
        while True:
            with self._changed:
                self._current = None
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                self._current = ticket = self._waiting.popleft()
            start = time.monotonic()
            ticket.run()
            self._usual += 0.2 * (time.monotonic() - start - self._usual)

    def check(self) -> None:
        """For the thread of the desk: end the task of the moment if it is to end."""
        if self._current is not None and threading.current_thread() is self._thread:
            self._current.check()


def _stop_at_layers(desk: Desk) -> Callable[[], None]:
    """Every layer of every network asks first whether it is still wanted. Returns what ends this."""
    from torch.nn.modules.module import register_module_forward_pre_hook

    return register_module_forward_pre_hook(lambda module, given: desk.check()).remove
