"""A paper's headline as something that can be run: method against baselines over several seeds, with a verdict.

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

import hashlib
import io
import json
import math
import platform
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zoo.errors import DataError, MissingExtraError, OptionError, PluginError

if TYPE_CHECKING:
    from zoo.plugin import Plugin

Verdict = Literal["supported", "not supported", "inconclusive"]
FORMAT = 1
MIN_SEEDS = 3
QUICK_SEEDS = 2
LIBRARIES = ("medimg-zoo", "torch", "numpy")


@dataclass(frozen=True)
class Comparison:
    """``method`` beats ``baseline`` on ``metric``: by ``margin`` at least, ``direction`` says which way is better.

    With a ``tolerance`` above 0 it need not beat the baseline, only be worse by less than that (non-inferiority).
    ``readings``: what each verdict means, in one sentence, printed beside it.
    """

    method: str
    baseline: str
    metric: str
    direction: Literal["greater", "less"] = "greater"
    margin: float = 0.0
    tolerance: float = 0.0
    readings: Mapping[Verdict, str] = field(default_factory=dict)


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
        return _finite(record)

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
    """The outcome of a comparison, paired by seed; see the head of this module for the rule."""
    sign = 1.0 if comparison.direction == "greater" else -1.0

    def value(seed: int, arm: str) -> float:
        return float(results[seed].get(arm, {}).get(comparison.metric, math.nan))

    differences = tuple(
        sign * (value(seed, comparison.method) - value(seed, comparison.baseline)) for seed in sorted(results)
    )
    if not differences or not all(math.isfinite(d) for d in differences):
        nan = math.nan
        reason = "no seed has been run" if not differences else f"{comparison.metric} is not finite for some seed"
        return Compared(comparison, differences, nan, nan, nan, nan, nan, "inconclusive", reason)
    mean, low, high, p_t, p_sign = paired(differences)
    if comparison.tolerance and not quick and len(differences) >= MIN_SEEDS:
        verdict, reason = _judge_non_inferior(mean, low, comparison.tolerance)
    else:
        verdict, reason = _judge(mean, low, high, len(differences), comparison.margin, quick)
    return Compared(comparison, differences, mean, low, high, p_t, p_sign, verdict, reason)


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


def _judge(mean: float, low: float, high: float, n: int, margin: float, quick: bool) -> tuple[Verdict, str]:
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


def _judge_non_inferior(mean: float, low: float, tolerance: float) -> tuple[Verdict, str]:
    if mean <= -tolerance:
        return "not supported", f"the method is worse than the baseline by {tolerance:g} or more"
    if low <= -tolerance:
        return "inconclusive", f"the interval of the difference includes -{tolerance:g}, the tolerance"
    return "supported", f"the interval of the difference lies above -{tolerance:g}, the tolerance"


# ---- running -----------------------------------------------------------------------------------------------------


def reproduce(
    model: str | Plugin,
    *,
    seeds: int | Sequence[int] | None = None,
    quick: bool = False,
    jobs: int = 1,
    out: str | Path = "results/claims",
    fresh: bool = False,
) -> ClaimResult:
    """Run the claim of ``model`` and write ``<model>.json`` and ``<model>.png`` to ``out``.

    ``seeds``: how many (the claim's first, then counting on) or which. The JSON grows seed by seed: a reproduction
    that was interrupted goes on where it stopped, and seeds that were run with the same code, claim and torch are
    kept, unless ``fresh``. ``jobs`` seeds run at the same time, each in its own process. ``quick`` writes
    ``<model>.quick.json`` and proves nothing.

    Raises ``PluginError`` when the model has no claim or the claim returns something else than numbers by arm,
    ``OptionError`` for unusable seeds or jobs.
    """
    from zoo.storage import write_file
    from zoo.training.recipe import resolve

    plugin, claim = resolve(model, "claim")
    if not isinstance(claim, Claim):
        raise PluginError(f"the claim of {plugin.name} is a {type(claim).__name__}, not a zoo.claims.Claim")
    wanted = _seeds(claim, seeds, quick)
    if jobs < 1:
        raise OptionError(f"jobs must be at least 1, not {jobs}")
    path = Path(out) / f"{plugin.name}{'.quick' if quick else ''}.json"
    environment, source = _environment(), _source(claim.run)
    results: dict[int, Mapping[str, Mapping[str, float]]] = {}
    seconds: dict[int, float] = {}
    if path.is_file() and not fresh:
        stored = load_result(path)
        same = stored.claim.to_dict() == claim.to_dict() and stored.source == source
        if same and stored.environment.get("torch") == environment["torch"]:
            results = {seed: stored.results[seed] for seed in wanted if seed in stored.results}
            seconds = {seed: stored.wall_seconds[seed] for seed in results}
            environment = dict(stored.environment) if results.keys() >= set(wanted) else environment

    def result() -> ClaimResult:
        complete = results.keys() >= set(wanted)
        return ClaimResult(plugin.name, claim, results, seconds, quick, complete, environment, source)

    for seed, arms, took in _run_seeds(claim, [s for s in wanted if s not in results], quick, jobs):
        results[seed], seconds[seed] = _checked(plugin.name, claim, arms), took
        write_file(path, json.dumps(result().to_dict(), indent=2, allow_nan=False) + "\n")
    final = result()
    write_file(path, json.dumps(final.to_dict(), indent=2, allow_nan=False) + "\n")
    write_file(path.with_suffix(".png"), figure(final))
    return final


def load_result(path: str | Path) -> ClaimResult:
    """A result from its JSON. Raises ``DataError`` if the file is no such thing."""
    try:
        return ClaimResult.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no result of a claim ({error!r}); remove it and reproduce again") from error


def _seeds(claim: Claim, seeds: int | Sequence[int] | None, quick: bool) -> list[int]:
    if seeds is None:
        return list(claim.seeds[:QUICK_SEEDS] if quick else claim.seeds)
    if isinstance(seeds, int):
        if seeds < 1:
            raise OptionError(f"seeds must be at least 1, not {seeds}")
        chosen = list(claim.seeds[:seeds])
        while len(chosen) < seeds:
            chosen.append(max(chosen) + 1)
        return chosen
    if len(set(seeds)) != len(seeds) or not seeds:
        raise OptionError(f"seeds must be given once each, not {list(seeds)}")
    return list(seeds)


def _run_seeds(
    claim: Claim, seeds: list[int], quick: bool, jobs: int
) -> Iterator[tuple[int, Mapping[str, Mapping[str, float]], float]]:
    """Seed, results and seconds, as they are done."""
    from zoo.progress import note

    jobs = min(jobs, len(seeds))
    if jobs <= 1:
        for place, seed in enumerate(seeds, start=1):
            note(f"seed {seed} ({place} of {len(seeds)})")
            yield _one_seed(claim.run, seed, quick)
        return
    import os
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from multiprocessing import get_context

    threads = max(1, (os.cpu_count() or 1) // jobs)
    # spawn: a fork of a process that has used torch's threads may hang
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_start_worker, initargs=(threads,)) as pool:
        waiting = [pool.submit(_one_seed, claim.run, seed, quick) for seed in seeds]
        try:
            for place, done in enumerate(as_completed(waiting), start=1):
                note(f"seed {done.result()[0]} is done ({place} of {len(seeds)})")
                yield done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start_worker(threads: int) -> None:
    import torch

    from zoo import progress

    torch.set_num_threads(threads)
    progress.silence()  # several bars would overwrite each other


def _one_seed(run: str, seed: int, quick: bool) -> tuple[int, Mapping[str, Mapping[str, float]], float]:
    from importlib import import_module

    module, _, name = run.partition(":")
    function = getattr(import_module(module), name)
    start = time.perf_counter()
    arms = function(seed, quick=quick)
    return seed, arms, time.perf_counter() - start


def _checked(model: str, claim: Claim, arms: Any) -> dict[str, dict[str, float]]:
    """What a claim's run returned, as plain numbers; every arm and every compared metric must be there."""
    try:
        plain = {str(arm): {str(m): float(v) for m, v in scores.items()} for arm, scores in arms.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise PluginError(f"the claim of {model} must return numbers by arm and metric: {error}") from error
    if plain.keys() != claim.arms.keys():
        raise PluginError(f"the claim of {model} returned the arms {', '.join(plain)}, not {', '.join(claim.arms)}")
    for comparison in (claim.primary, *claim.secondary):
        for arm in (comparison.method, comparison.baseline):
            if comparison.metric not in plain[arm]:
                raise PluginError(f"the claim of {model} returned no {comparison.metric!r} for the arm {arm!r}")
    return plain


def _environment() -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, version

    versions: dict[str, Any] = {}
    for library in LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            versions[library] = "source"
    return {**versions, "python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}


def _source(run: str) -> str:
    """A digest of the code beside the claim's function: other code, other numbers."""
    from importlib.util import find_spec

    spec = find_spec(run.partition(":")[0])
    if spec is None or spec.origin is None:
        raise PluginError(f"the claim's run {run!r} leads nowhere")
    digest = hashlib.sha256()
    here = Path(spec.origin)
    package = (here.parent / "__init__.py").is_file()
    for path in sorted(here.parent.glob("*.py")) if package else [here]:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


# ---- telling -----------------------------------------------------------------------------------------------------


def print_result(result: ClaimResult) -> None:
    """The result as tables on the terminal."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(f"[bold]{result.model}[/]: {result.claim.statement}", highlight=False)
    table = Table(title=f"{_n_seeds(result)}, mean ± standard deviation (paper's number)")
    table.add_column("arm")
    metrics = result.metrics
    for metric in metrics:
        table.add_column(metric, justify="right")
    for arm in result.claim.arms:
        table.add_row(arm, *(_cell(result, arm, metric) for metric in metrics))
    console.print(table)
    table = Table("comparison", "difference", "95 % interval", "p (t)", "p (sign)", "verdict")
    for item in (result.primary, *result.secondary):
        table.add_row(*_row(item))
    console.print(table)
    for item in (result.primary, *result.secondary):
        if item.reading:
            console.print(f"{_title(item.comparison)}: {item.reading}", highlight=False)
    console.print(f"verdict: [bold]{result.verdict}[/] ({result.primary.reason})", highlight=False)


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
    canvas.suptitle(f"{result.model}: {result.verdict} ({_n_seeds(result)}{quick})", size=12)
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
    title = textwrap.fill(_title(item.comparison), 38)  # a long one would take the place of the numbers
    axis.set_yticks([0], [f"{title}\n{item.verdict}"], size=9)
    axis.set_ylim(-0.5, 0.5)
    axis.margins(x=0.08)
    axis.locator_params(axis="x", nbins=5)
    axis.tick_params(axis="x", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="x", color="0.92", zorder=0)


def report(results: str | Path, page: str | Path) -> Path:
    """Write the page of all claims from the JSON files in ``results``; the same files give the same bytes.

    Quick runs don't count. Raises ``DataError`` when there are no results or a file is damaged.
    """
    from zoo.storage import write_file

    return write_file(page, report_text(results))


def report_text(results: str | Path) -> str:
    """The text of ``report``, to compare with a page that exists."""
    paths = sorted(path for path in Path(results).glob("*.json") if not path.name.endswith(".quick.json"))
    if not paths:
        raise DataError(f"{results} holds no results; zoo reproduce MODEL makes them")
    all_results = [load_result(path) for path in paths]
    lines = [
        "# Claims",
        "",
        "Each paper's headline, tested again in miniature on data that anyone can make. This page is generated from",
        "the JSON files by `zoo reproduce --all --report`; a verdict is printed whichever way it comes out.",
        "",
        "| model | verdict | primary comparison | difference | 95 % interval | p (t) | p (sign) | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in all_results:
        title, difference, interval, p_t, p_sign, _ = _row(result.primary)
        lines.append(
            f"| [{result.model}](#{result.model}) | **{result.verdict}** | {title} | {difference} | {interval} "
            f"| {p_t} | {p_sign} | {len(result.results)} |"
        )
    for result in all_results:
        lines += ["", *_section(result)]
    return "\n".join(lines) + "\n"


def _section(result: ClaimResult) -> Iterator[str]:
    claim = result.claim
    yield f"## {result.model}"
    yield ""
    yield f"**Claim.** {claim.statement}"
    yield ""
    yield f"**Data.** {claim.data}"
    yield ""
    yield f"**Falsified if** {claim.falsified_if}."
    yield ""
    unfinished = "" if result.complete else " *Not all seeds have been run.*"
    yield f"**Verdict: {result.verdict}**; {result.primary.reason}.{unfinished}"
    yield ""
    metrics = result.metrics
    yield f"Mean ± standard deviation over {_n_seeds(result)}; the paper's number, where it has one, in brackets."
    yield ""
    yield "| arm | " + " | ".join(metrics) + " |"
    yield "|---|" + "---|" * len(metrics)
    for arm, about in claim.arms.items():
        yield f"| {arm}: {about} | " + " | ".join(_cell(result, arm, metric) for metric in metrics) + " |"
    yield ""
    yield "| comparison | difference | 95 % interval | p (t) | p (sign) | verdict |"
    yield "|---|---|---|---|---|---|"
    for item in (result.primary, *result.secondary):
        yield "| " + " | ".join(_row(item)) + " |"
    readings = [item for item in (result.primary, *result.secondary) if item.reading]
    if readings:
        yield ""
        for item in readings:
            yield f"- {_title(item.comparison)}: {item.reading}"
    yield ""
    seconds = sum(result.wall_seconds.values())
    versions = ", ".join(f"{name} {value}" for name, value in result.environment.items())
    seeds = ", ".join(map(str, sorted(result.results)))
    yield f"Seeds {seeds}; {seconds / 60:.1f} minutes; {versions}."


def _row(item: Compared) -> list[str]:
    return [
        _title(item.comparison),
        _number(item.mean, sign=True),
        f"{_number(item.low, sign=True)} to {_number(item.high, sign=True)}",
        _p(item.p_t),
        _p(item.p_sign),
        item.verdict,
    ]


def _title(comparison: Comparison) -> str:
    less = " (less is better)" if comparison.direction == "less" else ""
    at_most = f", at most {comparison.tolerance:g} worse" if comparison.tolerance else ""
    return f"{comparison.method} vs. {comparison.baseline}, {comparison.metric}{less}{at_most}"


def _cell(result: ClaimResult, arm: str, metric: str) -> str:
    import statistics

    known = [value for value in result.values(arm, metric) if math.isfinite(value)]
    paper = result.claim.paper.get(arm, {}).get(metric)
    digits = 2 if max(map(abs, known), default=0) >= 10 else 4
    text = f"{statistics.fmean(known):.{digits}f}" if known else "-"
    if len(known) > 1:
        text += f" ± {statistics.stdev(known):.{digits}f}"
    return text if paper is None else f"{text} ({paper:g})"


def _n_seeds(result: ClaimResult) -> str:
    return f"{len(result.results)} seed{'s' if len(result.results) != 1 else ''}"


def _number(value: float, sign: bool = False) -> str:
    if not math.isfinite(value):
        return "-"
    digits = 2 if abs(value) >= 10 else 4
    return f"{value:{'+' if sign else ''}.{digits}f}"


def _p(value: float) -> str:
    return "< 0.0001" if value < 0.0001 else _number(value)


def _finite(value: Any) -> Any:
    """Plain data without NaN and infinities, which JSON lacks."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
