"""A claim's result as one picture."""

from __future__ import annotations

import textwrap

from zoo.claims.report import count_seeds, title
from zoo.claims.result import ClaimResult
from zoo.figure import colour, plots

# colour and marker: told apart without colour, too
_VERDICTS = {
    "supported": (colour(3), "o"),
    "not supported": (colour(6), "X"),
    "inconclusive": ((153, 153, 153), "s"),
}


def figure(result: ClaimResult) -> bytes:
    """A PNG: left each seed's path through the arms, right the differences with their intervals."""
    compared = result.compared
    quick = ", quick run" if result.quick else ""
    # an axis for each comparison: the differences of two metrics have no common scale
    drawing, left, right = plots.halves(
        "the plot of a claim", len(compared), size=(11, max(3.8, 1.4 + 0.8 * len(compared))), widths=(1, 1.15),
        title=f"{result.model}: {result.verdict} ({count_seeds(result)}{quick})",
        right="differences by seed with 95 % interval; positive is better, dotted: limit",
    )  # fmt: skip
    metric, arms = result.claim.primary.metric, list(result.claim.arms)
    series = [result.values(arm, metric) for arm in arms]
    plots.paths(left, arms, series, y=metric, title="arms: dots are seeds, bars their means")
    for axis, item in zip(right, compared, strict=True):
        name = textwrap.fill(title(item.comparison), 38)  # a long one would take the place of the numbers
        ink, marker = _VERDICTS[item.verdict]
        shown = plots.Interval(f"{name}\n{item.verdict}", item.mean, item.low, item.high, item.differences, ink, marker)
        plots.difference(axis, shown, item.comparison.margin or -item.comparison.tolerance)
    return plots.png(drawing)
