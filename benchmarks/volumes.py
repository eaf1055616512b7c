"""One predict on a volume beside MONAI's plain inferer with the same network: wall time and peak memory.

``python benchmarks/volumes.py`` runs each way in a process of its own, on a volume of 256 x 256 x 160 voxels:

* ``windows``: a small 3-D U-Net with eight classes, from the file to a mask on its grid, by ``zoo.nn.windows`` and by
  ``monai.inferers.SlidingWindowInferer``
* ``slices``: ``universeg-prostate`` with its demo weights and packaged support, by the plugin's ``predict``, and by
  ``monai.inferers.SliceInferer`` with the network as it is drawn (every slice concatenated with every support)
* ``supports``: UniverSeg at its released size (64 features, 128 x 128 px, 64 supports) with and without the savings
* ``ct`` (only if asked for): 512 x 512 x 800 from file to mask, with a stand-in for the network

Peak memory is that of the process less what it held before: the network and what libraries need.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

SHAPE = (160, 256, 256)
WINDOW = (96, 96, 96)
SUPPORT = "phantom:prostate-mr?n=2&seed=9000&slices=12"


def volume(path: Path, shape: tuple[int, int, int], kind: str) -> Path:
    """A phantom enlarged to ``shape``, as a NIfTI file."""
    import nibabel

    from zoo.data.phantoms import make
    from zoo.data.volumes import resample, voxels

    image = make(f"phantom:{kind}?seed=3").image
    array, grid = voxels(image)
    target = grid.resized(shape)
    values = np.round(resample(array, grid, target)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values.T, target.affine), path)
    return path


def segmenter() -> torch.nn.Module:
    from monai.networks.nets import BasicUNet

    torch.manual_seed(0)
    return BasicUNet(3, 1, 8, features=(8, 8, 16, 32, 32, 8)).eval()


def windows(file: Path, ours: bool) -> tuple[Callable[[], Any], str]:
    from zoo import media
    from zoo.data.volumes import resample, voxels, window
    from zoo.nn.windows import sliding_window

    network = segmenter()

    def run() -> np.ndarray:
        array, native = voxels(media.read(file))
        grid = native.oriented("RAS")
        x = torch.from_numpy(window(resample(array, native, grid), -175.0, 250.0))[None]
        if ours:
            labels = sliding_window(network, x, WINDOW, finish=lambda y: y.argmax(0).to(torch.uint8), progress=False)
        else:
            from monai.inferers import SlidingWindowInferer

            inferer = SlidingWindowInferer(WINDOW, 1, 0.5, mode="gaussian")
            with torch.no_grad():
                labels = inferer(x[None], network)[0].argmax(0).to(torch.uint8)
        return resample(labels.numpy(), grid, native, mode="nearest")

    return run, "8 classes, windows of 96"


def slices(file: Path, ours: bool) -> tuple[Callable[[], Any], str]:
    import zoo
    from zoo import media
    from zoo.models.universeg_prostate.network import plain
    from zoo.models.universeg_prostate.support import Scan, read_support

    model: Any = zoo.load("universeg-prostate", device="cpu")
    side = model.config.side

    def run() -> np.ndarray:
        if ours:
            return model.predict(file, support=SUPPORT).mask
        from monai.inferers import SliceInferer

        support = read_support(SUPPORT, "gland", side, "percentiles")
        images, labels = (
            torch.from_numpy(part.astype(np.float32))[None, :, None] for part in (support.images, support.labels)
        )
        scan = Scan.of(media.read(file), side, "percentiles")
        inferer = SliceInferer(roi_size=(side, side), spatial_dim=0, sw_batch_size=1)
        with torch.no_grad():
            x = torch.from_numpy(scan.slices)[None, None]
            logits = inferer(x, lambda query: plain(model.net, query, images, labels))
        return (scan.back(logits[0, 0].sigmoid().numpy()) > 0.5).astype(np.uint8)

    return run, "160 slices, 24 supports each"


def supports(_: Path, ours: bool) -> tuple[Callable[[], Any], str]:
    from zoo.models.universeg_prostate.network import UniverSeg, plain

    torch.manual_seed(0)
    net = UniverSeg().eval()
    queries, images, labels = (
        torch.rand(2, 1, 1, 128, 128),
        torch.rand(1, 64, 1, 128, 128),
        torch.rand(1, 64, 1, 128, 128),
    )
    labels = (labels > 0.5).float()

    def run() -> np.ndarray:
        with torch.no_grad():
            if not ours:
                return torch.stack([plain(net, one, images, labels) for one in queries]).numpy()
            pairs = torch.cat([images, labels], 2)
            known = net.known(pairs[0])[None]
            return torch.stack([net.query(one, pairs.mean(1), known) for one in queries]).numpy()

    return run, "2 slices, 64 supports of 128 x 128"


def ct(file: Path, ours: bool) -> tuple[Callable[[], Any], str]:
    from zoo import media
    from zoo.data.volumes import largest_component, resample, voxels, window
    from zoo.nn.windows import sliding_window

    def network(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x * k for k in range(8)], 1)

    def run() -> np.ndarray:
        array, native = voxels(media.read(file))
        grid = native.oriented("RAS")
        x = torch.from_numpy(window(resample(array, native, grid), -175.0, 250.0))[None]
        labels = sliding_window(network, x, WINDOW, finish=lambda y: y.argmax(0).to(torch.uint8), progress=False)
        del x
        return largest_component(resample(labels.numpy(), grid, native, mode="nearest"))

    return run, "8 classes, windows of 96, a stand-in for the network"


PARTS = {"windows": windows, "slices": slices, "supports": supports, "ct": ct}


def held(what: str) -> float:
    """MB that this process holds now (``VmRSS``) or held at most (``VmHWM``, which no process inherits)."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) * 1024 / 1e6


def one(part: str, ours: bool, file: Path, out: Path) -> None:
    run, what = PARTS[part](file, ours)
    before = held("VmRSS")
    start = time.perf_counter()
    result = run()
    took = time.perf_counter() - start
    peak = held("VmHWM")
    np.save(out, result)
    print(json.dumps({"what": what, "seconds": took, "peak_mb": peak - before, "before_mb": before}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["windows", "slices", "supports"], help=", ".join(PARTS))
    parser.add_argument("--one", nargs=4, metavar=("PART", "WHO", "FILE", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        part, who, file, out = options.one
        return one(part, who == "zoo", Path(file), Path(out))
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    print("| part | by | s | peak MB beside the network | agreement |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="zoo-volumes-") as scratch:
        for part in options.parts:
            kind = "prostate-mr" if part == "slices" else "abdominal-ct"
            shape = (800, 512, 512) if part == "ct" else SHAPE
            file = Path(scratch, "none") if part == "supports" else volume(Path(scratch, f"{part}.nii"), shape, kind)
            found = {}
            for who in ("zoo",) if part == "ct" else ("zoo", "monai" if part != "supports" else "plain"):
                command = [sys.executable, __file__, "--one", part, who, str(file), str(Path(scratch, f"{who}.npy"))]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found[who] = (json.loads(done.stdout.splitlines()[-1]), np.load(Path(scratch, f"{who}.npy")))
            reference = list(found.values())[-1][1]
            for who, (row, result) in found.items():
                if result.dtype.kind == "f":
                    agreement = f"largest difference {np.abs(result - reference).max():.1e}"
                else:
                    agreement = f"{(result == reference).mean():.6%} of voxels alike"
                print(f"| {part}: {row['what']} | {who} | {row['seconds']:.1f} | {row['peak_mb']:,.0f} | {agreement} |")
    return None


if __name__ == "__main__":
    main()
