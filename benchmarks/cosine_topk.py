"""cosine_topk against exact search elsewhere, in three precisions: ``python benchmarks/cosine_topk.py``.

Needs ``faiss-cpu``, ``usearch``, ``numkong`` and ``scann`` for those peers; each takes part where it is installed, at
the best setting that was found for it. Their banks have unit rows beforehand, which the operator makes on its way.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import contest
import machine
import numpy as np
import torch
import torch.nn.functional as F

from zoo.ops import cosine_topk

M, D, K = 100_000, 512, 10
QUERIES_FOR_BLAS, BLOCK = 20, 16384  # FAISS 1.15 multiplies by BLAS from 128,000 queries on unless it is told otherwise
OURS = "zoo.ops.cosine_topk"
NUMPY = {torch.float32: np.float32, torch.float16: np.float16}
Search = Callable[[], Any]  # indices [q k]


def narrowed(rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Rows in another precision; for int8 scaled to the whole range, which a cosine doesn't see."""
    return (127 * rows / rows.abs().amax(1, keepdim=True)).round().to(dtype) if dtype == torch.int8 else rows.to(dtype)


def torch_runs(queries: torch.Tensor, bank: torch.Tensor, dtype: torch.dtype) -> dict[str, Search]:
    if dtype == torch.int8:
        return {}
    unit, unit_bank = F.normalize(queries).to(dtype), F.normalize(bank).to(dtype)
    return {"torch.matmul + topk": lambda: torch.matmul(unit, unit_bank.T).topk(K).indices}


def faiss_runs(queries: torch.Tensor, bank: torch.Tensor, dtype: torch.dtype) -> dict[str, Search]:
    """Flat, with one thread and with all: row by row, and by BLAS."""
    try:
        import faiss
    except ImportError:
        return {}
    kinds = {torch.float16: faiss.ScalarQuantizer.QT_fp16, torch.int8: faiss.ScalarQuantizer.QT_8bit}
    unit, unit_bank = F.normalize(queries).numpy(), F.normalize(bank).numpy()
    flat = dtype == torch.float32
    index = faiss.IndexFlatIP(D) if flat else faiss.IndexScalarQuantizer(D, kinds[dtype], faiss.METRIC_INNER_PRODUCT)
    index.train(unit_bank)
    index.add(unit_bank)
    plain = faiss.cvar.distance_compute_blas_threshold

    def search(threads: int, threshold: int) -> Any:
        faiss.omp_set_num_threads(threads)
        faiss.cvar.distance_compute_blas_threshold = threshold
        faiss.cvar.distance_compute_blas_database_bs = BLOCK
        return index.search(unit, K)[1]

    ways = {"row by row": plain, "by BLAS": QUERIES_FOR_BLAS} if flat else {"row by row": plain}
    return {
        f"FAISS {type(index).__name__}, {n} threads, {way}": lambda n=n, threshold=threshold: search(n, threshold)
        for n in sorted({1, torch.get_num_threads()})
        for way, threshold in ways.items()
    }


def usearch_runs(queries: torch.Tensor, bank: torch.Tensor, dtype: torch.dtype) -> dict[str, Search]:
    try:
        from usearch.index import MetricKind, search
    except ImportError:
        return {}
    x, y = narrowed(queries, dtype).numpy(), narrowed(bank, dtype).numpy()
    threads = torch.get_num_threads()
    return {
        "USearch, exact": lambda: np.reshape(search(y, x, K, MetricKind.Cos, exact=True, threads=threads).keys, (-1, K))
    }


def numkong_runs(queries: torch.Tensor, bank: torch.Tensor, dtype: torch.dtype) -> dict[str, Search]:
    """Its table of angles, from rows and from a packed bank, and NumPy's partition; one thread, it has no other."""
    try:
        import numkong
    except ImportError:
        return {}
    x, y = narrowed(queries, dtype).numpy(), narrowed(bank, dtype).numpy()

    packed = numkong.dots_pack(y)

    def search(table: Callable[[], Any]) -> Any:
        angles = np.asarray(table()).reshape(len(x), -1)
        nearest = np.argpartition(angles, K, 1)[:, :K]
        return np.take_along_axis(nearest, np.take_along_axis(angles, nearest, 1).argsort(1), 1)

    tables = {"cdist": lambda: numkong.cdist(x, y, "angular"), "packed": lambda: numkong.angulars_packed(x, packed)}
    return {f"NumKong {way} + partition": lambda table=table: search(table) for way, table in tables.items()}


def scann_runs(queries: torch.Tensor, bank: torch.Tensor, dtype: torch.dtype) -> dict[str, Search]:
    if dtype == torch.float16:
        return {}
    try:
        import scann
    except ImportError:
        return {}
    unit, unit_bank = F.normalize(queries).numpy(), F.normalize(bank).numpy()
    built = scann.scann_ops_pybind.builder(unit_bank, K, "dot_product").score_brute_force(quantize=dtype == torch.int8)
    searcher = built.build()
    found = {"ScaNN brute force": lambda: searcher.search_batched(unit)[0]}
    if len(queries) > 1:
        found["ScaNN brute force, all threads"] = lambda: searcher.search_batched_parallel(unit)[0]
    return found


def recall(found: Any, wanted: torch.Tensor) -> float:
    """Share of the true nearest that were found."""
    rows = zip(np.asarray(found).tolist(), wanted.tolist(), strict=True)
    return sum(len(set(map(int, a)) & set(b)) for a, b in rows) / wanted.numel()


def case(count: int, bank: torch.Tensor, dtype: torch.dtype, repeats: int) -> dict[str, Any]:
    queries, narrow = torch.randn(count, D), narrowed(bank, dtype)
    wanted = cosine_topk(queries, bank, K)[1]
    runs: dict[str, Any] = {OURS: lambda: cosine_topk(queries, narrow, K)[1]}
    for make in (torch_runs, faiss_runs, usearch_runs, numkong_runs, scann_runs):
        runs |= make(queries, bank, dtype)
    recalls = {name: recall(run(), wanted) for name, run in runs.items()}
    assert min(recalls.values()) > 0.85, recalls
    runs["read the bank"] = lambda: narrow.view(torch.uint8).view(torch.int64).sum()
    times = contest.race(runs, repeats)
    peers = [name for name in times if name not in (OURS, "read the bank")]
    best = min(peers, key=lambda name: times[name][0])
    reached = [f"{contest.ratio(times, best, OURS)}x {best}"]
    if count == 1:
        reached.append(f"{contest.ratio(times, 'read the bank', OURS)} of the speed of reading the bank")
    said = ", ".join(f"{name} {share:.3f}" for name, share in recalls.items())
    precision = str(dtype).removeprefix("torch.")
    return {
        "title": f"{count} {'query' if count == 1 else 'queries'}, bank {M} x {D} in {precision}, k {K}",
        "times": times,
        "ours": OURS,
        "peak extra bytes": {OURS: machine.peak_extra_memory(runs[OURS])},
        "notes": [f"Recall against single precision: {said}."],
        "goal": "ahead of each",
        "reached": ", ".join(reached),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    torch.manual_seed(0)
    facts = contest.conditions()
    bank = torch.randn(M, D)
    cases = [
        case(count, bank, dtype, repeats) for count in (1, 100) for dtype in (torch.float32, torch.float16, torch.int8)
    ]
    contest.publish("cosine_topk", "The peers' bank was scaled to unit rows beforehand; ours was not.", facts, cases)


if __name__ == "__main__":
    machine.reuse_allocations()
    main()
