"""What a claim is, as data that JSON can hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Verdict = Literal["supported", "not supported", "inconclusive"]
Recipe = Literal["", "paper", "released"]


@dataclass(frozen=True)
class Comparison:
    """``method`` beats ``baseline`` on ``metric``: by more than ``margin``; ``direction`` says which way is better.

    With a ``tolerance`` above 0 it need not beat the baseline, only be worse by less than that (non-inferiority).
    ``equivalence``, above 0: a difference that lies within this on both sides counts as no gain ("not supported"),
    even where the interval doesn't exclude a gain of zero and a little.

    ``resplit``: where every seed splits one small set again, the share (images in the test part) / (all others of the
    set); such seeds are not independent, and the interval is widened for it. ``recipe``: the reading of the paper that
    the method follows, where there are two, ``"paper"`` as printed and ``"released"`` as the authors' code; each has
    its own comparison, and both verdicts are quoted.

    ``readings``: what each verdict means, in one sentence, printed beside it. ``headline``: this reading stands
    wherever the verdict of the claim is quoted, such as in a table of all models; the primary comparison's always does.
    """

    method: str
    baseline: str
    metric: str
    direction: Literal["greater", "less"] = "greater"
    margin: float = 0.0
    tolerance: float = 0.0
    equivalence: float = 0.0
    resplit: float = 0.0
    recipe: Recipe = ""
    readings: Mapping[Verdict, str] = field(default_factory=dict)
    headline: bool = False

    def __post_init__(self) -> None:
        if min(self.margin, self.tolerance, self.equivalence, self.resplit) < 0:
            raise ValueError("a margin can't be negative; choose the direction instead")
        if self.margin and self.tolerance:
            raise ValueError("a comparison has a margin or a tolerance, not both")

    @property
    def name(self) -> str:
        """What ``Claim.falsified_if`` calls it, such as "map vs. baseline, Dice"."""
        return f"{self.method} vs. {self.baseline}, {self.metric}"


@dataclass(frozen=True)
class Claim:
    """What a paper says, and how it's tested again.

    ``arms``: name to one line about it. ``paper``: the paper's own numbers, by arm and metric, where it has them.
    ``run``: ``"package.module:function"``, called as ``function(seed, quick=...)``; it trains and measures every arm
    on the same data and initialisation and returns ``{arm: {metric: number}}``. Each arm's training stands in ``with
    zoo.claims.spending(name):``, which measures what it spends. ``quick`` asks for the smallest run that goes through
    all the code.

    ``falsified_if``: conditions, each in words, with the names of the comparisons (``Comparison.name``) that must all
    come out as "not supported" for it to hold. ``unequal``: arms that spend more or less than those they are compared
    with on purpose, and why. ``tuning``: where the arms' settings come from, so that nobody has to guess who was tuned
    and who wasn't; ``tuned_on``: the seeds by which settings were chosen, none of which is one of ``seeds``.
    ``timed``: metrics that are times of this machine, which no second run gives to the bit. ``changes``: what is
    otherwise than in an earlier form of the claim, and why.
    """

    statement: str
    data: str
    arms: Mapping[str, str]
    run: str
    primary: Comparison
    falsified_if: Mapping[str, tuple[str, ...]]
    secondary: tuple[Comparison, ...] = ()
    paper: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7)
    tuned_on: tuple[int, ...] = ()
    tuning: str = ""
    unequal: Mapping[str, str] = field(default_factory=dict)
    timed: tuple[str, ...] = ()
    changes: str = ""

    def __post_init__(self) -> None:
        for comparison in self.comparisons:
            for arm in (comparison.method, comparison.baseline):
                if arm not in self.arms:
                    raise ValueError(f"a comparison names the arm {arm!r}, which the claim doesn't have")
        names = [comparison.name for comparison in self.comparisons]
        if len(set(names)) != len(names):
            raise ValueError("two comparisons have the same arms and metric; keep one")
        for named in self.falsified_if.values():
            if isinstance(named, str) or not named or not set(named) <= set(names):
                raise ValueError(f"falsified_if names {named!r}, not a tuple of comparisons such as {names[0]!r}")
        for what, arms in (("the paper's numbers name", self.paper), ("unequal names", self.unequal)):
            if unknown := arms.keys() - self.arms.keys():
                raise ValueError(f"{what} the arm {sorted(unknown)[0]!r}, which the claim doesn't have")
        if len(set(self.seeds)) != len(self.seeds) or not self.seeds:
            raise ValueError("a claim needs seeds, each once")
        if both := set(self.seeds) & set(self.tuned_on):
            raise ValueError(f"settings were chosen on seed {min(both)}, so it can't test them; name another")

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """The primary one first."""
        return (self.primary, *self.secondary)

    @property
    def question(self) -> dict[str, Any]:
        """What decides numbers and verdicts: the claim without its words."""
        whole = self.to_dict()
        words = [{k: v for k, v in one.items() if k not in ("readings", "headline")}
                 for one in (whole["primary"], *whole["secondary"])]  # fmt: skip
        return {"arms": sorted(self.arms), "run": self.run, "comparisons": words}

    def to_dict(self) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Claim:
        """The claim that ``to_dict`` wrote. Raises ``KeyError``, ``TypeError`` or ``ValueError`` for another thing."""
        conditions = {text: tuple(names) for text, names in record["falsified_if"].items()}
        lists = {name: tuple(record[name]) for name in ("seeds", "tuned_on", "timed")}
        primary, secondary = Comparison(**record["primary"]), tuple(Comparison(**one) for one in record["secondary"])
        return cls(**{**record, **lists, "falsified_if": conditions, "primary": primary, "secondary": secondary})
