"""Charts of trainings, evaluations and claims. The one place that knows matplotlib, which the extra ``train`` brings.

``canvas`` gives axes, the functions here draw on them, ``png`` or ``picture`` makes the file::

    drawing, axes = plots.canvas("the chart of a training", 1, 2, size=(9, 4))
    plots.lines(axes[0, 0], [Line("loss", steps, loss)], title="loss", x="step")
    data = plots.png(drawing)
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from zoo.errors import MissingExtraError
from zoo.figure.layout import OKABE_ITO, RGB, colour

if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:
    Figure = Any  # of the extra `train`

INKS = tuple(colour(label) for label in (5, 1, 3, 6, 2, 7))  # yellow is too faint for a line
INKS = (*INKS, (0, 0, 0), (140, 109, 0))
DASHES = ("-", "--", ":", "-.")
FILLS = tuple(colour(label) for label in (5, 1, 3, 7, 2, 6, 4))
HATCHES = ("", "///", "...", "xxx")
GREY = (150, 150, 150)


@dataclass(frozen=True)
class Line:
    """A line through ``y`` over ``x``; ``band`` is filled between a lower and an upper line."""

    name: str
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    ink: RGB | None = None
    dash: str = ""
    width: float = 1.8
    marker: str = ""
    band: tuple[Any, Any] | None = None
    band_name: str = ""


@dataclass(frozen=True)
class Points:
    """A set of points ``[n 2]``."""

    name: str
    xy: Any
    ink: RGB
    marker: str = "o"
    size: float = 46
    faint: bool = False


@dataclass(frozen=True)
class Interval:
    """A number with its interval, above the ``values`` it is the mean of; what isn't finite isn't drawn."""

    name: str
    mean: float
    low: float
    high: float
    values: Sequence[float] = ()
    ink: RGB = OKABE_ITO[6]
    marker: str = "o"


def canvas(
    needed_by: str, rows: int = 1, columns: int = 1, *, size: tuple[float, float], title: str = "",
    widths: Sequence[float] | None = None,
) -> tuple[Figure, Any]:  # fmt: skip
    """A figure of ``size`` inches and its axes ``[rows columns]``.

    Raises ``MissingExtraError`` where matplotlib isn't installed; ``needed_by`` begins the sentence.
    """
    drawing = _figure(needed_by, size)
    if title:
        drawing.suptitle(title, size=11)
    return drawing, drawing.subplots(rows, columns, squeeze=False, width_ratios=widths)


def halves(
    needed_by: str, rows: int, *, size: tuple[float, float], title: str, right: str, widths: tuple[float, float]
) -> tuple[Figure, Any, Any]:
    """A figure with one axis on the left and ``rows`` of them on the right, which have a title of their own."""
    drawing = _figure(needed_by, size)
    first, second = drawing.subfigures(1, 2, width_ratios=widths)  # type: ignore[misc]
    drawing.suptitle(title, size=12)
    second.suptitle(right, size=10)
    return drawing, first.subplots(), second.subplots(rows, 1, squeeze=False)[:, 0]


def _figure(needed_by: str, size: tuple[float, float]) -> Figure:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(needed_by, "matplotlib", "train") from error
    drawing = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(drawing)
    return drawing


def png(drawing: Figure, dpi: int = 150) -> bytes:
    """The same drawing gives the same bytes."""
    file = io.BytesIO()
    drawing.savefig(file, format="png", dpi=dpi, metadata={"Software": None})
    return file.getvalue()


def picture(drawing: Figure, dpi: int = 100) -> Image.Image:
    return Image.open(io.BytesIO(png(drawing, dpi))).convert("RGB")


def dress(
    axis: Any, *, title: str = "", x: str = "", y: str = "", xlim: Any = None, ylim: Any = None, log: bool = False,
    headroom: float = 0.0, whole: bool = False, grid: str = "both", legend: str = "", heading: str = "", least: int = 1,
) -> None:  # fmt: skip
    """Titles, limits and legend of an axis, and the look they all share.

    ``headroom``: share of a logarithmic axis left free for the legend. ``whole``: only whole numbers at x. ``legend``:
    ``outside``, ``below``, or a corner of the axis; with fewer than ``least`` entries there is none.
    """
    from matplotlib.ticker import FuncFormatter

    axis.set_title(title, size=10)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    if log:
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(FuncFormatter(_round_number))
        axis.yaxis.set_minor_formatter(FuncFormatter(_round_number))
        low, high = axis.get_ylim()
        axis.set_ylim(low, high * (high / low) ** headroom)
    if xlim is not None:
        axis.set_xlim(xlim)
    if ylim is not None:
        axis.set_ylim(ylim)
    if whole:
        axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    if grid:
        axis.grid(axis=grid, color="0.92")
    handles, names = axis.get_legend_handles_labels()
    if legend and len(names) >= least:
        place: dict[str, Any] = {"loc": legend}
        if legend == "outside":
            place = {"loc": "center left", "bbox_to_anchor": (1.02, 0.5), "frameon": False}
        elif legend == "below":
            place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.17), "frameon": False, "ncols": 2}
        size = 9 if legend == "outside" else 8
        axis.legend(handles, names, fontsize=size, title=heading or None, title_fontsize=size, **place)


def _round_number(value: float, _: int) -> str:
    """1, 2 and 5 times powers of ten are named on a logarithmic axis, and nothing else."""
    return f"{value:g}" if f"{value:e}"[0] in "125" else ""


def lines(axis: Any, some: Sequence[Line], *, level: float | None = None, target: str = "", **look: Any) -> None:
    """Lines over a common x, told apart by colour, then by dashes; ``level`` is a line to compare with.

    ``look`` goes to :func:`dress`, here and below.
    """
    for place, line in enumerate(some):
        ink = line.ink or INKS[place % len(INKS)]
        dash = line.dash or ("-" if line.ink else DASHES[place // len(INKS) % len(DASHES)])
        if line.band is not None:
            axis.fill_between(line.x, *line.band, color=_rgb(ink), alpha=0.2, linewidth=0, label=line.band_name)
        axis.plot(line.x, line.y, color=_rgb(ink), linestyle=dash, linewidth=line.width, marker=line.marker,
                  markersize=4, label=line.name)  # fmt: skip
    if level is not None:
        axis.axhline(level, color="black" if target else "0.7", linestyle=":" if target else "-", linewidth=1, zorder=0)
        axis.text(0.03, level, target, va="bottom", size=9, transform=axis.get_yaxis_transform())
    dress(axis, **look)


def scatter(
    axis: Any, sets: Sequence[Points], *, circle: float | None = None, circle_name: str = "",
    names: Sequence[str] | None = None, square: bool = False, **look: Any,
) -> None:  # fmt: skip
    """Sets of points. ``circle``: radius of one around the origin; ``names``: of the places 0, 1, ... along x.

    ``square``: both axes have one scale, with everything and a margin inside.
    """
    for one in sets:
        xy = np.asarray(one.xy, float).reshape(-1, 2)
        style = {"alpha": 0.45, "linewidths": 0} if one.faint else {"edgecolors": "black", "linewidths": 0.7}
        axis.scatter(xy[:, 0], xy[:, 1], s=one.size, color=[_rgb(one.ink)], marker=one.marker,
                     zorder=2 if one.faint else 3, label=one.name or None, **style)  # fmt: skip
    if circle is not None:
        turn = np.linspace(0, 2 * np.pi, 200)
        axis.plot(circle * np.cos(turn), circle * np.sin(turn), linestyle=":", color="black", label=circle_name)
    if names is not None:
        axis.set_xticks(range(len(names)), names)
        axis.set_xlim(-0.6, len(names) - 0.4)
        if max(len(line) for name in names for line in name.splitlines()) > 8:
            axis.tick_params(axis="x", rotation=60)
    if square:
        every = [np.asarray(one.xy, float).reshape(-1, 2) for one in sets]
        every += [] if circle is None else [np.array([[circle, circle], [-circle, -circle]])]
        low, high = np.concatenate(every).min(0), np.concatenate(every).max(0)
        centre, half = (low + high) / 2, 0.55 * float(max(*(high - low), 1e-12))
        axis.set_aspect("equal")
        look = {"xlim": (centre[0] - half, centre[0] + half), "ylim": (centre[1] - half, centre[1] + half), **look}
    dress(axis, **look)


def upright(
    axis: Any, values: Sequence[float], kinds: Mapping[str, Sequence[int]], inks: Sequence[RGB], **look: Any
) -> None:
    """One bar for each place 0, 1, ...; ``kinds``: by name the places that share a colour and a hatch."""
    for (name, places), ink, hatch in zip(kinds.items(), inks, ("", "//", "..", "xx"), strict=False):
        axis.bar(list(places), [values[place] for place in places], color=[_rgb(ink)], edgecolor="black",
                 linewidth=0.6, hatch=hatch, label=name)  # fmt: skip
    axis.set_xticks(range(len(values)))
    dress(axis, **{"ylim": (0, (max(values) or 1) * 1.3), **look})


def stacked(axis: Any, names: Sequence[str], counts: Mapping[str, Sequence[float]], **look: Any) -> None:
    """A lying bar for each name, stacked by kind, with its total at the end; the legend stands beside the axes."""
    left = np.zeros(len(names))
    for k, (kind, some) in enumerate(counts.items()):
        ink, hatch = FILLS[k % len(FILLS)], HATCHES[k // len(FILLS) % len(HATCHES)]
        axis.barh(range(len(names)), some, left=left, color=[_rgb(ink)], hatch=hatch, edgecolor="white", label=kind)
        left += np.asarray(some)
    for place, total in enumerate(left):
        axis.annotate(f"{total:g}", (total, place), xytext=(4, 0), textcoords="offset points", va="center")
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    dress(axis, **{"xlim": (0, max(left.max(), 1) * 1.08), "grid": "x", **look})


def paths(axis: Any, names: Sequence[str], series: Sequence[Sequence[float]], **look: Any) -> None:
    """Repeats through several arms: ``series`` by name; dots are repeats, joined by lines, bars are their means."""
    axis.plot(range(len(names)), np.asarray(series, float), color="0.75", linewidth=1, zorder=1)
    for place, some in enumerate(series):
        known = [value for value in some if math.isfinite(value)]
        axis.scatter([place] * len(known), known, s=22, color=[_rgb(INKS[0])], zorder=2)
        if known:
            mean = sum(known) / len(known)
            axis.plot([place - 0.22, place + 0.22], [mean, mean], color="black", linewidth=2.5, zorder=3)
    axis.set_xticks(range(len(names)), names, rotation=25, ha="right")
    dress(axis, **{"xlim": (-0.5, len(names) - 0.5), "grid": "y", **look})


def intervals(axis: Any, some: Sequence[Interval], *, numbers: bool = True, **look: Any) -> None:
    """A forest plot: a line for each number with the values it comes from as dots, its interval, and itself."""
    rng = np.random.default_rng(0)
    for place, one in enumerate(some):
        spread = place + rng.uniform(-0.16, 0.16, len(one.values))
        axis.scatter(one.values, spread, s=14, color=[_rgb(INKS[4])], alpha=0.7, linewidths=0, zorder=2)
        if math.isfinite(one.low):
            axis.plot([one.low, one.high], [place, place], color="black", linewidth=2.5, zorder=3)
        axis.scatter([one.mean], [place], s=46, color=[_rgb(one.ink)], marker=one.marker, edgecolors="black",
                     linewidths=0.8, zorder=4)  # fmt: skip
        if numbers:
            axis.annotate(f"{one.mean:.3f}", (1.02, place), xycoords=("axes fraction", "data"), va="center", size=9)
    axis.set_yticks(range(len(some)), [one.name for one in some])
    bounds = [bound for one in some for bound in (one.mean, one.low, one.high) if math.isfinite(bound)]
    if bounds and all(-0.001 <= bound <= 1.001 for bound in bounds):
        look = {"xlim": (-0.02, 1.02), **look}
    dress(axis, **{"ylim": (len(some) - 0.5, -0.5), "grid": "x", **look})


def difference(axis: Any, item: Interval, limit: float | None = None) -> None:
    """One difference about zero: the repeats as dots below, mean and interval above, ``limit`` as a dotted line."""
    axis.axvline(0, color="black", linewidth=0.8)
    axis.scatter(item.values, [-0.25] * len(item.values), s=12, color="0.5", zorder=2)
    if math.isfinite(item.low):
        axis.plot([item.low, item.high], [0.1, 0.1], color=_rgb(item.ink), linewidth=2.5, zorder=3)
    if math.isfinite(item.mean):
        axis.scatter([item.mean], [0.1], s=60, color=[_rgb(item.ink)], marker=item.marker, edgecolors="black",
                     linewidths=0.8, zorder=4)  # fmt: skip
    if limit:
        axis.axvline(limit, color="black", linestyle=":")
    axis.set_yticks([0], [item.name], size=9)
    axis.margins(x=0.08)
    axis.locator_params(axis="x", nbins=5)
    axis.tick_params(axis="x", labelsize=8)
    dress(axis, ylim=(-0.5, 0.5), grid="x")


def confusion(axis: Any, counts: Int[np.ndarray, "k k"], names: Sequence[str], **look: Any) -> None:
    """How often each true class was given which name; shades are shares of the true class."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axis.imshow(shares, cmap="cividis", vmin=0, vmax=1)
    for i, j in np.ndindex(counts.shape):
        axis.text(j, i, str(counts[i, j]), ha="center", va="center", color="black" if shares[i, j] > 0.5 else "white")
    axis.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axis.set_yticks(range(len(names)), names)
    dress(axis, **{"x": "predicted", "y": "truth", "grid": "", **look})


def histogram(axis: Any, groups: Mapping[str, Float[np.ndarray, " n"]], bins: int = 30, **look: Any) -> None:
    """Values of several groups in common bins, outlined so that none hides another."""
    every = np.concatenate([np.asarray(values, float) for values in groups.values()])
    edges = np.histogram_bin_edges(every[np.isfinite(every)], bins)
    for place, (name, values) in enumerate(groups.items()):
        ink, dash = _rgb(INKS[place % len(INKS)]), DASHES[place % len(DASHES)]
        axis.hist(values, edges, histtype="stepfilled", color=ink, alpha=0.15)
        axis.hist(values, edges, histtype="step", color=ink, linestyle=dash, linewidth=1.8, label=name)
    dress(axis, **{"y": "count", "legend": "best", "least": 2, **look})


def message(axis: Any, text: str, **look: Any) -> None:
    """A sentence in place of a chart."""
    axis.text(0.5, 0.5, text, ha="center", va="center", color="0.3", transform=axis.transAxes)
    dress(axis, **{"grid": "", **look})
    axis.set_axis_off()


def _rgb(ink: RGB) -> tuple[float, ...]:
    return tuple(part / 255 for part in ink)
