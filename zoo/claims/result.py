"""What running a claim found, as data that JSON can hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

from zoo.claims import budget, digests
from zoo.claims.statistics import Compared, Results, compare_all
from zoo.claims.types import Claim, Verdict
from zoo.text import finite

FORMAT = 2
MANY_SEEDS, CHEAP = 8, 120.0  # a primary comparison gets so many seeds where one takes less than so many seconds


@dataclass(frozen=True)
class ClaimResult:
    """What the arms scored, seed by seed, and what the statistics say of it."""

    model: str
    claim: Claim
    results: Results
    wall_seconds: Mapping[int, float]
    quick: bool = False
    complete: bool = True  # whether all seeds that were asked for have been run
    environment: Mapping[str, Any] = field(default_factory=dict)  # versions and threads
    budgets: Mapping[int, Mapping[str, Mapping[str, int]]] = field(default_factory=dict)  # spent by seed and arm
    modules: Mapping[str, str] = field(default_factory=dict)  # digests of the code that ran
    commit: str = ""  # that the code lay in
    cpu_seconds: Mapping[int, float] = field(default_factory=dict)  # by seed; unlike wall seconds, whatever else ran
    confirmed: str = ""  # the commit at which a seed was run again and gave the same

    @cached_property
    def compared(self) -> tuple[Compared, ...]:
        """All comparisons, the primary one first."""
        return tuple(compare_all(self.claim.comparisons, self.results, self.quick))

    @property
    def primary(self) -> Compared:
        return self.compared[0]

    @property
    def secondary(self) -> tuple[Compared, ...]:
        return self.compared[1:]

    @property
    def verdict(self) -> Verdict:
        return self.primary.verdict

    @property
    def by_recipe(self) -> dict[str, Verdict]:
        """The verdict of each reading of the paper, where it has two; the primary comparison's first."""
        found: dict[str, Verdict] = {}
        for item in self.compared if self.primary.comparison.recipe else ():
            if item.comparison.recipe:
                found.setdefault(item.comparison.recipe, item.verdict)
        return found

    @property
    def conditions(self) -> dict[str, Literal["holds", "does not hold", "open"]]:
        """What came out of the conditions that would falsify the claim."""
        verdicts = {item.comparison.name: item.verdict for item in self.compared}
        found: dict[str, Literal["holds", "does not hold", "open"]] = {}
        for text, names in self.claim.falsified_if.items():
            of = {verdicts[name] for name in names}
            found[text] = "holds" if of == {"not supported"} else "does not hold" if "supported" in of else "open"
        return found

    @property
    def stale(self) -> list[str]:
        """Modules whose code is another by now."""
        return digests.stale(self.modules)

    @property
    def doubts(self) -> list[str]:
        """What a reader of the numbers has to know: other code than today's, unequal arms, few seeds."""
        found = budget.unequal(self.claim, self.budgets)
        if stale := self.stale:
            found.append(
                f"the code has changed since: {', '.join(stale[:3])}{' and others' if len(stale) > 3 else ''}; "
                f"run: zoo reproduce {self.model} --confirm"
            )
        if len(self.results) < MANY_SEEDS and (seconds := self.seconds_of_a_seed) < CHEAP:
            found.append(f"{len(self.results)} seeds of {seconds:.0f} s each; the primary comparison gets {MANY_SEEDS}")
        if self.environment.get("threads") != 1:
            found.append("it was not run on one thread, so another machine may give other numbers")
        return found

    @property
    def seconds_of_a_seed(self) -> float:
        """The processor's, in the mean; those on the clock where a record has no others."""
        times = self.cpu_seconds or self.wall_seconds
        return sum(times.values()) / max(len(times), 1)

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
                "p_t": item.p_t,
                "p_sign": item.p_sign,
                "verdict": item.verdict,
                "reason": item.reason,
            }
            for item in self.compared
        ]
        record = {
            "format": FORMAT,
            "model": self.model,
            "verdict": self.verdict,
            "reason": self.primary.reason,
            "by_recipe": self.by_recipe,
            "falsified_if": self.conditions,
            "complete": self.complete,
            "quick": self.quick,
            "claim": self.claim.to_dict(),
            "comparisons": outcome,
            "seeds": sorted(self.results),
            "results": {str(seed): self.results[seed] for seed in sorted(self.results)},
            "budgets": {str(seed): self.budgets[seed] for seed in sorted(self.budgets)},
            "wall_seconds": {str(seed): round(self.wall_seconds[seed], 2) for seed in sorted(self.wall_seconds)},
            "cpu_seconds": {str(seed): round(self.cpu_seconds[seed], 2) for seed in sorted(self.cpu_seconds)},
            "environment": dict(self.environment),
            "commit": self.commit,
            "confirmed": self.confirmed,
            "modules": dict(self.modules),
        }
        return finite(record)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> ClaimResult:
        """The result that ``to_dict`` wrote. Raises ``ValueError``, ``KeyError`` or ``TypeError`` if it's not one."""
        if record["format"] != FORMAT:
            raise ValueError(f"format {record['format']} is not {FORMAT}")
        results = {
            int(seed): {a: {m: math.nan if v is None else v for m, v in scores.items()} for a, scores in arms.items()}
            for seed, arms in record["results"].items()
        }
        return cls(
            model=record["model"],
            claim=Claim.from_dict(record["claim"]),
            results=results,
            wall_seconds={int(seed): seconds for seed, seconds in record["wall_seconds"].items()},
            quick=record["quick"],
            complete=record["complete"],
            environment=record["environment"],
            budgets={int(seed): arms for seed, arms in record["budgets"].items()},
            modules=record["modules"],
            commit=record["commit"],
            cpu_seconds={int(seed): seconds for seed, seconds in record.get("cpu_seconds", {}).items()},
            confirmed=record["confirmed"],
        )
