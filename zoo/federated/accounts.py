"""What happened, as rows: in the run's folder or in memory, and the latest round on a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.training.log import MetricLog

ROWS_SHOWN = 12


class Table:
    """Rows per round: in ``<folder>/<name>.csv``, or in memory where a run keeps nothing on disk."""

    def __init__(self, folder: Path | None, name: str) -> None:
        self._rows: list[dict[str, Any]] = []
        self._log = None if folder is None else MetricLog(folder, name, tensorboard=False)
        self.latest: list[dict[str, Any]] = []

    def truncate(self, step: int) -> None:
        if self._log is not None:
            self._log.truncate(step)

    def write(self, number: int, rows: Iterable[Mapping[str, Any]]) -> None:
        self.latest = [{"round": number, **row} for row in rows]
        if self._log is None:
            self._rows += self.latest
            return
        for entry in self.latest:
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


def live_table(number: int, total: int, rows: Sequence[Mapping[str, Any]], summary: Mapping[str, float]) -> Any:
    """The clients of a round and what came out of it, for a terminal."""
    from rich.markup import escape
    from rich.table import Table as RichTable
    from rich.text import Text

    names = list(
        dict.fromkeys(name for row in rows for name in row if name not in ("round", "client", "phase", "status"))
    )
    caption = "  ".join(f"{k} {v:.4g}" for k, v in summary.items() if "/" in k and math.isfinite(v))
    table = RichTable(
        "client", "phase", *map(escape, names[:6]), "status", title=f"round {number} of {total}", caption=caption
    )
    for row in rows[:ROWS_SHOWN]:
        numbers = [f"{row[name]:.4g}" if name in row else "" for name in names[:6]]
        table.add_row(str(row["client"]), str(row["phase"]), *numbers, Text(str(row["status"])[:60]))
    if len(rows) > ROWS_SHOWN:
        table.add_row("...", f"{len(rows) - ROWS_SHOWN} more", *[""] * len(names[:6]), "")
    return table
