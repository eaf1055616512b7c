"""nearest_neighbors against SciPy and small_gicp: ``python benchmarks/nearest_neighbors.py``.

Index build and all queries, each time. Needs ``scipy``, and ``small_gicp`` for that peer.
"""

from __future__ import annotations

import argparse
from typing import Any

import clouds
import contest
import machine
import numpy as np
import torch
from scipy.spatial import cKDTree

from zoo.ops import nearest_neighbors

OURS = "zoo.ops.nearest_neighbors"


def small_gicp_runs(points: np.ndarray, queries: np.ndarray, k: int, threads: int) -> dict[str, contest.Run]:
    try:
        import small_gicp
    except ImportError:
        return {}
    points, queries = (np.pad(cloud, ((0, 0), (0, 3 - cloud.shape[1]))) for cloud in (points, queries))

    def run() -> Any:
        tree = small_gicp.KdTree(points, num_threads=threads)
        if k == 1:
            return tree.batch_nearest_neighbor_search(queries, num_threads=threads)
        return tree.batch_knn_search(queries, k, num_threads=threads)

    return {f"small_gicp.KdTree, {threads} threads": run}


def case(title: str, points: np.ndarray, queries: np.ndarray, k: int, repeats: int) -> dict[str, Any]:
    x, y = torch.tensor(queries, dtype=torch.float32), torch.tensor(points, dtype=torch.float32)
    threads = torch.get_num_threads()
    wide = {name: tensor.double().numpy() for name, tensor in (("points", y), ("queries", x))}
    runs: dict[str, contest.Run] = {
        OURS: lambda: nearest_neighbors(x, y, k),
        f"SciPy cKDTree, {threads} workers": lambda: cKDTree(wide["points"]).query(wide["queries"], k, workers=threads),
        f"SciPy cKDTree, {threads} workers, unbalanced": lambda: cKDTree(
            wide["points"], balanced_tree=False, compact_nodes=False
        ).query(wide["queries"], k, workers=threads),
        **small_gicp_runs(wide["points"], wide["queries"], k, threads),
    }
    expected = torch.from_numpy(cKDTree(wide["points"]).query(wide["queries"], k)[0]).float().reshape(len(x), -1)
    torch.testing.assert_close(runs[OURS]()[0].reshape(len(x), -1), expected, rtol=1e-4, atol=1e-5)
    times = contest.race(runs, repeats)
    best = contest.fastest(times, but=OURS)
    return {
        "title": f"{title}: {len(x)} queries, {len(y)} points, k {k}",
        "times": times,
        "ours": OURS,
        "notes": [] if any("gicp" in name for name in times) else ["small_gicp is absent: it is not installed here."],
        "goal": "at least 1.5x the faster of SciPy cKDTree and small_gicp's tree, build and query",
        "reached": f"{contest.ratio(times, best, OURS)}x {best}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=11)
    repeats = parser.parse_args().repeats
    facts = contest.conditions()
    scans = clouds.surface(70_000, 1), clouds.moved(clouds.surface(70_000, 0), 6, 0.05)
    small = tuple(clouds.downsampled(cloud, 0.047) for cloud in scans)
    flat = clouds.layer(20_000, 1), clouds.moved(clouds.layer(20_000, 0), 6, 0.05)
    cases = [
        case(title, *pair, k, repeats)
        for title, pair in (
            ("Surface, downsampled", small),
            ("Surface, full", scans),
            ("Planar layers", flat),
        )
        for k in (1, 8)
    ]
    contest.publish("nearest_neighbors", "The peers' points are float64 arrays beforehand.", facts, cases)


if __name__ == "__main__":
    machine.reuse_allocations()
    main()
