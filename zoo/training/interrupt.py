"""Ctrl-C between two steps instead of in the middle of one."""

from __future__ import annotations

import signal
import threading
from typing import Any

# The terminal that closes says SIGHUP; Windows has none. Under nohup it is ignored, and stays so.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Interrupt:
    """Turns the first of ``SIGNALS`` into ``asked``, which a loop looks at between two steps; a second one ends it.

    Use it as a context. Unless ``listen`` is set, and outside the main thread, signals do what they always do.
    """

    def __init__(self, listen: bool) -> None:
        self.listen = listen
        self.asked = False
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if self.listen and threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
                    self.previous[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *error: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
