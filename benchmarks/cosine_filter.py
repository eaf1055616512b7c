"""cosine_filter against the same step written in PyTorch: ``python benchmarks/cosine_filter.py``.

Peers: the algorithm as printed (eager, and by ``torch.compile``), and the best eager rewriting, which never builds the
private gradients but still reads the gradients five times. All contestants take turns, round after round, with a plain
read of the gradients (``grads.sum()``) in every round. Next to the time by the clock stands processor time over all
threads, whose ratios also hold on a machine that is busy with other things.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import torch

from zoo.ops import cosine_filter, status

SIZE = {"batch 64, 2.4 M parameters": (64, 2_400_000), "batch 256, 250 k parameters": (256, 250_000)}
CLIP, THRESHOLD, PERCENTILE = 1.0, 0.02, 0.7


def printed(grads: torch.Tensor, noise: torch.Tensor, measure: str | None) -> torch.Tensor:
    """The algorithm line by line."""
    size = len(grads)
    clipped = grads / (grads.norm(dim=1, keepdim=True) / CLIP).clamp(min=1)
    private = clipped + noise / size
    batch = grads.mean(0)
    if measure == "cov":
        column = private.std(0) / private.mean(0).abs()
        chosen = column > column.kthvalue(int(PERCENTILE * column.numel())).values
        cosine = torch.cosine_similarity(batch[chosen].unsqueeze(0), private[:, chosen])
    else:
        cosine = torch.cosine_similarity(batch.unsqueeze(0), private)
    kept = cosine > THRESHOLD
    return private[kept].mean(0)


def printed_static(grads: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """The same without a shape that depends on data, for ``torch.compile``."""
    clipped = grads / (grads.norm(dim=1, keepdim=True) / CLIP).clamp(min=1)
    private = clipped + noise / len(grads)
    kept = torch.cosine_similarity(grads.mean(0, keepdim=True), private) > THRESHOLD
    return (private * kept.unsqueeze(1)).sum(0) / kept.sum()


def rewritten(grads: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Dot products instead of the private gradients: five reads of the gradients, in float32."""
    size = len(grads)
    z = noise / size
    norms = torch.linalg.vector_norm(grads, dim=1)
    factors = (CLIP / norms).clamp(max=1)
    batch = grads.mean(0)
    dots = factors * (grads @ batch) + z @ batch
    squares = factors**2 * norms**2 + 2 * factors * (grads @ z) + z @ z
    kept = dots / (squares.sqrt() * batch.norm()) > THRESHOLD
    weights = factors * kept
    return (weights @ grads + noise) / kept.sum()


def ours(grads: torch.Tensor, noise: torch.Tensor, measure: str | None) -> torch.Tensor:
    return cosine_filter(
        grads, clip_norm=CLIP, noise=noise, threshold=THRESHOLD, dim_measure=measure, percentile=PERCENTILE
    ).aggregate


Times = dict[str, list[tuple[float, float]]]  # name -> (clock, processor) seconds of every round
CLOCK, PROCESSOR = 0, 1


def take_turns(contestants: dict[str, Callable[[], object]], rounds: int) -> Times:
    times: Times = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, run in contestants.items():
            clock, processor = time.perf_counter(), time.process_time()
            run()
            if turn > 0:  # the first round warms up
                times[name].append((time.perf_counter() - clock, time.process_time() - processor))
    return times


def ratio(times: Times, over: str, under: str, which: int) -> float:
    return statistics.median(a[which] / b[which] for a, b in zip(times[over], times[under], strict=True))


def median(times: Times, name: str, which: int) -> float:
    return statistics.median(pair[which] for pair in times[name])


def measured(times: Times, which: int) -> dict[str, Any]:
    return {
        "median ms": {name: 1e3 * median(times, name, which) for name in times},
        "share of reading, two sweeps": 2 * ratio(times, "read", "cosine_filter", which),
        "share of reading, CoV, four sweeps": 4 * ratio(times, "read", "cosine_filter, CoV", which),
        "times faster than": {
            name: ratio(times, name, "cosine_filter, CoV" if "CoV" in name else "cosine_filter", which)
            for name in times
            if name != "read" and not name.startswith("cosine_filter")
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", type=int, choices=range(len(SIZE)), help="one case only")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile, which takes a minute")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    if status().operators["cosine_filter"]["cpu"] != "compiled":
        raise SystemExit("cosine_filter is not compiled here: there is nothing to measure")
    torch.manual_seed(0)
    facts = machine.facts()
    facts["read GB/s"] = machine.read_bandwidth()
    facts["copy GB/s"] = machine.copy_bandwidth()
    facts["sgemm GFLOP/s"] = machine.sgemm_rate()
    facts["kernels"] = status().simd
    results = []
    for title, (b, f) in list(SIZE.items())[
        slice(None) if options.case is None else slice(options.case, options.case + 1)
    ]:
        common = 0.01 * torch.randn(f)
        grads = torch.randn(b, f).mul_(0.02).add_(common)
        noise = torch.randn(f).mul_(0.6)
        contestants: dict[str, Callable[[], object]] = {
            "read": lambda grads=grads: grads.sum(),
            "cosine_filter": lambda grads=grads, noise=noise: ours(grads, noise, None),
            "eager as printed": lambda grads=grads, noise=noise: printed(grads, noise, None),
            "eager rewritten": lambda grads=grads, noise=noise: rewritten(grads, noise),
            "cosine_filter, CoV": lambda grads=grads, noise=noise: ours(grads, noise, "cov"),
            "eager as printed, CoV": lambda grads=grads, noise=noise: printed(grads, noise, "cov"),
        }
        if not options.no_compile:
            compiled = torch.compile(printed_static, dynamic=False)
            contestants["torch.compile as printed"] = lambda run=compiled, grads=grads, noise=noise: run(grads, noise)
        found = cosine_filter(grads, clip_norm=CLIP, noise=noise, threshold=THRESHOLD)
        times = take_turns(contestants, options.rounds)
        memory = {
            name: machine.peak_extra_memory(contestants[name])
            for name in contestants
            if name not in ("read", "torch.compile as printed")
        }
        row = {
            "case": title,
            "kept": int(found.kept.sum()),
            "read GB/s in the same rounds": grads.nbytes / median(times, "read", CLOCK) / 1e9,
            "clock": measured(times, CLOCK),
            "processor": measured(times, PROCESSOR),
            "peak extra MB": {name: value / 1e6 for name, value in memory.items()},
        }
        results.append(row)
    report = markdown(facts, results)
    print(report)
    options.output.mkdir(exist_ok=True)
    stem = f"cosine_filter-{facts['date']}-{'-'.join(str(facts['processor']).split()).lower()}"
    (options.output / f"{stem}.md").write_text(report)
    (options.output / f"{stem}.json").write_text(json.dumps({"machine": facts, "results": results}, indent=2) + "\n")


def markdown(facts: dict[str, Any], results: list[dict[str, Any]]) -> str:
    lines = ["# cosine_filter on CPU", ""]
    lines += [
        f"- {name}: {value:.1f}" if isinstance(value, float) else f"- {name}: {value}" for name, value in facts.items()
    ]
    lines += ["- allocations reused by every contestant; ratios are medians over rounds in which all take turns"]
    for row in results:
        clock, processor = row["clock"], row["processor"]
        lines += ["", f"## {row['case']} ({row['kept']} samples kept)", ""]
        lines += ["| | median ms | ours is faster by | processor ms | by processor time | peak extra MB |"]
        lines += ["|---|---|---|---|---|---|"]
        for name, value in clock["median ms"].items():
            faster = [
                f"{which['times faster than'][name]:.2f}x" if name in which["times faster than"] else ""
                for which in (clock, processor)
            ]
            memory = f"{row['peak extra MB'][name]:.1f}" if name in row["peak extra MB"] else ""
            busy = processor["median ms"][name]
            lines += [f"| {name} | {value:.1f} | {faster[0]} | {busy:.1f} | {faster[1]} | {memory} |"]
        lines += ["", f"Reading the gradients in the same rounds: {row['read GB/s in the same rounds']:.1f} GB/s."]
        for kind, which in (("clock", clock), ("processor time", processor)):
            lines += [
                f"Share of that by {kind}: {which['share of reading, two sweeps']:.0%} (two sweeps), "
                f"{which['share of reading, CoV, four sweeps']:.0%} (CoV, four sweeps)."
            ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    machine.reuse_allocations()
    main()
