"""Pictures of a federation's rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def client_curves(rows: Sequence[dict[str, Any]], name: str, title: str, label: str, log: bool = False) -> bytes:
    """A line per client over the rounds, as a PNG. ``rows``: ``Outcome.clients``; ``log``: for what falls by orders."""
    from zoo.figure import plots

    clients = sorted({int(row["client"]) for row in rows})
    images = {int(row["client"]): int(row["num-examples"]) for row in rows if "num-examples" in row}
    some = []
    for client in clients:
        mine = sorted((int(row["round"]), float(row[name])) for row in rows if row["client"] == client and name in row)
        which = f"client {client}" + (f" ({images[client]} images)" if client in images else "")
        some.append(plots.Line(which, [r for r, _ in mine], [v for _, v in mine]))
    drawing, axes = plots.canvas("the figures of a training", size=(7.2, 4.0))
    plots.lines(axes[0, 0], some, title=title, x="round", y=label, whole=True, log=log, ylim=None if log else (0, None),
                legend="outside" if len(clients) <= 16 else "")  # fmt: skip
    return plots.png(drawing)
