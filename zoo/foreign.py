"""What other people's distributions bring: their entry points are found and imported without trust in either.

Metadata without a name, an ``entry_points.txt`` that is none, and modules that raise, loop or leave threads behind are
faults of one plugin and stop no command. ``ZOO_PLUGINS`` names the distributions that are looked at beside the zoo's
own; empty, there are none.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, distributions, entry_points
from pathlib import Path
from typing import Any

from zoo.errors import PluginError
from zoo.extras import DISTRIBUTION
from zoo.text import normalised, printable

VARIABLE = "ZOO_PLUGINS"
IMPORT_SECONDS = 10.0
"""What imports longer is left out."""

_strays: list[threading.Thread] = []


@dataclass(frozen=True)
class Point:
    """An entry point and whose it is; ``error`` where a distribution's entry points can't be read."""

    name: str
    value: str
    group: str
    distribution: str
    version: str
    error: str = ""

    def load(self) -> Any:
        """The object that it names. Raises ``PluginError`` for an import that doesn't end, and whatever it raises.

        A ``BaseException`` that isn't an ``Exception`` arrives as the cause of a ``PluginError``.
        """
        if self.error:
            raise PluginError(self.error)
        point = EntryPoint(self.name, self.value, self.group)
        return point.load() if self.distribution == DISTRIBUTION else _guarded(point)


def points(group: str) -> list[Point]:
    """The entry points of a group, in no order. Nothing is imported, and no broken metadata stops it."""
    try:
        whose: dict[int, tuple[str, str]] = {}  # metadata are parsed anew at every look
        found = []
        for point in entry_points(group=group):
            if id(point.dist) not in whose:
                whose[id(point.dist)] = about(point.dist)
            found.append(_of(point, *whose[id(point.dist)]))
    except Exception:  # one malformed file spoils the call for all
        found = list(_one_by_one(group))
    stated = os.environ.get(VARIABLE)
    if stated is None:
        return found
    wanted = {normalised(name) for name in (DISTRIBUTION, *stated.split(",")) if name.strip()}
    return [point for point in found if normalised(point.distribution) in wanted]


def about(distribution: Distribution | None) -> tuple[str, str]:
    """Name and version; where the metadata state none, what the folder is called, and an empty version."""
    stated: list[str] = []
    for what in ("name", "version"):
        try:
            stated.append(str(getattr(distribution, what) or ""))
        except Exception:  # no metadata at all
            stated.append("")
    folder = Path(str(getattr(distribution, "_path", ""))).name
    return stated[0] or folder.partition("-")[0] or "unknown", stated[1]


def strays() -> list[str]:
    """Names of the threads that imports have left behind and that would keep this process from ending."""
    return [thread.name for thread in _strays if thread.is_alive()]


def _of(point: EntryPoint, distribution: str, version: str) -> Point:
    return Point(point.name, point.value, point.group, distribution, version)


def _one_by_one(group: str) -> Iterator[Point]:
    seen: set[str] = set()
    for distribution in distributions():
        name, version = about(distribution)
        if normalised(name) in seen:  # the first on the path counts
            continue
        seen.add(normalised(name))
        try:
            yield from (_of(point, name, version) for point in distribution.entry_points.select(group=group))
        except Exception as error:
            if group in (distribution.read_text("entry_points.txt") or ""):
                yield Point(
                    name, "", group, name, version, f"its entry_points.txt is malformed: {printable(error, 200)}"
                )


def _guarded(point: EntryPoint) -> Any:
    """Import in a thread of its own, which is left behind when it takes too long; what it prints goes to stderr."""
    outcome: dict[str, Any] = {}

    def run() -> None:
        try:
            outcome["value"] = point.load()
        except BaseException as error:
            outcome["error"] = error

    before = set(threading.enumerate())
    worker = threading.Thread(target=run, name=f"import of {point.value}", daemon=True)
    with redirect_stdout(sys.stderr):
        worker.start()
        worker.join(IMPORT_SECONDS)
    left = [one for one in threading.enumerate() if one not in before and one is not worker and not one.daemon]
    _strays.extend(left)
    if worker.is_alive():
        import ctypes

        # A loop in Python ends by this; what sleeps is left behind.
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(worker.ident or 0), ctypes.py_object(SystemExit))
        raise PluginError(f"importing {point.value} took more than {IMPORT_SECONDS:g} seconds")
    if left:
        raise PluginError(f"importing {point.value} starts a thread ({left[0].name}) that would not let zoo end")
    error = outcome.get("error")
    if isinstance(error, Exception):
        raise error
    if error is not None:
        raise PluginError(f"importing {point.value} raises {type(error).__name__}: {printable(error, 200)}") from error
    return outcome["value"]
