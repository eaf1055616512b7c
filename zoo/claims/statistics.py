"""From paired differences to a verdict.

**The rule.** Let d be the difference between method and baseline in the claimed direction, one value per seed, and
[low, high] the 95 % interval of its mean from the paired t distribution. The primary comparison is

- *supported* if mean d is at least the claim's margin and low > 0;
- *not supported* if mean d <= 0, or high is below the margin;
- *inconclusive* otherwise: fewer than three seeds, a value that isn't finite, a gain below the margin that the
  margin's interval still covers, or one that chance could have made. A quick run is always inconclusive.

A comparison with a ``tolerance`` asks for non-inferiority instead: *supported* if low > -tolerance, *not supported* if
mean d <= -tolerance, *inconclusive* otherwise.

The p values (paired t, and sign test) are two-sided and reported beside the verdict; they don't enter it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from zoo.errors import MissingExtraError

Verdict = Literal["supported", "not supported", "inconclusive"]
MIN_SEEDS = 3


class Judged(NamedTuple):
    """Mean and 95 % interval of the differences, p of the paired t test and of the sign test, and what follows."""

    mean: float
    low: float
    high: float
    p_t: float
    p_sign: float
    verdict: Verdict
    reason: str


def judge(
    differences: Sequence[float], metric: str, margin: float = 0.0, tolerance: float = 0.0, quick: bool = False
) -> Judged:
    """Apply the rule to one difference per seed, each turned so that positive is better."""
    if not differences or not all(math.isfinite(d) for d in differences):
        reason = "no seed has been run" if not differences else f"{metric} is not finite for some seed"
        return Judged(math.nan, math.nan, math.nan, math.nan, math.nan, "inconclusive", reason)
    mean, low, high, p_t, p_sign = paired(differences)
    if tolerance and not quick and len(differences) >= MIN_SEEDS:
        verdict, reason = _non_inferior(mean, low, tolerance)
    else:
        verdict, reason = _superior(mean, low, high, len(differences), margin, quick)
    return Judged(mean, low, high, p_t, p_sign, verdict, reason)


def paired(differences: Sequence[float]) -> tuple[float, float, float, float, float]:
    """Mean of paired differences, its 95 % interval, and two-sided p of the paired t test and of the sign test.

    Interval and p of t are NaN for fewer than two differences. Equal differences have no spread: an interval of one
    point, and p is 0, or 1 if they are all zero.
    """
    try:
        from scipy import stats
    except ImportError as error:
        raise MissingExtraError("reproducing a claim", "scipy", "train") from error
    n = len(differences)
    mean = math.fsum(differences) / n
    positive = sum(d > 0 for d in differences)
    unequal = sum(d != 0 for d in differences)
    p_sign = float(stats.binomtest(positive, unequal).pvalue) if unequal else 1.0
    if n < 2:
        return mean, math.nan, math.nan, math.nan, p_sign
    if max(differences) - min(differences) <= 1e-12 * max(1.0, abs(mean)):
        return mean, mean, mean, 0.0 if mean else 1.0, p_sign
    test = stats.ttest_1samp(differences, 0.0)  # the paired t test, of differences
    interval = test.confidence_interval(0.95)
    return mean, float(interval.low), float(interval.high), float(test.pvalue), p_sign


def _superior(mean: float, low: float, high: float, n: int, margin: float, quick: bool) -> tuple[Verdict, str]:
    if quick:
        return "inconclusive", "a quick run only shows that the machinery works"
    if n < MIN_SEEDS:
        return "inconclusive", f"{n} seeds are too few; at least {MIN_SEEDS} are needed"
    if mean <= 0:
        return "not supported", "the method is not better than the baseline"
    if high < margin:
        return "not supported", f"the gain is below the claimed margin of {margin:g}"
    if low <= 0:
        return "inconclusive", "the interval of the gain includes zero"
    if mean < margin:
        return "inconclusive", f"there is a gain, but its mean is below the claimed margin of {margin:g}"
    return "supported", "the gain reaches the margin and its interval lies above zero"


def _non_inferior(mean: float, low: float, tolerance: float) -> tuple[Verdict, str]:
    if mean <= -tolerance:
        return "not supported", f"the method is worse than the baseline by {tolerance:g} or more"
    if low <= -tolerance:
        return "inconclusive", f"the interval of the difference includes -{tolerance:g}, the tolerance"
    return "supported", f"the interval of the difference lies above -{tolerance:g}, the tolerance"
