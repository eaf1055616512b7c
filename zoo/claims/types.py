"""What a claim is, and what running it found; both as data that JSON can hold."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from zoo.claims.statistics import Verdict, judge
from zoo.text import finite

FORMAT = 1


@dataclass(frozen=True)
class Comparison:
    """``method`` beats ``baseline`` on ``metric``: by ``margin`` at least, ``direction`` says which way is better.

    With a ``tolerance`` above 0 it need not beat the baseline, only be worse by less than that (non-inferiority).
    ``readings``: what each verdict means, in one sentence, printed beside it. ``headline``: this reading stands
    wherever the verdict of the claim is quoted, such as in a table of all models; the primary comparison's always does.
    """

    method: str
    baseline: str
    metric: str
    direction: Literal["greater", "less"] = "greater"
    margin: float = 0.0
    tolerance: float = 0.0
    readings: Mapping[Verdict, str] = field(default_factory=dict)
    headline: bool = False


@dataclass(frozen=True)
class Claim:
    """What a paper says, and how it's tested again.

    ``arms``: name to one line about it. ``paper``: the paper's own numbers, by arm and metric, where it has them.
    ``run``: ``"package.module:function"``, called as ``function(seed, quick=...)``; it trains and measures every arm
    on the same data and initialisation and returns ``{arm: {metric: number}}``. ``quick`` asks for the smallest run
    that goes through all the code.
    """

    statement: str
    data: str
    arms: Mapping[str, str]
    run: str
    primary: Comparison
    falsified_if: str
    secondary: tuple[Comparison, ...] = ()
    paper: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)

    def __post_init__(self) -> None:
        for comparison in (self.primary, *self.secondary):
            for arm in (comparison.method, comparison.baseline):
                if arm not in self.arms:
                    raise ValueError(f"a comparison names the arm {arm!r}, which the claim doesn't have")
            if comparison.margin < 0 or comparison.tolerance < 0:
                raise ValueError("a margin can't be negative; choose the direction instead")
            if comparison.margin and comparison.tolerance:
                raise ValueError("a comparison has a margin or a tolerance, not both")
        if unknown := self.paper.keys() - self.arms.keys():
            raise ValueError(f"the paper's numbers name the arm {sorted(unknown)[0]!r}, which the claim doesn't have")
        if len(set(self.seeds)) != len(self.seeds) or not self.seeds:
            raise ValueError("a claim needs seeds, each once")

    def to_dict(self) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(self)))


@dataclass(frozen=True)
class Compared:
    """A comparison with its outcome. Differences are method minus baseline, turned so that positive is better."""

    comparison: Comparison
    differences: tuple[float, ...]  # one per seed
    mean: float
    low: float
    high: float
    p_t: float
    p_sign: float
    verdict: Verdict
    reason: str

    @property
    def reading(self) -> str:
        return self.comparison.readings.get(self.verdict, "")


@dataclass(frozen=True)
class ClaimResult:
    """All that a reproduction found; ``results`` is seed to arm to metric to number."""

    model: str
    claim: Claim
    results: Mapping[int, Mapping[str, Mapping[str, float]]]
    wall_seconds: Mapping[int, float]
    quick: bool
    complete: bool
    environment: Mapping[str, Any]
    source: str  # digest of the plugin's code

    @property
    def primary(self) -> Compared:
        return compare(self.claim.primary, self.results, self.quick)

    @property
    def secondary(self) -> tuple[Compared, ...]:
        return tuple(compare(comparison, self.results, self.quick) for comparison in self.claim.secondary)

    @property
    def verdict(self) -> Verdict:
        return self.primary.verdict

    @property
    def metrics(self) -> list[str]:
        """The names of all metrics, that of the primary comparison first."""
        names = {self.claim.primary.metric: None}
        for arms in self.results.values():
            for scores in arms.values():
                names.update(dict.fromkeys(scores))
        return list(names)

    def values(self, arm: str, metric: str) -> list[float]:
        """Of an arm, one per seed in order of seeds; NaN where it's missing."""
        return [self.results[seed].get(arm, {}).get(metric, math.nan) for seed in sorted(self.results)]

    def to_dict(self) -> dict[str, Any]:
        outcome = [
            {
                **asdict(item.comparison),
                "differences": list(item.differences),
                "mean": item.mean,
                "interval": [item.low, item.high],
                "p_paired_t": item.p_t,
                "p_sign": item.p_sign,
                "verdict": item.verdict,
                "reason": item.reason,
            }
            for item in (self.primary, *self.secondary)
        ]
        record = {
            "format": FORMAT,
            "model": self.model,
            "verdict": self.verdict,
            "reason": self.primary.reason,
            "complete": self.complete,
            "quick": self.quick,
            "claim": self.claim.to_dict(),
            "comparisons": outcome,
            "seeds": sorted(self.results),
            "results": {str(seed): self.results[seed] for seed in sorted(self.results)},
            "wall_seconds": {str(seed): round(self.wall_seconds[seed], 2) for seed in sorted(self.wall_seconds)},
            "environment": dict(self.environment),
            "source": self.source,
        }
        return finite(record)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> ClaimResult:
        """The result that ``to_dict`` wrote. Raises ``ValueError``, ``KeyError`` or ``TypeError`` if it's not one."""
        if record["format"] != FORMAT:
            raise ValueError(f"format {record['format']} is not {FORMAT}")
        claim = dict(record["claim"])
        results = {
            int(seed): {a: {m: math.nan if v is None else v for m, v in scores.items()} for a, scores in arms.items()}
            for seed, arms in record["results"].items()
        }
        return cls(
            model=record["model"],
            claim=Claim(
                **{
                    **claim,
                    "primary": Comparison(**claim["primary"]),
                    "secondary": tuple(Comparison(**item) for item in claim["secondary"]),
                    "seeds": tuple(claim["seeds"]),
                }
            ),
            results=results,
            wall_seconds={int(seed): seconds for seed, seconds in record["wall_seconds"].items()},
            quick=record["quick"],
            complete=record["complete"],
            environment=record["environment"],
            source=record["source"],
        )


def compare(
    comparison: Comparison, results: Mapping[int, Mapping[str, Mapping[str, float]]], quick: bool = False
) -> Compared:
    """The outcome of a comparison, paired by seed; see ``zoo.claims.statistics`` for the rule."""
    sign = 1.0 if comparison.direction == "greater" else -1.0

    def value(seed: int, arm: str) -> float:
        return float(results[seed].get(arm, {}).get(comparison.metric, math.nan))

    differences = tuple(
        sign * (value(seed, comparison.method) - value(seed, comparison.baseline)) for seed in sorted(results)
    )
    judged = judge(differences, comparison.metric, comparison.margin, comparison.tolerance, quick)
    return Compared(comparison, differences, *judged)
