"""From paired differences to a verdict.

**The rule.** Let d be the difference between method and baseline in the claimed direction, one value per seed, and
[low, high] the interval of its mean from the paired t distribution. The claimed bound is the comparison's margin, or
minus its tolerance. The comparison is

- *supported* if low lies above the bound;
- *not supported* if high doesn't: the interval excludes the claimed gain; or, with an ``equivalence``, if the whole
  interval lies within it on both sides of zero;
- *inconclusive* otherwise, with fewer than three seeds, and where a value isn't finite. A quick run always is.

**Several comparisons.** The primary one is named in advance and judged by the 95 % interval. The secondary ones are a
family, corrected by Holm's method: the k-th smallest of m p values is held against 0.05 / (m - k + 1), and the first
that fails ends it. The interval that decides is the one of that level; tables show the 95 % one and the corrected p.

**Seeds that split one set again** share test cases and training cases, and their spread is too small. The variance of
the mean is then s^2 (1/n + r) with r the share of ``Comparison.resplit`` (Nadeau and Bengio 2003, Sec. 3), not s^2 / n.

The sign test is two-sided and reported beside the verdict; it doesn't enter it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from zoo.claims.types import Comparison, Verdict
from zoo.errors import MissingExtraError

MIN_SEEDS = 3
ALPHA = 0.05

Results = Mapping[int, Mapping[str, Mapping[str, float]]]


@dataclass(frozen=True)
class Compared:
    """A comparison with its outcome. Differences are method minus baseline, turned so that positive is better."""

    comparison: Comparison
    differences: tuple[float, ...]  # one per seed
    mean: float
    low: float  # of the 95 % interval
    high: float
    p_t: float  # two-sided, of the claimed bound; of a secondary comparison corrected for the others
    p_sign: float
    verdict: Verdict
    reason: str

    @property
    def reading(self) -> str:
        return self.comparison.readings.get(self.verdict, "")


class Paired(NamedTuple):
    """Of paired differences: mean, interval of the mean, p of the t test against a bound, and p of the sign test."""

    mean: float
    low: float
    high: float
    p_t: float
    p_sign: float


def paired(differences: Sequence[float], *, level: float = ALPHA, bound: float = 0.0, resplit: float = 0.0) -> Paired:
    """The statistics of differences; p values are two-sided.

    Interval and p of t are NaN for fewer than two differences. Equal differences have no spread: an interval of one
    point, and p is 0, or 1 if they are all at the bound.
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
        return Paired(mean, math.nan, math.nan, math.nan, p_sign)
    if max(differences) - min(differences) <= 1e-12 * max(1.0, abs(mean)):
        return Paired(mean, mean, mean, 0.0 if abs(mean - bound) > 1e-12 else 1.0, p_sign)
    variance = math.fsum((d - mean) ** 2 for d in differences) / (n - 1)
    spread = math.sqrt(variance * (1 / n + resplit))  # of the mean
    reach = float(stats.t.ppf(1 - level / 2, n - 1)) * spread
    p_t = float(2 * stats.t.sf(abs(mean - bound) / spread, n - 1))
    return Paired(mean, mean - reach, mean + reach, p_t, p_sign)


def compare_all(comparisons: Sequence[Comparison], results: Results, quick: bool = False) -> list[Compared]:
    """The outcome of all comparisons of a claim, the primary one first, by the rule above."""
    differences = [_differences(one, results) for one in comparisons]
    found = [_statistics(one, values) for one, values in zip(comparisons, differences, strict=True)]
    p_values, levels = holm([one.p_t for one in found[1:]])
    pairs = zip(comparisons, differences, found, [found[0].p_t, *p_values], [ALPHA, *levels], strict=True)
    return [_judged(one, values, stats, p, level, quick) for one, values, stats, p, level in pairs]


def holm(p_values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Holm's corrected p, and the level that each test is held against. What is NaN isn't counted, and stays NaN."""
    order = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    corrected, levels = list(p_values), [ALPHA] * len(p_values)
    largest, stopped = 0.0, 0.0
    for rank, (p, place) in enumerate(order):
        left = len(order) - rank
        largest = max(largest, min(1.0, left * p))
        corrected[place] = largest
        levels[place] = stopped or ALPHA / left
        if largest >= ALPHA and not stopped:
            stopped = ALPHA / left
    return corrected, levels


def _differences(comparison: Comparison, results: Results) -> tuple[float, ...]:
    sign = 1.0 if comparison.direction == "greater" else -1.0

    def value(seed: int, arm: str) -> float:
        return float(results[seed].get(arm, {}).get(comparison.metric, math.nan))

    pairs = ((value(seed, comparison.method), value(seed, comparison.baseline)) for seed in sorted(results))
    return tuple(sign * (method - baseline) for method, baseline in pairs)


def _bound(comparison: Comparison) -> float:
    return comparison.margin or -comparison.tolerance


def _statistics(comparison: Comparison, differences: Sequence[float], level: float = ALPHA) -> Paired:
    if not differences or not all(map(math.isfinite, differences)):
        return Paired(*[math.nan] * 5)
    return paired(differences, level=level, bound=_bound(comparison), resplit=comparison.resplit)


def _judged(
    comparison: Comparison, differences: tuple[float, ...], found: Paired, p: float, level: float, quick: bool
) -> Compared:
    wide = _statistics(comparison, differences, level)
    verdict, reason = _verdict(comparison, differences, found, wide, quick)
    return Compared(comparison, differences, found.mean, found.low, found.high, p, found.p_sign, verdict, reason)


def _verdict(
    comparison: Comparison, differences: Sequence[float], found: Paired, wide: Paired, quick: bool
) -> tuple[Verdict, str]:
    if not differences:
        return "inconclusive", "no seed has been run"
    if math.isnan(found.mean):
        return "inconclusive", f"{comparison.metric} is not finite for some seed"
    if quick:
        return "inconclusive", "a quick run only shows that the machinery works"
    if len(differences) < MIN_SEEDS:
        return "inconclusive", f"{len(differences)} seeds are too few; at least {MIN_SEEDS} are needed"
    bound, equal = _bound(comparison), comparison.equivalence
    what = f"{bound:g}, the tolerance" if comparison.tolerance else f"{bound:g}, the margin" if bound else "zero"
    if wide.low > bound:
        return "supported", f"the interval of the difference lies above {what}"
    if wide.high <= bound:
        return "not supported", f"the interval of the difference excludes the claimed gain: it ends below {what}"
    if equal and -equal < wide.low and wide.high < equal:
        return "not supported", f"the interval of the difference lies within {equal:g} of zero: no gain that matters"
    if found.low > bound or found.high <= bound:
        return "inconclusive", f"the interval excludes {what}, but not after correction for the other comparisons"
    return "inconclusive", f"the interval of the difference includes {what}"
