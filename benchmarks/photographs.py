"""What a photograph of 24 megapixels costs before a network sees it: decoding, its light, and the second time.

``python benchmarks/photographs.py`` writes ``benchmarks/results/``; ``--small`` takes a small photograph and writes
nothing. Seconds of the processor, one thread. ``light of all pixels`` is what ``prepare`` did before it estimated the
light on a thumbnail; both views are compared.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import contest
import machine
import numpy as np
import torch
from PIL import Image as PILImage

from zoo.data.dermoscopy import shades_of_gray
from zoo.data.images import resize, square
from zoo.data.phantoms.skin import skin_lesion
from zoo.data.photographs import prepare, views_of

SIZE = 224  # px, of the view


def photograph(path: Path, height: int, width: int) -> None:
    """A drawn lesion, enlarged, with the noise of a sensor, as JPEG."""
    drawn = PILImage.fromarray(np.asarray(skin_lesion(0, size=256).image, np.uint8))
    pixels = np.asarray(drawn.resize((width, height), PILImage.Resampling.BICUBIC), np.int16)
    noise = np.random.default_rng(0).integers(-6, 7, pixels.shape, dtype=np.int16)
    PILImage.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)).save(path, quality=92)


def seconds(function: Callable[[], Any], repeats: int) -> float:
    """Of the processor; the median."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return statistics.median(times)


def measure(height: int, width: int, repeats: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ZOO_VIEWS"] = str(Path(folder) / "views")
        path = Path(folder) / "photograph.jpg"
        photograph(path, height, width)

        def decoded() -> np.ndarray:
            return np.asarray(PILImage.open(path).convert("RGB"))

        exact = decoded()

        def by_all_pixels() -> np.ndarray:
            return resize(square(np.round(shades_of_gray(exact / np.float32(255)) * 255).astype(np.uint8)), SIZE)

        def by_thumbnail() -> np.ndarray:
            return prepare(str(path), SIZE, True, "a benchmark").view

        def again() -> np.ndarray:
            return views_of(str(path), SIZE, True, "a benchmark")["view"]

        found, before = by_thumbnail(), by_all_pixels()
        first = seconds(again, 1)
        assert np.array_equal(again(), found)
        return {
            "megapixels": height * width / 1e6,
            "seconds": {
                "decoding alone (Pillow)": seconds(decoded, repeats),
                "balancing by the light of all pixels, without reading": seconds(by_all_pixels, repeats),
                "all of prepare: reading, light of the thumbnail, digest": seconds(by_thumbnail, repeats),
                "the first time in a training, kept on disk": first,
                "every further time": seconds(again, 10 * repeats),
            },
            "largest difference": int(np.abs(found.astype(int) - before).max()),
            "mean difference": float(np.abs(found.astype(int) - before).mean()),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    small = parser.parse_args().small
    torch.set_num_threads(1)
    facts = machine.facts() | {"load": [os.getloadavg()[0]]}
    found = measure(*((400, 600, 1) if small else (4000, 6000, 5)))
    facts["load"].append(os.getloadavg()[0])
    lines = [
        "# photographs", "",
        f"{facts['processor']}, one thread, torch {facts['torch']}, {facts['date']}. A JPEG of {found['megapixels']:g} "
        f"megapixels and a view of {SIZE} px; seconds of the processor, medians of five. Load average at the start and "
        f"end: {facts['load'][0]:.1f} and {facts['load'][1]:.1f}.", "",
        "| | CPU seconds |", "|---|---|",
        *(f"| {name} | {value:.4f} |" for name, value in found["seconds"].items()), "",
        f"The views differ by {found['mean difference']:.2f} of 255 on average, and by {found['largest difference']} "
        "at most.",
    ]  # fmt: skip
    print("\n".join(lines))
    if not small:
        contest.save("photographs", "\n".join(lines) + "\n", facts, [found])


if __name__ == "__main__":
    main()
