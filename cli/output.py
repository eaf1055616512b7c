"""How commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import textwrap
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from itertools import zip_longest
from typing import Any

from zoo.errors import DataWarning

state = {"debug": False}  # what `zoo --debug` sets
_log = logging.getLogger("zoo")


def ready_streams() -> None:
    """Make standard output and error fit to be written to, whatever started this process.

    A stream that is closed is opened on nothing, before a file of ours gets its number. What a stream's encoding lacks
    (``cp1251``, ``ascii``, names of files that are no text) is written as an escape instead of ending the command.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, stream := open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


LONGEST_CELL = 2000  # characters
NARROWEST = 12  # characters in a column that is made to fit


def print_json(value: Any) -> None:
    """Indented JSON on stdout."""
    sys.stdout.write(_json(value, indent=2) + "\n")


def print_json_line(value: Any) -> None:
    """One object on one line of stdout, flushed, so that a reader can follow."""
    sys.stdout.write(_json(value) + "\n")
    sys.stdout.flush()


def _json(value: Any, indent: int | None = None) -> str:
    """Readable where the stream can hold it: else, and for what would steer a terminal, as JSON's own escapes."""
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower().replace("-", "")
    text = json.dumps(value, indent=indent, ensure_ascii=encoding != "utf8")
    return "".join(c if c.isprintable() or c == "\n" else f"\\u{ord(c):04x}" for c in text)


def plain(text: str, longest: int | None = None) -> str:
    """Text of a card, a file or an error as it may be printed: its lines, but no escapes; cut where it is too long."""
    kept = "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
    return kept if longest is None or len(kept) <= longest else kept[: longest - 3] + "..."


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None, *, cut: bool = False
) -> None:
    """A table on stdout as wide as the terminal, or 80 columns where there is none: its widest columns are wrapped.

    ``cut``: a row is one line instead, and ends with dots where it's too long. Plain text on purpose: drawing it with
    rich costs a third of the time that `zoo list` takes.
    """
    if title:
        print(title)
    rows = [[plain(cell, LONGEST_CELL) for cell in row] for row in rows]
    lines = [list(columns), *rows] if any(columns) else rows
    widths = _fitted([max((len(line[i]) for line in lines), default=0) for i in range(len(columns))])
    for line in lines:
        cells = [_wrapped(cell, width, cut) for cell, width in zip(line, widths, strict=True)]
        for part in zip_longest(*cells, fillvalue=""):
            print("  ".join(cell.ljust(width) for cell, width in zip(part, widths, strict=True)).rstrip())


def _fitted(widths: list[int]) -> list[int]:
    """Widths that fit, the widest made smaller first; no column gets too small to read."""
    room = max(shutil.get_terminal_size().columns, 40) - 2 * (len(widths) - 1)
    while sum(widths) > room and max(widths) > NARROWEST:
        widths[widths.index(max(widths))] -= 1
    return widths


def _wrapped(cell: str, width: int, cut: bool) -> list[str]:
    if len(cell) <= width and "\n" not in cell:
        return [cell]
    if cut:
        return [cell[: max(width - 3, 0)].rstrip() + "..."]
    # In a pipe or a file a word stays whole, so that another program finds the paths.
    return textwrap.wrap(cell, width, break_on_hyphens=False, break_long_words=sys.stdout.isatty()) or [""]


def warn(message: str) -> None:
    """One line on stderr, by the log, so that ``zoo -q`` leaves it out."""
    _log.warning("%s", message.encode(errors="backslashreplace").decode())  # a file's name may be no text


class _Lines(logging.Handler):
    """The log of the zoo on stderr, as whatever stderr is by then: a line for each record, without escapes."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError, ValueError):  # nobody listens any more
            print(plain(record.getMessage(), LONGEST_CELL), file=sys.stderr)


def listen(level: int) -> None:
    """Print what the zoo logs from ``level`` on."""
    for handler in _log.handlers[:]:
        if isinstance(handler, _Lines):
            _log.removeHandler(handler)
    _log.addHandler(_Lines())
    _log.setLevel(level)


def note_warnings() -> None:
    """What the zoo warns of is a note on stderr, once and without the place in the code; other warnings stay."""
    usual, said = warnings.showwarning, set[str]()

    def show(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
        if not issubclass(category, DataWarning):
            usual(message, category, *where, **more)
        elif str(message) not in said:
            said.add(str(message))
            warn(f"note: {message}")

    warnings.showwarning = show


def refuse(error: BaseException, message: str = "") -> None:
    """An error as one sentence on stderr, after its traceback where ``zoo --debug`` asks for it."""
    if state["debug"]:
        traceback.print_exception(error)
    _log.error("zoo: %s", " ".join((message or str(error)).split()))
