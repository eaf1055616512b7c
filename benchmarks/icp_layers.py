"""Registering one layer of points onto another: zoo.ops.icp against Open3D and small_gicp, at equal error.

``python benchmarks/icp_layers.py`` measures everything in one run and writes ``benchmarks/results/``. All are given the
same two clouds, distance and number of iterations, and a rule that none of them meets early; a time counts only beside
the true error that it reached. Peers take turns within every repeat. A peer that is not installed is named as absent:
``pip install open3d small_gicp``.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

import contest
import machine
import numpy as np
import torch

from zoo.data.phantoms.serial_sections import specimen
from zoo.models.pointcloud_recon3d.registration import densest_band
from zoo.ops import icp, status

OURS = "zoo.ops.icp"
Motion = tuple[np.ndarray, np.ndarray]
Register = Callable[[], Motion]


def layers(points: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Two neighbouring tumour layers thinned to ``points``: fixed, moved, where the moved ones belong; the cell."""
    rng = np.random.default_rng(seed)
    side = 64 * math.ceil(math.sqrt(points / 0.15) / 64)
    _, tumour = specimen(rng, 2, side)
    clouds = []
    for mask in tumour:
        rows, columns = np.nonzero(mask)
        kept = np.sort(rng.choice(len(rows), min(points, len(rows)), replace=False))
        clouds.append(np.column_stack([columns, rows])[kept] + rng.uniform(-0.5, 0.5, (len(kept), 2)))
    fixed, home = clouds
    c, s = math.cos(math.radians(3)), math.sin(math.radians(3))
    moved = (home - side / 2) @ np.array([[c, -s], [s, c]]).T + side / 2 + (0.02 * side, -0.015 * side)
    return fixed.astype(np.float32), moved.astype(np.float32), home.astype(np.float32), 0.05 * side


def ours(fixed: np.ndarray, moving: np.ndarray, reach: float, iterations: int) -> Register:
    target, source = torch.from_numpy(fixed), torch.from_numpy(moving)

    def run() -> Motion:
        found = icp(source, target, max_distance=reach, max_iterations=iterations, tolerance=0.0)
        return found.R.double().numpy(), found.t.double().numpy()

    return run


def open3d(fixed: np.ndarray, moving: np.ndarray, reach: float, iterations: int) -> Register:
    import open3d as o3d

    method = o3d.pipelines.registration

    def cloud(points: np.ndarray) -> Any:
        return o3d.geometry.PointCloud(o3d.utility.Vector3dVector(_flat(points)))

    target, source = cloud(fixed), cloud(moving)
    criteria = method.ICPConvergenceCriteria(0.0, 0.0, iterations)
    point_to_point = method.TransformationEstimationPointToPoint()

    def run() -> Motion:
        result = method.registration_icp(source, target, reach, np.eye(4), point_to_point, criteria)
        return result.transformation[:2, :2], result.transformation[:2, 3]

    return run


def small_gicp(fixed: np.ndarray, moving: np.ndarray, reach: float, iterations: int) -> Register:
    import small_gicp

    target, source = _flat(fixed), _flat(moving)
    threads = torch.get_num_threads()

    def run() -> Motion:
        # Its default is a down-sampling front end; points are given to align as they are.
        cloud = small_gicp.PointCloud(target)
        tree = small_gicp.KdTree(cloud, num_threads=threads)
        result = small_gicp.align(
            cloud, small_gicp.PointCloud(source), tree, registration_type="ICP", max_correspondence_distance=reach,
            num_threads=threads, max_iterations=iterations, rotation_epsilon=0.0, translation_epsilon=0.0,
        )  # fmt: skip
        return result.T_target_source[:2, :2], result.T_target_source[:2, 3]

    return run


def _flat(points: np.ndarray) -> np.ndarray:
    return np.column_stack([points, np.zeros(len(points))]).astype(np.float64)


PEERS = {OURS: ours, "Open3D": open3d, "small_gicp": small_gicp}


def compare(points: int, repeats: int, iterations: int) -> dict[str, Any]:
    fixed, moved, home, reach = layers(points)
    chosen = densest_band(moved).select(moved)
    rows, absent = {}, {}
    for selection, moving in (("all points", moved), ("cross of bands", moved[chosen])):
        runs: dict[str, Register] = {}
        for name, prepare in PEERS.items():
            try:
                runs[name] = prepare(fixed, moving, reach, iterations)
                runs[name]()
            except ImportError as error:
                runs.pop(name, None)
                absent[name] = str(error)
        errors = {}
        for name, run in runs.items():
            R, t = run()
            errors[name] = float(np.sqrt((((moved @ R.T + t) - home) ** 2).sum(1).mean()))
        rows[selection] = {
            name: {"median s": median, "best s": best, "error px": errors[name]}
            for name, (median, best) in contest.race(runs, repeats).items()
        }
    before = float(np.sqrt(((moved - home) ** 2).sum(1).mean()))
    return {
        "title": f"{len(moved):,} points onto {len(fixed):,}, {iterations} iterations",
        "error before, px": before,
        "rows": rows,
        "absent": absent,
    }


def report(result: dict[str, Any]) -> str:
    m = result["machine"]
    lines = [
        "# Registration of a layer",
        "",
        f"{m['processor']}, {m['threads']} of {m['cores']} cores, torch {m['torch']}, kernels {m['simd']}, "
        f"{m['date']}. Medians of {m['repeats']} turns; a tree is built in every turn.",
        "",
    ]
    for case in result["cases"]:
        lines += [f"## {case['title']}", "", f"True error before registration: {case['error before, px']:.2f} px.", ""]
        lines += ["| moved by | registered by | ms | best | ratio | true error, px |", "|---|---|---|---|---|---|"]
        for selection, rows in case["rows"].items():
            for name, row in rows.items():
                ratio = row["median s"] / rows[OURS]["median s"]
                lines.append(
                    f"| {selection} | {name} | {row['median s'] * 1e3:.1f} | {row['best s'] * 1e3:.1f} | {ratio:.2f} | "
                    f"{row['error px']:.3f} |"
                )
        lines += ["", *(f"{name} is absent: {why}\n" for name, why in case["absent"].items())]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, nargs="+", default=[20_000])
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--print-only", action="store_true", help="write no result")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cases = [compare(points, options.repeats, options.iterations) for points in options.points]
    facts = machine.facts() | {"simd": status().simd, "repeats": options.repeats}
    result = {"machine": facts, "cases": cases}
    page = report(result)
    if not options.print_only:
        contest.save("icp_layers", page, facts, cases)
    print(page)


if __name__ == "__main__":
    main()
