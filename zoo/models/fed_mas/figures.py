"""Pictures of a training: rescue factors and weights of the clients over the rounds, distance against class counts."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.errors import MissingExtraError
from zoo.models.fed_mas.result import GROUP_COLOURS

if TYPE_CHECKING:
    from jaxtyping import Int

    from zoo.federated import Outcome
    from zoo.models.fed_mas.model import FedMASConfig

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000", "#8C6D00")
DASHES = ("-", "--", ":", "-.")


def training_figures(outcome: Outcome, counts: Int[np.ndarray, " k"], config: FedMASConfig, out: Path) -> list[Path]:
    """Write ``weights.png``, and with a prior ``rescue_factors.png``; with reported w_k also ``distances.png``."""
    from zoo.storage import write_file

    rows = [row for row in outcome.clients if row.get("phase", "train") == "train"]
    written = []
    shares = share_rows(rows)
    if shares:
        data = curves(shares, "share", "aggregation weight of each client", "share of the global model")
        written.append(write_file(out / "weights.png", data))
    if any("rescue-factor" in row for row in rows):
        data = curves(rows, "rescue-factor", "rescue factor of each client", "rescue factor")
        written.append(write_file(out / "rescue_factors.png", data))
    if any("w-0" in row for row in rows):
        written.append(write_file(out / "distances.png", distances(rows, counts, config)))
    return written


def share_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The weights as shares of their round, in [0, 1]."""
    totals: dict[int, float] = {}
    for row in rows:
        if row.get("weight") is not None:
            totals[row["round"]] = totals.get(row["round"], 0.0) + float(row["weight"])
    return [
        {**row, "share": float(row["weight"]) / totals[row["round"]]}
        for row in rows
        if row.get("weight") is not None and totals[row["round"]] > 0
    ]


def curves(rows: Sequence[dict[str, Any]], name: str, title: str, label: str) -> bytes:
    """One line per client over the rounds."""
    figure, axis = _canvas(7.2, 4.0)
    clients = sorted({int(row["client"]) for row in rows})
    images = {int(row["client"]): int(row["num-examples"]) for row in rows if "num-examples" in row}
    for place, client in enumerate(clients):
        mine = sorted((int(row["round"]), float(row[name])) for row in rows if row["client"] == client and name in row)
        which = f"client {client}" + (f" ({images[client]} images)" if client in images else "")
        style = {"color": COLOURS[place % len(COLOURS)], "linestyle": DASHES[place // len(COLOURS) % len(DASHES)]}
        axis.plot([r for r, _ in mine], [v for _, v in mine], label=which, linewidth=1.8, **style)
    axis.set_title(title, size=11, loc="left")
    axis.set_xlabel("round")
    axis.set_ylabel(label)
    if name == "rescue-factor":  # it falls by orders of magnitude
        axis.set_yscale("log")
    else:
        axis.set_ylim(bottom=0)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(color="0.9")
    axis.spines[["top", "right"]].set_visible(False)
    if len(clients) <= 16:
        axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
    return _png(figure)


def distances(rows: Sequence[dict[str, Any]], counts: Int[np.ndarray, " k"], config: FedMASConfig) -> bytes:
    """w_k of the received model for each class, commonest first: mean over the clients that hold it, early and late."""
    figure, axis = _canvas(1.9 + 0.75 * int((counts > 0).sum()), 4.2)
    groups = _groups(counts, config)
    order = [int(k) for k in np.argsort(-counts, kind="stable") if counts[k] > 0]
    rounds = sorted({int(row["round"]) for row in rows})
    early, late = rounds[min(1, len(rounds) - 1)], rounds[-1]  # in the first one the projector is still random
    handles = []
    for round_, marker in ((early, "^"), (late, "o")) if early != late else ((late, "o"),):
        here = [row for row in rows if int(row["round"]) == round_]
        for place, k in enumerate(order):
            values = [float(row[f"w-{k}"]) for row in here if float(row.get(f"w-{k}", 0)) > 0]
            colour = [np.array(GROUP_COLOURS[groups[config.labels[k]]]) / 255]
            at = place + (-0.14 if marker == "^" else 0.14)
            axis.scatter([at] * len(values), values, s=12, color=colour, alpha=0.45, linewidths=0, marker=marker)
            if values:
                axis.scatter([at], [np.mean(values)], s=58, color=colour, edgecolors="black", marker=marker, zorder=3)
        handles.append(axis.scatter([], [], color="white", edgecolors="black", marker=marker, label=f"round {round_}"))
    for group, colour_ in GROUP_COLOURS.items():
        if group in {groups[config.labels[k]] for k in order}:
            handles.append(axis.scatter([], [], color=[np.array(colour_) / 255], marker="s", label=f"{group} class"))
    axis.set_xticks(range(len(order)), [f"{config.labels[k]}\n{counts[k]}" for k in order])
    if max(len(config.labels[k]) for k in order) > 8:
        axis.tick_params(axis="x", rotation=60)
    axis.set_xlim(-0.6, len(order) - 0.4)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("class and its training images, all clients")
    axis.set_ylabel("distance to the prior, w_k")
    axis.set_title("distance of the global model to the prior (large: mean over the clients)", size=11, loc="left")
    axis.grid(axis="y", color="0.9")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(handles=handles, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
    return _png(figure)


def _groups(counts: Int[np.ndarray, " k"], config: FedMASConfig) -> dict[str, str]:
    from dataclasses import replace

    return replace(config, class_counts=tuple(int(n) for n in counts)).groups


def _canvas(width: float, height: float) -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("the figures of a training", "matplotlib", "train") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150, metadata={"Software": None})
    return file.getvalue()
