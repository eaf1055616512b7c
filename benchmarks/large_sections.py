"""Peak memory and time of reconstructing sections of 20,000 x 20,000 pixels, tile by tile.

``python benchmarks/large_sections.py --sections 10`` draws a specimen, writes its sections as tiled TIFFs, runs
``zoo predict pointcloud-recon3d`` on the folder in a process of its own, and prints that process' peak resident memory.
Memory doesn't grow with the size of a section, and by a few megabytes with their number.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from zoo.data.phantoms.serial_sections import serial_sections

TILE = 512
LIMIT_GB = 8


def draw(folder: Path, sections: int, side: int) -> None:
    """Sections as tiled, deflated RGB TIFFs; written tile by tile."""
    import tifffile

    small = 500
    case = serial_sections(0, layers=sections, size=small)
    scale = side / small
    for z in range(sections):
        places = (np.arange(side) / scale).astype(int)

        def tiles(z: int = z, places: np.ndarray = places):
            for top in range(0, side, TILE):
                for left in range(0, side, TILE):
                    rows, columns = places[top : top + TILE], places[left : left + TILE]
                    tile = case.image[z][np.ix_(rows, columns)]
                    yield np.pad(tile, ((0, TILE - len(rows)), (0, TILE - len(columns)), (0, 0)), mode="edge")

        tifffile.imwrite(
            folder / f"section-{z:03}.tif", tiles(), shape=(side, side, 3), dtype=np.uint8, tile=(TILE, TILE),
            photometric="rgb", compression="zlib", compressionargs={"level": 1},
        )  # fmt: skip
        print(f"wrote section {z + 1} of {sections}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sections", type=int, default=10)
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--working-size", type=int, default=2048)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="zoo-large-") as scratch:
        folder, out = Path(scratch, "sections"), Path(scratch, "out")
        folder.mkdir()
        draw(folder, options.sections, options.side)
        command = [sys.executable, "-m", "zoo", "predict", "pointcloud-recon3d", str(folder), "--out", str(out)]
        command += ["--with", f"working_size={options.working_size}", "--device", "cpu"]
        start = time.perf_counter()
        subprocess.run(command, check=True)
        took = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        record = json.loads((out / "sections.json").read_text())
    on_disk = options.sections * options.side**2 * 3 / 2**30
    print(f"{options.sections} sections of {options.side:,} x {options.side:,} px: {on_disk:.1f} GB of pixels")
    print(f"peak memory {peak:.2f} GB, {took:.0f} s, {took / options.sections:.1f} s per section")
    print(f"points: {record['points']}, reduced by {record['options']['reduced_by']}")
    if peak > LIMIT_GB:
        sys.exit(f"more than {LIMIT_GB} GB")


if __name__ == "__main__":
    main()
