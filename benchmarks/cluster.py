"""Two workers of a Ray cluster against one: images per second of a batch, with one core for each worker.

``python benchmarks/cluster.py`` writes ``benchmarks/results/``; ``--quick`` takes few images and writes nothing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import contest
import machine
import ray
from PIL import Image

import zoo
from zoo import cluster, media, options, results

MODEL = "map-vessel"


def batch(paths: list[str], workers: int) -> float:
    """Seconds of a whole batch, with its start."""
    model = zoo.load(MODEL, device="cpu")
    settings = results.settings_of(model.provenance, options.record(options.complete(model.plugin, {})))
    job = cluster.Job(MODEL, None, "cpu", {}, settings, False, "auto", frozenset(), 1, 1)
    places = dict(enumerate(paths))
    stems = {place: f"eye{place}" for place in places}
    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        for _, told in cluster.predict_each(job, places, places, stems, Path(out), workers=workers):
            assert isinstance(told, cluster.Told), told
        return time.perf_counter() - start


def measure(few: int, images: int, repeats: int) -> dict[str, float]:
    """Medians of turns that one worker and two take, on one cluster of this machine.

    Results come in bursts, one for each block of inputs, so a rate is that of the images that a batch has more than
    one of ``few``: both wait for the same start.
    """
    cluster.CORES = 1
    whole: dict[int, list[float]] = {1: [], 2: []}
    rates: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder, cluster.connected(None):
        picture = Image.fromarray(media.read("phantom:fundus?seed=5").array).resize((256, 256))
        paths = [str(Path(folder) / f"{i}.png") for i in range(images)]
        for path in paths:
            picture.save(path)
        for _ in range(repeats):
            for workers in (1, 2):
                small, seconds = batch(paths[:few], workers), batch(paths, workers)
                whole[workers].append(seconds)
                rates[workers].append((images - few) / (seconds - small))
    found: dict[str, float] = {}
    for workers in (1, 2):
        name = f"{workers} worker{'s' * (workers > 1)}"
        found[f"images per second, {name}"] = statistics.median(rates[workers])
        found[f"seconds of a batch of {images} with its start, {name}"] = statistics.median(whole[workers])
    ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    return found | {"two workers over one": statistics.median(ratios)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    loads = [os.getloadavg()[0]]
    result: dict[str, Any] = measure(4, 16, 1) if quick else measure(12, 84, 2)
    loads.append(os.getloadavg()[0])
    lines = [f"{name}: {value:.4g}" for name, value in result.items()]
    print("\n".join(lines))
    if not quick:
        facts = machine.facts() | {"load": loads, "ray": ray.__version__}
        busy = "Load average at the start and end: {:.1f} and {:.1f}.".format(*loads)
        about = f"{facts['processor']}, ray {facts['ray']}, torch {facts['torch']}, {facts['date']}. {busy}"
        note = (
            f"{MODEL} on files of 256 x 256 px, one thread for each worker; rates of the images that a batch has more "
            "than a small one, so without the start. The process that writes is a third one on the same cores."
        )
        page = "\n".join(["# cluster", "", about, "", note, "", *(f"- {line}" for line in lines), ""])
        contest.save("cluster", page, facts, [result])


if __name__ == "__main__":
    main()
