"""How long `zoo list` takes, against the bare import of the libraries that any such command line needs."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

RUNS = 15


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def main() -> None:
    zoo = str(Path(sys.executable).with_name("zoo"))
    commands = {
        "import typer, rich.table": [sys.executable, "-c", "import typer, rich.table"],
        "zoo list": [zoo, "list"],
        "zoo --help": [zoo, "--help"],
    }
    for command in commands.values():  # warm the file cache
        seconds(command)
    # Interleaved, so that a busy machine slows all of them alike.
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(RUNS):
        for name, command in commands.items():
            times[name].append(seconds(command))
    base = statistics.median(times["import typer, rich.table"])
    for name, measured in times.items():
        middle = statistics.median(measured)
        print(f"{name:<26} {1000 * middle:6.0f} ms  {middle / base:.2f}x")


if __name__ == "__main__":
    main()
