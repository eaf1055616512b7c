"""A claim's result in words: on the terminal, and on the page of all claims."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from zoo.claims.records import load_result
from zoo.claims.result import CHEAP, MANY_SEEDS, ClaimResult
from zoo.claims.statistics import Compared
from zoo.claims.types import Comparison
from zoo.errors import DataError
from zoo.storage import write_file


def print_result(result: ClaimResult) -> None:
    """The result as tables on the terminal."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(f"[bold]{result.model}[/]: {result.claim.statement}", highlight=False)
    table = Table(title=f"{count_seeds(result)}, mean ± standard deviation (paper's number)")
    table.add_column("arm")
    metrics = result.metrics
    for metric in metrics:
        table.add_column(metric, justify="right")
    for arm in result.claim.arms:
        table.add_row(arm, *(_cell(result, arm, metric) for metric in metrics))
    console.print(table)
    table = Table("comparison", "difference", "95 % interval", "p (t)", "p (sign)", "verdict")
    for item in result.compared:
        table.add_row(*_row(item))
    console.print(table)
    for item in result.compared:
        if item.reading:
            console.print(f"{title(item.comparison)}: {item.reading}", highlight=False)
    for text, state in result.conditions.items():
        console.print(f"falsified if {text}: {state}", highlight=False)
    for text in () if result.quick else result.doubts:
        console.print(f"note: {text}", highlight=False)
    verdict = said(result.verdict, result.by_recipe)
    console.print(f"verdict: [bold]{verdict}[/] ({result.primary.reason})", highlight=False)


def said(verdict: str, by_recipe: Mapping[str, str]) -> str:
    """A verdict in words, where the paper has two readings that of each."""
    words = {"paper": "as printed", "released": "as released"}
    return ", ".join(f"{one} {words.get(name, name)}" for name, one in by_recipe.items()) or verdict


def report(results: str | Path, page: str | Path) -> Path:
    """Write the page of all claims from the JSON files in ``results``; the same files give the same bytes.

    Quick runs don't count. Raises ``DataError`` when there are no results or a file is damaged.
    """
    return write_file(page, report_text(results))


def report_text(results: str | Path) -> str:
    """The text of ``report``, to compare with a page that exists."""
    paths = sorted(path for path in Path(results).glob("*.json") if not path.name.endswith(".quick.json"))
    if not paths:
        raise DataError(f"{results} holds no results; zoo reproduce MODEL makes them")
    return page_of([load_result(path) for path in paths])


def page_of(all_results: Sequence[ClaimResult]) -> str:
    """The page of all claims in Markdown."""
    lines = [
        "# Claims",
        "",
        "Each paper's headline, tested again in miniature on data that anyone can make. This page is written from the",
        "records of `zoo reproduce`; a verdict is printed whichever way it comes out. The primary comparison is judged",
        "by its 95 % interval: *supported* if that lies above the claimed margin, *not supported* if it excludes it,",
        "else *inconclusive*. Of the others p is corrected for their number (Holm), and the verdict follows it.",
        "",
        "| model | verdict | primary comparison | difference | 95 % interval | p (t) | p (sign) | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in all_results:
        title, difference, interval, p_t, p_sign, _ = _row(result.primary)
        lines.append(
            f"| [{result.model}](#{result.model}) | **{said(result.verdict, result.by_recipe)}** "
            f"| {title} | {difference} | {interval} "
            f"| {p_t} | {p_sign} | {len(result.results)} |"
        )
    for result in all_results:
        lines += ["", *_section(result)]
    return "\n".join(lines) + "\n"


def _tuned_on(seeds: Sequence[int]) -> str:
    named = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    return f" *What was chosen, was chosen on {named}, which the claim doesn't use.*" if seeds else ""


def _section(result: ClaimResult) -> Iterator[str]:
    claim = result.claim
    yield f"## {result.model}"
    yield ""
    yield f"**Claim.** {claim.statement}"
    yield ""
    yield f"**Data.** {claim.data}"
    yield ""
    if claim.tuning:
        yield f"**Settings.** {claim.tuning}{_tuned_on(claim.tuned_on)}"
        yield ""
    if claim.changes:
        yield f"**What changed.** {claim.changes}"
        yield ""
    for text, state in result.conditions.items():
        yield f"**Falsified if** {text}: *{state}*."
        yield ""
    unfinished = "" if result.complete else " *Not all seeds have been run.*"
    yield f"**Verdict: {said(result.verdict, result.by_recipe)}**; {result.primary.reason}.{unfinished}"
    yield ""
    metrics = result.metrics
    yield f"Mean ± standard deviation over {count_seeds(result)}; the paper's number, where it has one, in brackets."
    yield ""
    yield "| arm | " + " | ".join(metrics) + " |"
    yield "|---|" + "---|" * len(metrics)
    for arm, about in claim.arms.items():
        budget = f" (another budget: {claim.unequal[arm]})" if arm in claim.unequal else ""
        yield f"| {arm}: {about}{budget} | " + " | ".join(_cell(result, arm, metric) for metric in metrics) + " |"
    yield ""
    yield "| comparison | difference | 95 % interval | p (t) | p (sign) | verdict |"
    yield "|---|---|---|---|---|---|"
    for item in result.compared:
        yield "| " + " | ".join(_row(item)) + " |"
    readings = [item for item in result.compared if item.reading]
    if readings:
        yield ""
        for item in readings:
            yield f"- {title(item.comparison)}: {item.reading}"
    yield ""
    yield _provenance(result)


def _provenance(result: ClaimResult) -> str:
    seconds = sum(result.wall_seconds.values())
    versions = ", ".join(f"{name} {value}" for name, value in result.environment.items())
    seeds = ", ".join(map(str, sorted(result.results)))
    tuned = f"; settings were chosen on {', '.join(map(str, result.claim.tuned_on))}" if result.claim.tuned_on else ""
    commit = f"; commit {result.commit}" if result.commit else ""
    again = f", a seed run again with the same numbers at {result.confirmed}" if result.confirmed else ""
    cost = result.seconds_of_a_seed
    if result.cpu_seconds and len(result.results) < MANY_SEEDS and cost >= CHEAP:
        seeds += (
            f" ({len(result.results)}, for one takes {cost:.0f} s of the processor; where it takes less than "
            f"{CHEAP:.0f} s there are {MANY_SEEDS})"
        )
    return f"Seeds {seeds}{tuned}; {seconds / 60:.1f} minutes; {versions}{commit}{again}."


def _row(item: Compared) -> list[str]:
    return [
        title(item.comparison),
        _number(item.mean, sign=True),
        f"{_number(item.low, sign=True)} to {_number(item.high, sign=True)}",
        _p(item.p_t),
        _p(item.p_sign),
        item.verdict,
    ]


def title(comparison: Comparison) -> str:
    less = " (less is better)" if comparison.direction == "less" else ""
    at_most = f", at most {comparison.tolerance:g} worse" if comparison.tolerance else ""
    at_most += f", by more than {comparison.margin:g}" if comparison.margin else ""
    return f"{comparison.method} vs. {comparison.baseline}, {comparison.metric}{less}{at_most}"


def _cell(result: ClaimResult, arm: str, metric: str) -> str:
    known = [value for value in result.values(arm, metric) if math.isfinite(value)]
    paper = result.claim.paper.get(arm, {}).get(metric)
    digits = 2 if max(map(abs, known), default=0) >= 10 else 4
    text = f"{statistics.fmean(known):.{digits}f}" if known else "-"
    if len(known) > 1:
        text += f" ± {statistics.stdev(known):.{digits}f}"
    return text if paper is None else f"{text} ({paper:g})"


def count_seeds(result: ClaimResult) -> str:
    return f"{len(result.results)} seed{'s' if len(result.results) != 1 else ''}"


def _number(value: float, sign: bool = False) -> str:
    if not math.isfinite(value):
        return "-"
    digits = 2 if abs(value) >= 10 else 4
    return f"{value:{'+' if sign else ''}.{digits}f}"


def _p(value: float) -> str:
    return "< 0.0001" if value < 0.0001 else _number(value)
