"""A batch of small images through ``zoo predict`` against the same in a Python loop: 1,000 images, one command.

``python benchmarks/batch.py`` writes ``benchmarks/results/``; ``--images N`` takes fewer and writes nothing. Both are
processes of their own, timed from start to end, imports and loading included, and take turns. Both write JSON and mask
of each image; the command writes the table too, and both are also timed with the figure. Processor seconds stand beside
those of the clock: they hold on a machine that does other things, too.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import contest
from PIL import Image

from zoo import media

MODEL, PHANTOM, SIZE, GOAL = "avit", "skin-lesion", 128, 0.95
LOOP = """
import sys
import zoo
from pathlib import Path
folder, out, figure = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "figure"
model = zoo.load(sys.argv[4], device="cpu")
for path in sorted(folder.iterdir()):
    model.predict(path).save(out, figure=figure)
"""


def draw(folder: Path, count: int) -> None:
    """Photographs of 128 px: 20 phantoms, again and again."""
    for i in range(count):
        if i < 20:
            picture = Image.fromarray(media.read(f"phantom:{PHANTOM}?seed={i}&size={SIZE}").array)
            picture.save(folder / f"{i:04d}.png")
        else:
            shutil.copy(folder / f"{i % 20:04d}.png", folder / f"{i:04d}.png")


def seconds(command: list[str]) -> tuple[float, float]:
    """By the clock, and of processor time."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    worked = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, worked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=2)
    asked = parser.parse_args()
    facts = contest.conditions()
    cases = []
    with tempfile.TemporaryDirectory() as scratch:
        folder, out = Path(scratch, "images"), Path(scratch, "out")
        folder.mkdir()
        draw(folder, asked.images)
        for figure in ("none", "figure"):
            count = asked.images if figure == "none" else max(1, asked.images // 5)
            for path in sorted(folder.iterdir())[count:]:
                path.unlink()
            loop = [sys.executable, "-c", LOOP, str(folder), str(out / "loop"), figure, MODEL]
            zoo = [
                sys.executable,
                "-m",
                "zoo",
                "predict",
                MODEL,
                str(folder),
                "--device",
                "cpu",
                "--out",
                str(out / "zoo"),
            ]
            times: dict[str, list[float]] = {"zoo predict": [], "loop in Python": []}
            work: dict[str, list[float]] = {"zoo predict": [], "loop in Python": []}
            for _ in range(asked.repeats):
                for name, command in (("loop in Python", loop), ("zoo predict", zoo)):
                    shutil.rmtree(out, ignore_errors=True)
                    plain = ["--no-figure"] if command is zoo and figure == "none" else []
                    by_clock, worked = seconds([*command, *plain])
                    times[name].append(by_clock)
                    work[name].append(worked)
            best = {name: min(found) for name, found in times.items()}
            speed = best["loop in Python"] / best["zoo predict"]
            cheap = min(work["loop in Python"]) / min(work["zoo predict"])
            each = min(work["zoo predict"]) / count
            medians = {name: (sorted(found)[len(found) // 2], min(found)) for name, found in times.items()}
            cases.append(
                {
                    "title": f"{count:,} images of {SIZE} px, JSON, mask{', figure' if figure == 'figure' else ''}",
                    "times": medians,
                    "ours": "zoo predict",
                    "notes": [
                        f"zoo predict is as fast as {speed:.3f} loops: {count / best['zoo predict']:.1f} images/s.",
                        f"By processor time as {cheap:.3f} loops: {1000 * each:.1f} ms for an image.",
                    ],
                    "goal": f"at least {GOAL} of the loop",
                    "reached": "yes" if min(speed, cheap) >= GOAL else "no",
                }
            )
            told = {name: round(value, 2) for name, value in best.items()}
            print(cases[-1]["title"], told, f"{speed:.3f} {cheap:.3f}", flush=True)
    if asked.images >= 1000:
        contest.publish("batch", f"`{MODEL}` with its demo weights; processes from start to end.", facts, cases)


if __name__ == "__main__":
    main()
