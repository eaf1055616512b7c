"""A claim's result as one picture."""

from __future__ import annotations

import io
import math
import textwrap
from typing import Any

from zoo.claims.report import count_seeds, title
from zoo.claims.types import ClaimResult, Compared
from zoo.errors import MissingExtraError


def figure(result: ClaimResult) -> bytes:
    """A PNG: left each seed's path through the arms, right the differences with their intervals."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("the plot of a claim", "matplotlib", "train") from error

    compared = [result.primary, *result.secondary]
    canvas = Figure(figsize=(11, max(3.8, 1.4 + 0.8 * len(compared))), layout="constrained")
    FigureCanvasAgg(canvas)
    halves: Any = canvas.subfigures(1, 2, width_ratios=[1, 1.15])
    left, right = halves
    _draw_arms(left.subplots(), result)
    # an axis for each: the differences of two metrics have no common scale
    for axis, item in zip(right.subplots(len(compared), 1, squeeze=False)[:, 0], compared, strict=True):
        _draw_comparison(axis, item)
    right.suptitle("differences by seed with 95 % interval; positive is better, dotted: limit", size=10)
    quick = ", quick run" if result.quick else ""
    canvas.suptitle(f"{result.model}: {result.verdict} ({count_seeds(result)}{quick})", size=12)
    file = io.BytesIO()
    canvas.savefig(file, format="png", dpi=150, metadata={"Software": None})
    return file.getvalue()


def _draw_arms(axis: Any, result: ClaimResult) -> None:
    metric, arms = result.claim.primary.metric, list(result.claim.arms)
    series = {arm: result.values(arm, metric) for arm in arms}
    for place in range(len(result.results)):
        axis.plot(range(len(arms)), [series[arm][place] for arm in arms], color="0.75", linewidth=1, zorder=1)
    for place, arm in enumerate(arms):
        known = [value for value in series[arm] if math.isfinite(value)]
        axis.scatter([place] * len(known), known, s=22, color="#0072B2", zorder=2)
        if known:
            mean = sum(known) / len(known)
            axis.plot([place - 0.22, place + 0.22], [mean, mean], color="black", linewidth=2.5, zorder=3)
    axis.set_xticks(range(len(arms)), arms, rotation=25, ha="right")
    axis.set_xlim(-0.5, len(arms) - 0.5)
    axis.set_ylabel(metric)
    axis.set_title("arms: dots are seeds, bars their means", size=10)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="0.92", zorder=0)


def _draw_comparison(axis: Any, item: Compared) -> None:
    colour = {"supported": "#009E73", "not supported": "#D55E00", "inconclusive": "#999999"}[item.verdict]
    mark = {"supported": "o", "not supported": "X", "inconclusive": "s"}[item.verdict]  # told apart without colour, too
    axis.axvline(0, color="black", linewidth=0.8)
    axis.scatter(item.differences, [-0.25] * len(item.differences), s=12, color="0.5", zorder=2)
    if math.isfinite(item.low):
        axis.plot([item.low, item.high], [0.1, 0.1], color=colour, linewidth=2.5, zorder=3)
    if math.isfinite(item.mean):
        axis.scatter([item.mean], [0.1], s=60, color=colour, marker=mark, edgecolors="black", linewidths=0.8, zorder=4)
    if limit := item.comparison.margin or -item.comparison.tolerance:
        axis.axvline(limit, color="black", linestyle=":")
    name = textwrap.fill(title(item.comparison), 38)  # a long one would take the place of the numbers
    axis.set_yticks([0], [f"{name}\n{item.verdict}"], size=9)
    axis.set_ylim(-0.5, 0.5)
    axis.margins(x=0.08)
    axis.locator_params(axis="x", nbins=5)
    axis.tick_params(axis="x", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="x", color="0.92", zorder=0)
