"""icp against Open3D and small_gicp: ``python benchmarks/icp.py``, with ``open3d`` and ``small_gicp`` installed.

Everybody registers point to point, builds the index of the target each time, and ends at the same RMSE within 1 %,
which is checked. Open3D has the operator's stopping rule. small_gicp stops by the size of the last step: it gets the
loosest threshold of a ladder that reaches that RMSE. The clouds are in each library's own type beforehand.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import clouds
import contest
import machine
import numpy as np
import torch
from scipy.spatial import cKDTree

from zoo.ops import icp

OURS = "zoo.ops.icp"
TOLERANCE, ITERATIONS = 1e-6, 200
Cloud = np.ndarray
Register = Callable[[], np.ndarray]  # -> [d+1 d+1], source to target


def rmse(matrix: np.ndarray, source: Cloud, target: Cloud, reach: float) -> float:
    d = source.shape[1]
    distance, _ = cKDTree(target).query(source @ matrix[:d, :d].T + matrix[:d, -1], distance_upper_bound=reach)
    return float(np.sqrt(np.mean(distance[np.isfinite(distance)] ** 2)))


def ours(source: Cloud, target: Cloud, reach: float) -> Register:
    x, y = (torch.tensor(cloud, dtype=torch.float32) for cloud in (source, target))

    def run() -> np.ndarray:
        found = icp(x, y, max_distance=reach, max_iterations=ITERATIONS, tolerance=TOLERANCE)
        matrix = np.eye(x.shape[1] + 1)
        matrix[:-1, :-1], matrix[:-1, -1] = found.R.numpy(), found.t.numpy()
        return matrix

    return run


def open3d(source: Cloud, target: Cloud, reach: float) -> Register | str:
    try:
        import open3d as o3d
    except ImportError:
        return "not installed here"
    x, y = (o3d.geometry.PointCloud(o3d.utility.Vector3dVector(cloud)) for cloud in (source, target))
    step = o3d.pipelines.registration.TransformationEstimationPointToPoint()
    rule = o3d.pipelines.registration.ICPConvergenceCriteria(TOLERANCE, TOLERANCE, ITERATIONS)
    return lambda: o3d.pipelines.registration.registration_icp(x, y, reach, np.eye(4), step, rule).transformation


def small_gicp(source: Cloud, target: Cloud, reach: float, threads: int, epsilon: float) -> Register | str:
    try:
        import small_gicp as gicp
    except ImportError:
        return "not installed here"
    x, y = gicp.PointCloud(source), gicp.PointCloud(target)

    def run() -> np.ndarray:
        tree = gicp.KdTree(y, num_threads=threads)
        found = gicp.align(
            y,
            x,
            tree,
            registration_type="ICP",
            max_correspondence_distance=reach,
            num_threads=threads,
            max_iterations=ITERATIONS,
            rotation_epsilon=epsilon,
            translation_epsilon=epsilon,
        )
        return np.asarray(found.T_target_source)

    return run


def case(title: str, source: Cloud, target: Cloud, reach: float, repeats: int) -> dict[str, Any]:
    d = source.shape[1]
    flat = [np.pad(cloud, ((0, 0), (0, 3 - d))) for cloud in (source, target)]  # the peers know three dimensions only
    runs: dict[str, Register] = {OURS: ours(source, target, reach)}
    goal = rmse(runs[OURS](), source, target, reach)
    errors, absent = {OURS: goal}, {}
    peer = open3d(*flat, reach)
    if isinstance(peer, str):
        absent["Open3D"] = peer
    else:
        runs["Open3D"], errors["Open3D"] = peer, rmse(peer(), *flat, reach)
    for threads in sorted({1, torch.get_num_threads()}):
        name = f"small_gicp, {threads} threads"
        for epsilon in (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 1e-6):
            peer = small_gicp(*flat, reach, threads, epsilon)
            if isinstance(peer, str):
                absent[name] = peer
                break
            errors[f"{name}, epsilon {epsilon:g}"] = rmse(peer(), *flat, reach)
            if errors[f"{name}, epsilon {epsilon:g}"] <= 1.01 * goal:
                runs[f"{name}, epsilon {epsilon:g}"] = peer
                break
    errors = {name: errors[name] for name in runs}
    unequal = [name for name, error in errors.items() if abs(error / goal - 1) > 0.01]
    times = contest.race(runs, repeats)
    best = contest.fastest(times, but=OURS) if len(times) > 1 else None
    found = icp(torch.tensor(source).float(), torch.tensor(target).float(), max_distance=reach, tolerance=TOLERANCE)
    return {
        "title": f"{title}: {len(source)} to {len(target)} points",
        "times": times,
        "ours": OURS,
        "rmse": errors,
        "notes": [
            f"{int(found.iterations)} iterations; RMSE "
            + ", ".join(f"{error:.6f} ({name})" for name, error in errors.items())
            + "."
        ]
        + [f"{name} did not reach the same RMSE." for name in unequal]
        + [f"{name} is absent: {why}." for name, why in absent.items()],
        "goal": "at least 1.3x the faster of small_gicp and Open3D at equal RMSE within 1 %, index build included",
        "reached": f"{contest.ratio(times, best, OURS)}x {best}" if best else "no peer installed",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    facts = contest.conditions()
    full = clouds.moved(clouds.surface(70_000, 0), 6, 0.05), clouds.surface(70_000, 1)
    small = tuple(clouds.downsampled(cloud, 0.047) for cloud in full)
    flat = clouds.moved(clouds.layer(20_000, 0), 6, 0.05), clouds.layer(20_000, 1)
    cases = [
        case("Two scans of a surface, downsampled", *small, 0.2, repeats),
        case("Two scans of a surface, full", *full, 0.2, repeats),
        case("Two planar layers", *flat, 0.2, repeats),
    ]
    contest.publish("icp", (__doc__ or "").split("\n\n")[1].replace("\n", " ").strip(), facts, cases)


if __name__ == "__main__":
    machine.reuse_allocations()
    main()
