"""cosine_topk against FAISS and ``torch.matmul`` + ``topk``: ``python benchmarks/cosine_topk.py``.

Needs ``faiss-cpu`` for that peer. The peers get a bank whose rows were scaled to unit length beforehand, which the
operator does on its way.
"""

from __future__ import annotations

import argparse
from typing import Any

import contest
import machine
import torch
import torch.nn.functional as F

from zoo.ops import cosine_topk

M, D, K = 100_000, 512, 10
BLOCKS = (1024, 16384)  # rows of the bank that FAISS multiplies at a time: its default, and more
QUERIES_FOR_BLAS = 20  # FAISS's own limit in earlier versions
OURS = "zoo.ops.cosine_topk"
MATMUL = "torch.matmul + topk"


def faiss_runs(queries: torch.Tensor, unit_bank: torch.Tensor) -> dict[str, contest.Run]:
    """IndexFlatIP with one thread and with all, or nothing where FAISS is not installed.

    Each as it comes and at its best: FAISS 1.15 leaves the products to BLAS from 128,000 queries on only, and takes
    1,024 entries at a time, unless it is told otherwise. By BLAS a hundred queries go eight times faster.
    """
    try:
        import faiss
    except ImportError:
        return {}
    index = faiss.IndexFlatIP(D)
    index.add(unit_bank.numpy())
    unit = F.normalize(queries).numpy()

    def search(threads: int, settings: tuple[int, int]) -> torch.Tensor:
        faiss.omp_set_num_threads(threads)
        faiss.cvar.distance_compute_blas_threshold, faiss.cvar.distance_compute_blas_database_bs = settings
        return torch.from_numpy(index.search(unit, K)[1])

    ways = {
        "as it comes": (faiss.cvar.distance_compute_blas_threshold, faiss.cvar.distance_compute_blas_database_bs),
        **{f"by BLAS, blocks of {block:,}": (QUERIES_FOR_BLAS, block) for block in BLOCKS},
    }
    return {
        f"FAISS IndexFlatIP, {n} threads, {way}": lambda n=n, settings=settings: search(n, settings)
        for n in sorted({1, torch.get_num_threads()})
        for way, settings in ways.items()
    }


def case(count: int, bank: torch.Tensor, unit_bank: torch.Tensor, repeats: int) -> dict[str, Any]:
    queries = torch.randn(count, D)
    runs: dict[str, contest.Run] = {
        OURS: lambda: cosine_topk(queries, bank, K)[1],
        MATMUL: lambda: torch.matmul(F.normalize(queries), unit_bank.T).topk(K).indices,
        **faiss_runs(queries, unit_bank),
        "read the bank": lambda: bank.sum(),
    }
    expected = runs[OURS]()
    for name, run in runs.items():
        assert name.startswith("read") or (run() == expected).float().mean() > 0.999, name
    times = contest.race(runs, repeats)
    memory = {name: machine.peak_extra_memory(runs[name]) for name in (OURS, MATMUL)}
    read, faiss = bank.nbytes / times[OURS][0] / 1e9, [name for name in times if name.startswith("FAISS")]
    reached = [f"{contest.ratio(times, MATMUL, OURS)}x torch.matmul + topk"]
    if faiss:
        reached.append(f"{contest.ratio(times, min(faiss, key=lambda name: times[name][0]), OURS)}x FAISS at its best")
    if count == 1:
        reached.append(f"{contest.ratio(times, 'read the bank', OURS)} of the speed of reading the bank")
    rate = 2 * count * M * D / times[OURS][0] / 1e9
    return {
        "title": f"{count} {'query' if count == 1 else 'queries'}, bank {M} x {D}, k {K}",
        "times": times,
        "ours": OURS,
        "peak extra bytes": memory,
        "notes": [f"The bank goes by at {read:.1f} GB/s; {rate:.0f} GFLOP/s in the products."]
        + ([] if faiss else ["FAISS is absent: it is not installed here."]),
        "goal": "at least 75 % of read bandwidth and ahead of FAISS IndexFlatIP"
        if count == 1
        else "at least 3x FAISS IndexFlatIP and ahead of torch.matmul + topk",
        "reached": ", ".join(reached),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=21)
    repeats = parser.parse_args().repeats
    torch.manual_seed(0)
    facts = contest.conditions()
    bank = torch.randn(M, D)
    unit_bank = F.normalize(bank)
    cases = [case(count, bank, unit_bank, repeats) for count in (1, 100)]
    contest.publish("cosine_topk", "The peers' bank was scaled to unit rows beforehand; ours was not.", facts, cases)


if __name__ == "__main__":
    machine.reuse_allocations()
    main()
