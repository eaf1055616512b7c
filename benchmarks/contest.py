"""Contestants that take turns, so that whatever else the machine does meets them alike, and the report of a contest."""

from __future__ import annotations

import json
import os
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine

from zoo.ops import status

Run = Callable[[], Any]
Times = dict[str, tuple[float, float]]  # name -> median and best seconds


def race(runs: dict[str, Run], repeats: int) -> Times:
    """Seconds of each, taking turns; the first turn warms up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if repeat > 0:
                times[name].append(time.perf_counter() - start)
    return {name: (statistics.median(values), min(values)) for name, values in times.items()}


def ratio(times: Times, of: str, to: str) -> str:
    """Of the medians, and in brackets of the best times."""
    return f"{times[of][0] / times[to][0]:.2f} ({times[of][1] / times[to][1]:.2f})"


def fastest(times: Times, *, but: str) -> str:
    """The contestant with the least median, among those whose name does not start with ``but``."""
    return min((name for name in times if not name.startswith(but)), key=lambda name: times[name][0])


def conditions() -> dict[str, Any]:
    """What the machine is and does, and how busy it was. Call it before the contest."""
    return machine.facts() | {
        "read GB/s": machine.read_bandwidth(),
        "copy GB/s": machine.copy_bandwidth(),
        "sgemm GFLOP/s": machine.sgemm_rate(),
        "simd": status().simd,
        "load": [os.getloadavg()[0]],
    }


def publish(operator: str, peers: str, facts: dict[str, Any], cases: list[dict[str, Any]]) -> None:
    """Print the contest, and write it to ``results/`` as a page and as JSON.

    A case has ``title``, ``times``, ``ours`` (the name to compare with), ``notes`` (sentences), ``goal``, ``reached``
    and perhaps ``peak extra bytes`` by name.
    """
    # The rate again: a machine that was slower at the end was busy, or hot.
    facts["sgemm GFLOP/s"] = (facts["sgemm GFLOP/s"] + machine.sgemm_rate()) / 2
    facts["load"].append(os.getloadavg()[0])
    page = _page(operator, peers, facts, cases)
    print(page)
    save(operator, page, facts, cases)


def save(name: str, page: str, facts: dict[str, Any], cases: list[dict[str, Any]]) -> None:
    """Write a contest to ``results/``, as a page and as JSON, under its date, processor and threads."""
    processor = re.sub(r"\W+", "-", facts["processor"].lower()).strip("-")
    to = Path(__file__).parent / "results" / f"{name}-{facts['date']}-{processor}-{facts['threads']}-threads"
    to.parent.mkdir(exist_ok=True)
    to.with_suffix(".md").write_text(page)
    to.with_suffix(".json").write_text(json.dumps({"machine": facts, "cases": cases}, indent=1) + "\n")


def _page(operator: str, peers: str, facts: dict[str, Any], cases: list[dict[str, Any]]) -> str:
    lines = [
        f"# {operator}",
        "",
        f"{facts['processor']}, {facts['threads']} of {facts['cores']} cores, torch {facts['torch']}, kernels "
        f"{facts['simd']}, {facts['date']}. float32, allocation reuse for everybody, contestants take turns; ratios "
        "are of medians and, in brackets, of best times.",
        "",
        peers,
        "",
        f"In the same run: read {facts['read GB/s']:.1f} GB/s, copy {facts['copy GB/s']:.1f} GB/s, sgemm "
        f"{facts['sgemm GFLOP/s']:.0f} GFLOP/s. Load average at the start and end: "
        f"{facts['load'][0]:.1f} and {facts['load'][1]:.1f}.",
        "",
    ]
    for case in cases:
        times, memory = case["times"], case.get("peak extra bytes", {})
        lines += [f"## {case['title']}", "", "| | ms | best | time over ours | extra MB |", "|---|---|---|---|---|"]
        for name, (median, best) in times.items():
            extra = f"{memory[name] / 1e6:.1f}" if name in memory else ""
            lines.append(
                f"| {name} | {median * 1e3:.2f} | {best * 1e3:.2f} | {ratio(times, name, case['ours'])} | {extra} |"
            )
        lines += [
            "",
            *(f"{note}\n" for note in case["notes"]),
            f"Goal: {case['goal']}. Reached: {case['reached']}.",
            "",
        ]
    return "\n".join(lines)
