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


def forgetting(results: Sequence[Any], who: str) -> bytes:
    """Utility against what is left of the leaver, SCRATCH as the target; and both against the rounds, as a PNG.

    ``results``: with ``method``, ``utility``, ``residual`` and ``curve``: round and both.
    """
    from zoo.figure import plots

    curves = [one for one in results if one.curve]
    drawing, axes = plots.canvas(
        "the figure of what was forgotten", 1, 3 if curves else 1, size=(14 if curves else 6, 4.6),
        title=f"Forgetting {who}",
    )  # fmt: skip
    inks = {one.method: plots.INKS[place % len(plots.INKS)] for place, one in enumerate(results)}
    marks = "osD^vP*X<>"
    points = [
        plots.Points(f"{one.method}{' (target)' if one.method == 'scratch' else ''}", [[one.utility, one.residual]],
                     inks[one.method], marks[place % len(marks)], 150 if one.method == "scratch" else 60)
        for place, one in enumerate(results)
    ]  # fmt: skip
    target = next((one for one in results if one.method == "scratch"), None)
    plots.scatter(axes[0, 0], points, x="utility: score on who stays", y="score on who left", legend="outside",
                  title="what is kept and what is forgotten")  # fmt: skip
    if target is not None:
        axes[0, 0].axhline(target.residual, color="0.6", linestyle=":", zorder=0)
    if curves:
        for axis, place, title in ((axes[0, 1], 1, "utility"), (axes[0, 2], 2, "score on who left")):
            some = [
                plots.Line(one.method, [point[0] for point in one.curve], [point[place] for point in one.curve],
                           inks[one.method], plots.DASHES[number % len(plots.DASHES)])
                for number, one in enumerate(curves)
            ]  # fmt: skip
            plots.lines(axis, some, title=title, x="round of training without them", whole=True)
    return plots.png(drawing)
