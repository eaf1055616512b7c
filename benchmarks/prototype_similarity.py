"""prototype_similarity against PyTorch, eager and compiled: ``python benchmarks/prototype_similarity.py``."""

from __future__ import annotations

import argparse
from typing import Any

import contest
import machine
import torch
import torch.nn.functional as F

from zoo.ops import prototype_similarity

CASES = [(32, 1280, 7, 160), (32, 256, 14, 80), (1, 256, 56, 200)]  # b, d, side, p
OURS = "zoo.ops.prototype_similarity"
Answer = tuple[torch.Tensor, torch.Tensor]


def eager(features: torch.Tensor, prototypes: torch.Tensor) -> Answer:
    """As it is usually written: both normalised, one product, the maximum."""
    table = F.normalize(prototypes, dim=1) @ F.normalize(features.flatten(2), dim=1)
    best = table.max(-1)
    return best.values, best.indices


def eager_on_table(features: torch.Tensor, prototypes: torch.Tensor) -> Answer:
    """The cells' norms applied to the table, which is smaller than the features."""
    cells = features.flatten(2)
    table = (F.normalize(prototypes, dim=1) @ cells) / torch.linalg.vector_norm(cells, dim=1, keepdim=True)
    best = table.max(-1)
    return best.values, best.indices


def case(b: int, d: int, side: int, p: int, repeats: int) -> dict[str, Any]:
    features, prototypes = torch.randn(b, d, side, side), torch.randn(p, d)
    peers = {"PyTorch eager": eager, "PyTorch eager, norms on the table": eager_on_table}
    peers |= {f"torch.compile of {name}": torch.compile(peer, dynamic=False) for name, peer in peers.items()}
    runs: dict[str, contest.Run] = {OURS: lambda: prototype_similarity(features, prototypes)}
    runs |= {name: lambda peer=peer: peer(features, prototypes) for name, peer in peers.items()}
    with torch.no_grad():
        similarity, argmax = runs[OURS]()
        for run in list(runs.values())[1:]:
            values, index = run()
            torch.testing.assert_close(similarity, values, rtol=1e-4, atol=1e-5)
            assert (argmax == index).float().mean() > 0.999  # rounding may settle a tie otherwise
        times = contest.race(runs, repeats)
        memory = {name: machine.peak_extra_memory(runs[name]) for name in (OURS, *list(peers)[:2])}
    flops = 2 * b * side**2 * d * p
    rate = flops / times[OURS][0] / 1e9
    compiled = contest.fastest({name: t for name, t in times.items() if "compile" in name}, but=OURS)
    return {
        "title": f"features ({b}, {d}, {side}, {side}), {p} prototypes",
        "times": times,
        "ours": OURS,
        "peak extra bytes": memory,
        "GFLOP/s": rate,
        "notes": [f"{flops / 1e9:.2f} GFLOP in the product: {rate:.0f} GFLOP/s."],
        "goal": "at least 75 % of sgemm, ahead of torch.compile, at most 1/3 of eager's extra memory",
        "compare": (compiled, memory[OURS] / max(1, memory["PyTorch eager"])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=41)
    repeats = parser.parse_args().repeats
    torch.manual_seed(0)
    facts = contest.conditions()
    cases = [case(*sizes, repeats) for sizes in CASES]
    sgemm = (facts["sgemm GFLOP/s"] + machine.sgemm_rate()) / 2
    for row in cases:
        compiled, memory = row.pop("compare")
        row["reached"] = (
            f"{row['GFLOP/s'] / sgemm:.0%} of sgemm, {contest.ratio(row['times'], 'PyTorch eager', OURS)}x eager, "
            f"{contest.ratio(row['times'], compiled, OURS)}x the faster torch.compile, {memory:.2f} of eager's memory"
        )
    contest.publish("prototype_similarity", "Everybody gets the same contiguous feature map.", facts, cases)


if __name__ == "__main__":
    machine.reuse_allocations()
    main()
