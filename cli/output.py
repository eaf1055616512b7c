"""How commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
import traceback
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

state = {"debug": False}  # what `zoo --debug` sets


def print_json(value: Any) -> None:
    """Indented JSON on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def print_json_line(value: Any) -> None:
    """One object on one line of stdout, flushed, so that a reader can follow."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
    """A table on stdout, its widest column wrapped to the terminal.

    Plain text on purpose: drawing it with rich costs a third of the time that `zoo list` takes.
    """
    if title:
        print(title)
    lines = [list(columns), *map(list, rows)] if any(columns) else [list(row) for row in rows]
    widths = [max((len(line[i]) for line in lines), default=0) for i in range(len(columns))]
    # A pipe or a file has no width: nothing is wrapped there, so that other programs can read it.
    if sys.stdout.isatty() and sum(widths) + 2 * len(widths) > (room := shutil.get_terminal_size().columns):
        widest = widths.index(max(widths))
        widths[widest] = max(16, room - sum(widths) + widths[widest] - 2 * len(widths))
    for line in lines:
        cells = [textwrap.wrap(cell, width) or [""] for cell, width in zip(line, widths, strict=True)]
        for part in zip_longest(*cells, fillvalue=""):
            print("  ".join(cell.ljust(width) for cell, width in zip(part, widths, strict=True)).rstrip())


def warn(message: str) -> None:
    """One line on stderr."""
    print(message, file=sys.stderr)


def refuse(error: BaseException, message: str = "") -> None:
    """An error as one sentence on stderr, after its traceback where ``zoo --debug`` asks for it."""
    if state["debug"]:
        traceback.print_exception(error)
    warn(f"zoo: {' '.join((message or str(error)).split())}")
