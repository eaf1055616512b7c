"""Progress bars: on a terminal, and for whoever listens."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
_silent = False
_heard = threading.local()


def silence(silent: bool = True) -> None:
    """No bars and notes from this process, for one among several, or for a user who wants none."""
    global _silent
    _silent = silent


def note(text: str) -> None:
    """One line about what goes on, on a terminal."""
    if not _silent and sys.stderr.isatty():
        print(text, file=sys.stderr)


def announce(text: str) -> None:
    """Lines that say what is about to happen, also where nobody sits at a terminal."""
    if not _silent:
        print(text, file=sys.stderr)


@contextmanager
def heard_by(listener: Callable[[int, int], None]) -> Iterator[None]:
    """What is done and the total of every bar of this thread go to ``listener``, too, shown or not.

    What it raises ends the work that the bar is of.
    """
    before = getattr(_heard, "listener", None)
    _heard.listener = listener
    try:
        yield
    finally:
        _heard.listener = before


class Bar:
    """A bar with the latest numbers beside it; use as a context."""

    def __init__(self, description: str, total: int, done: int = 0, *, enabled: bool = True) -> None:
        self._progress: Any = None
        self._total = total
        if enabled and not _silent and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            class WithAbove(Progress):
                above: Any = None

                def get_renderables(self) -> Any:
                    if self.above is not None:
                        yield self.above
                    yield from super().get_renderables()

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._progress = WithAbove(*columns, TextColumn("{task.fields[numbers]}"), console=Console(stderr=True))
            self._task = self._progress.add_task(description, total=total, completed=done, numbers="")

    def update(self, done: int) -> None:
        if listener := getattr(_heard, "listener", None):
            listener(done, self._total)
        if self._progress is not None:
            self._progress.update(self._task, completed=done)

    def show(self, values: Mapping[str, float]) -> None:
        if self._progress is not None:
            numbers = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
            self._progress.update(self._task, numbers=numbers)

    def above(self, renderable: Any) -> None:
        """Show something of rich's above the bar."""
        if self._progress is not None:
            self._progress.above = renderable
            self._progress.refresh()

    def __enter__(self) -> Bar:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._progress is not None:
            self._progress.stop()


def track(items: Collection[T], description: str, *, enabled: bool = True) -> Iterator[T]:
    """``items`` one by one, with a bar."""
    with Bar(description, len(items), enabled=enabled) as bar:
        for done, item in enumerate(items, start=1):
            yield item
            bar.update(done)
