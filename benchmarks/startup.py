"""What the zoo adds to a process: `zoo list` beside the libraries of any command line, a prediction beside torch.

Processor time of whole processes, which take turns so that a busy machine slows all of them alike. The forward pass is
taken apart from a prediction in this process: what a network needs is not the start's.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = 9


def seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def forward() -> float:
    """Of the networks of one prediction, everything around them left out."""
    import torch

    import zoo

    model = zoo.load("map-vessel")
    spent: list[float] = []
    network, start = model.network, [0.0]
    network.register_forward_pre_hook(lambda *_: start.__setitem__(0, time.process_time()))
    network.register_forward_hook(lambda *_: spent.append(time.process_time() - start[0]))
    found = []
    for _ in range(5):
        spent.clear()
        with torch.inference_mode():
            model.predict("sample:retina")
        found.append(sum(spent))
    return statistics.median(found)


def main() -> None:
    zoo = str(Path(sys.executable).with_name("zoo"))
    with tempfile.TemporaryDirectory() as folder:
        light = {
            "import typer, rich.table": [sys.executable, "-c", "import typer, rich.table"],
            "zoo list": [zoo, "list"],
            "zoo --help": [zoo, "--help"],
        }
        heavy = {
            "import torch, PIL, numpy": [sys.executable, "-c", "import torch, PIL, numpy"],
            "zoo predict map-vessel sample:retina": [zoo, "predict", "map-vessel", "sample:retina", "--out", folder],
        }
        for commands in (light, heavy):
            for command in commands.values():  # warm the file cache
                seconds(command)
            times: dict[str, list[float]] = {name: [] for name in commands}
            for _ in range(RUNS):
                for name, command in commands.items():
                    times[name].append(seconds(command))
            base = statistics.median(times[next(iter(commands))])
            for name, measured in times.items():
                middle = statistics.median(measured)
                print(f"{name:<38} {1000 * middle:6.0f} ms  {middle / base:.2f}x")
    passes = forward()
    print(f"{'  of that its forward passes':<38} {1000 * passes:6.0f} ms  {(middle - passes) / base:.2f}x without them")


if __name__ == "__main__":
    main()
