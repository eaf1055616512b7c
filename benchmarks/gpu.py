"""Every operator on a GPU: our kernel, PyTorch's own where it gives the same answer, the reference, and peers.

``python benchmarks/gpu.py`` measures all of it in one run, writes ``benchmarks/results/`` and the table from which
``zoo.ops`` chooses, ``zoo/ops/ways.json``. ``--tests`` runs ``pytest -m gpu`` as well, ``--sanitizer`` the operators'
tests under compute-sanitizer. ``--quick`` measures the smallest cases and writes nothing; with ``--device cpu`` that
works without a GPU, and shows that this program does.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import clouds
import contest
import machine
import torch
import torch.nn.functional as F
from contest import Run, Times

from zoo import ops
from zoo.ops import _library, _trust, _ways, cosine_topk, masked_attention, prototype_similarity
from zoo.storage import write_file

ROOT = Path(__file__).resolve().parent.parent
OURS, REFERENCE, LIBRARY = "zoo, kernel", "zoo, reference", "library, "
WINS = 1.05  # how much faster a way must be to be chosen
REPEATS = 20
HALVES = (torch.float16, torch.bfloat16)
NO_GPU = "there is no GPU here that torch can use; --device cpu --quick shows that this program works"


@dataclass
class Case:
    """A call of an operator, the ways that may cover it, and peers that compute about the same."""

    operator: str
    title: str
    dtype: torch.dtype
    call: Run
    sizes: dict[str, float] = field(default_factory=dict)
    ways: tuple[str, ...] = ()
    peers: dict[str, Run] = field(default_factory=dict)


# ---- cases ----------------------------------------------------------------------------------------------------------


def cases(device: torch.device, quick: bool) -> Iterator[Case]:
    """All that is measured, one at a time: inputs are large."""
    for make in (_ragged, _grids, _banks, _prototypes, _gradients, _clouds):
        yield from make(device, quick)


def _random(*shape: int, device: torch.device, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, device=device).to(dtype)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _ragged(device: torch.device, quick: bool) -> Iterator[Case]:
    shapes = (
        [(8, 2, 40, 16)] if quick else [(128, 4, 115, 64), (64, 8, 512, 64), (32, 12, 1024, 64), (16, 12, 4096, 64)]
    )
    for (b, h, n, d), dtype in itertools.product(shapes, (torch.float32, *HALVES)):
        q, k, v = (_random(b, n, h, d, device=device, dtype=dtype).transpose(1, 2) for _ in range(3))
        lengths = (torch.rand(b) ** 2 * n).long().clamp_min(1)  # most sets are small
        lengths[0] = n
        lengths = lengths.to(device)
        real = (torch.arange(n, device=device) < lengths[:, None])[:, None, None]
        yield Case(
            "masked_attention",
            f"{b} sets of up to {n}, {h} heads, d {d}",
            dtype,
            lambda q=q, k=k, v=v, lengths=lengths: masked_attention(q, k, v, lengths=lengths),
            {"flops": 4.0 * b * h * n * n * d, "keys": n, "columns": d},
            ("varlen", "sdpa"),
            {
                "SDPA, padding mask": lambda q=q, k=k, v=v, real=real: F.scaled_dot_product_attention(q, k, v, real),
            },
        )


def _grids(device: torch.device, quick: bool) -> Iterator[Case]:
    shapes = [(1, 2, 6, 16)] if quick else [(1, 12, 64, 64), (1, 12, 32, 64), (25, 12, 14, 64), (100, 16, 14, 64)]
    for (b, h, side, d), dtype in itertools.product(shapes, (torch.float32, *HALVES)):
        n = side * side
        q, k, v = (_random(b, n, h, d, device=device, dtype=dtype).transpose(1, 2) for _ in range(3))
        rel_h, rel_w = (_random(b, h, n, side, device=device, dtype=dtype) for _ in range(2))

        def expanded(q: Any = q, k: Any = k, v: Any = v, rel_h: Any = rel_h, rel_w: Any = rel_w) -> torch.Tensor:
            bias = (rel_h[..., :, None] + rel_w[..., None, :]).flatten(-2)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)

        yield Case(
            "masked_attention",
            f"{b} x {n} tokens with decomposed bias, {h} heads, d {d}",
            dtype,
            lambda q=q, k=k, v=v, bias=(rel_h, rel_w): masked_attention(q, k, v, bias=bias),
            {"flops": 4.0 * b * h * n * n * d, "keys": n, "columns": d},
            ("flex",),
            {
                "SDPA, expanded bias": expanded,
                "SDPA, no bias": lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v),
            },
        )


def _banks(device: torch.device, quick: bool) -> Iterator[Case]:
    if quick:
        shapes = [(4, 300, 32)]
    else:
        shapes = [(q, m, d) for q, m in ((1, 100_000), (100, 100_000), (1000, 400_000)) for d in (128, 512, 1536)]
    for (q, m, d), dtype in itertools.product(shapes, (torch.float32, *HALVES)):
        queries, bank = (_random(rows, d, device=device, dtype=dtype) for rows in (q, m))

        def plain(queries: Any = queries, bank: Any = bank) -> Any:
            return (F.normalize(queries) @ F.normalize(bank).T).topk(10)

        yield Case(
            "cosine_topk",
            f"{q} queries, {m} x {d}, k 10",
            dtype,
            lambda queries=queries, bank=bank: cosine_topk(queries, bank, 10),
            {"flops": 2.0 * q * m * d, "columns": d},
            ("matmul",),
            {"matmul and topk, whole table, own dtype": plain},
        )


def _prototypes(device: torch.device, quick: bool) -> Iterator[Case]:
    if quick:
        shapes = [(2, 16, 5, 4)]
    else:
        shapes = [(32, 1280, 7, 160), (32, 256, 14, 80), (1, 256, 56, 200), (64, 512, 28, 400), (64, 128, 56, 400)]
    for (b, d, side, p), dtype in itertools.product(shapes, (torch.float32, *HALVES)):
        maps, prototypes = (
            _random(b, d, side, side, device=device, dtype=dtype),
            _random(p, d, device=device, dtype=dtype),
        )
        yield Case(
            "prototype_similarity",
            f"{b} maps of {d} x {side} x {side}, {p} prototypes",
            dtype,
            lambda maps=maps, prototypes=prototypes: prototype_similarity(maps, prototypes),
            {"flops": 2.0 * b * side**2 * d * p, "columns": d},
            ("matmul",),
        )


def _gradients(device: torch.device, quick: bool) -> Iterator[Case]:
    for b, f in [(8, 1000)] if quick else [(64, 2_400_000), (256, 250_000)]:
        grads, noise = _random(b, f, device=device), _random(f, device=device)
        yield Case(
            "cosine_filter",
            f"{b} gradients of {f}",
            grads.dtype,
            lambda grads=grads, noise=noise: ops.cosine_filter(grads, clip_norm=1.0, noise=noise, threshold=0.0),
        )


def _clouds(device: torch.device, quick: bool) -> Iterator[Case]:
    for n in [200] if quick else [7_900, 70_000]:
        there = torch.from_numpy(clouds.surface(n, 0)).float().to(device)
        here = torch.from_numpy(clouds.moved(clouds.surface(n, 1), 3.0, 0.02)).float().to(device)
        yield Case(
            "nearest_neighbors", f"{n} points, k 8", here.dtype, lambda x=here, y=there: ops.nearest_neighbors(x, y, 8)
        )
        yield Case(
            "icp", f"two scans of {n} points", here.dtype, lambda x=here, y=there: ops.icp(x, y, max_distance=0.2)
        )


# ---- measuring ------------------------------------------------------------------------------------------------------


def contestants(case: Case) -> dict[str, tuple[AbstractContextManager[Any], Run]]:
    """By name, what a contestant runs and within what. Contexts are used once: made anew for each run."""
    found: dict[str, Callable[[], AbstractContextManager[Any]]] = {}
    found[OURS] = _library._by_kernel
    found[REFERENCE] = ops.by_reference
    for way in case.ways:
        found[LIBRARY + way] = lambda way=way: _library.by_way(f"{case.operator} by {way}")
    return {name: (within, case.call) for name, within in found.items()} | {
        name: (nullcontext, run) for name, run in case.peers.items()
    }


def measure(case: Case, device: torch.device, repeats: int) -> dict[str, Any]:
    """Times of all who can run it, how far their answers are from the reference's, and who can't and why."""
    answers, runs, absent = {}, {}, {}
    for name, (within, run) in contestants(case).items():
        if name == OURS and device.type not in _library._KERNELS[case.operator]:
            absent[name] = "not compiled here"
        elif name.startswith(LIBRARY) and not _covered(case, name):
            absent[name] = "does not cover this call here"
        else:
            try:
                with within():
                    answers[name] = _parts(run())
                runs[name] = (within, run)
            except Exception as error:  # whatever a peer's compiler or memory may end in
                absent[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
    expected = answers.get(REFERENCE, answers.get(OURS, ()))
    apart = {
        name: max(
            (_trust.apart(x, y) for x, y in zip(found, expected, strict=True) if y.is_floating_point()), default=0.0
        )
        for name, found in answers.items()
        if name not in case.peers
    }
    del answers
    return {
        "title": f"{case.operator}: {case.title}, {_name(case.dtype)}",
        "operator": case.operator,
        "dtype": _name(case.dtype),
        "sizes": case.sizes,
        "times": race(runs, device, repeats),
        "difference": apart,
        "absent": absent,
    }


def _covered(case: Case, name: str) -> bool:
    """Whether the operator would go by this way, were it asked to: it says so to a stand-in."""
    way = name.removeprefix(LIBRARY)
    ran: list[str] = []
    take = _ways.take

    def watched(operator: str, inputs: Any, sizes: Any, ways: Any, covers: Any) -> Any:
        if covers(way):
            ran.append(way)
        return take(operator, inputs, sizes, {}, lambda _: False)

    _ways.take = watched
    try:
        case.call()
    finally:
        _ways.take = take
    return bool(ran)


def _parts(answer: Any) -> tuple[torch.Tensor, ...]:
    return (answer,) if isinstance(answer, torch.Tensor) else tuple(answer)


def race(runs: dict[str, Any], device: torch.device, repeats: int) -> Times:
    """Median and best seconds, taking turns; two turns warm up. On a GPU by events, with its cache emptied before."""
    flush = None
    if device.type == "cuda":
        size = 2 * torch.cuda.get_device_properties(device).L2_cache_size
        flush = torch.empty(max(size, 1 << 26), dtype=torch.int8, device=device)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 2):
        for name, (within, run) in runs.items():
            with within():
                seconds = _on_gpu(run, flush) if flush is not None else _on_cpu(run)
            if turn > 1:
                times[name].append(seconds)
    return {name: (statistics.median(values), min(values)) for name, values in times.items()}


def _on_gpu(run: Run, flush: torch.Tensor) -> float:
    flush.zero_()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def _on_cpu(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


# ---- the table ------------------------------------------------------------------------------------------------------


def rewritten(
    table: _ways.Table, results: list[dict[str, Any]], card: str, date: str, torch_version: str
) -> _ways.Table:
    """The table with its rows for GPUs from measurements. A way that never wins has no row; other rows stay."""
    kept = [row for row in table.rows if row.device != "cuda"]
    rows = []
    for operator, way in (name.split(" by ") for name in _library._WAYS):
        for dtype in map(_name, HALVES):  # what the comparison on first use is made in
            points = [
                (result["sizes"], _won(result, way))
                for result in results
                if (result["operator"], result["dtype"]) == (operator, dtype) and LIBRARY + way in result["times"]
            ]
            if box := best_box(points):
                told = f"measured on {card}, {date}"
                rows.append(_ways.Row(operator, way, "cuda", (dtype,), _ways.TENSOR_CORES, box, told))
    merged: list[_ways.Row] = []
    for row in rows:  # dtypes of one and the same condition stand together
        same = [other for other in merged if replace(other, dtypes=row.dtypes) == row]
        if same:
            merged[merged.index(same[0])] = replace(same[0], dtypes=same[0].dtypes + row.dtypes)
        else:
            merged.append(row)
    return _ways.Table((*merged, *kept), {"card": card, "date": date, "torch": torch_version})


def _won(result: dict[str, Any], way: str) -> bool:
    """Against our kernel and the reference, with the same answer."""
    times, name = result["times"], LIBRARY + way
    ours = [times[other][0] for other in (OURS, REFERENCE) if other in times]
    right = result["difference"][name] <= _trust.TOLERANCE[getattr(torch, result["dtype"])]
    return right and bool(ours) and times[name][0] * WINS <= min(ours)


def best_box(points: list[tuple[dict[str, float], bool]]) -> dict[str, float] | None:
    """The least sizes from which on a way won every time, so that most of its wins lie there; None without a win."""
    wins = [sizes for sizes, won in points if won]
    if not wins:
        return None
    names = list(wins[0])
    corners = itertools.product(*({sizes[name] for sizes in wins} for name in names))

    def inside(sizes: dict[str, float], corner: tuple[float, ...]) -> bool:
        return all(sizes[name] >= least for name, least in zip(names, corner, strict=True))

    good = [corner for corner in corners if not any(inside(sizes, corner) for sizes, won in points if not won)]
    count = {corner: sum(inside(sizes, corner) for sizes in wins) for corner in good}
    best = max((corner for corner in good if count[corner]), key=lambda corner: (count[corner], *corner), default=None)
    return None if best is None else dict(zip(names, best, strict=True))


# ---- the report -----------------------------------------------------------------------------------------------------


def report(facts: dict[str, Any], results: list[dict[str, Any]], checks: list[str]) -> str:
    lines = [
        "# The operators on a GPU",
        "",
        f"{facts['processor']}, torch {facts['torch']}, driver {facts['driver']}, {facts['date']}. Medians of"
        f" {facts['repeats']} turns, best in brackets; contestants take turns, the cache is emptied before each."
        " Forward passes. Differences are to the reference, relative to its largest number.",
        "",
        *(f"{check}\n" for check in checks),
    ]
    for result in results:
        lines += [f"## {result['title']}", "", "| | ms | best | time over ours | difference |", "|---|---|---|---|---|"]
        base = OURS if OURS in result["times"] else REFERENCE
        for name, (median, best) in result["times"].items():
            over = contest.ratio(result["times"], name, base) if base in result["times"] else ""
            apart = f"{result['difference'][name]:.1e}" if name in result["difference"] else ""
            lines.append(f"| {name} | {median * 1e3:.3f} | {best * 1e3:.3f} | {over} | {apart} |")
        lines += ["", *(f"{name}: {why}.\n" for name, why in result["absent"].items())]
    return "\n".join(lines)


def ran_tests(sanitizer: bool) -> list[str]:
    """What came of ``pytest -m gpu``, or of the operators' under compute-sanitizer."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "gpu", "tests/ops" if sanitizer else "tests"]
    if sanitizer:
        found = shutil.which("compute-sanitizer")
        if found is None:
            return ["compute-sanitizer is not installed, so nothing ran under it."]
        command = [found, "--tool", "memcheck", "--error-exitcode", "9", *command]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    last = (ended.stdout.strip().splitlines() or ["nothing was printed"])[-1]
    return [f"{'compute-sanitizer' if sanitizer else 'pytest -m gpu'}: exit code {ended.returncode}; {last}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="the smallest cases; nothing is written")
    parser.add_argument("--tests", action="store_true", help="run pytest -m gpu as well")
    parser.add_argument("--sanitizer", action="store_true", help="run the operators' tests under compute-sanitizer")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print(NO_GPU, file=sys.stderr)
        return 2
    if options.device == "cpu" and not options.quick:
        print("a CPU is measured by the other programs of benchmarks/; here it needs --quick", file=sys.stderr)
        return 2
    device = torch.device(options.device)
    torch.manual_seed(0)
    repeats = 2 if options.quick else REPEATS
    warnings.filterwarnings("ignore", "flex_attention called without")
    with torch.no_grad():
        results = [measure(case, device, repeats) for case in cases(device, options.quick)]
    checks = ran_tests(False) if options.tests else []
    checks += ran_tests(True) if options.sanitizer else []
    facts = machine.facts() | {"repeats": repeats, "driver": "none"}
    if device.type == "cuda":
        identity = _trust.identity(device, "")
        facts |= {"processor": torch.cuda.get_device_name(), "driver": identity["driver"]}
    page = report(facts, results, checks)
    print(page)
    if device.type == "cuda" and not options.quick:
        contest.save("gpu", page, facts, results)
        table = rewritten(_ways.table(), results, facts["processor"], facts["date"], facts["torch"])
        write_file(_ways.PATH, _ways.written(table))
        print(f"{_ways.PATH} chooses by these measurements from now on.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
