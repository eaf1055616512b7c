"""The server against calling the model in a loop: requests per second, p95, start to first answer, memory.

``python benchmarks/serve.py`` measures everything in one run and writes ``benchmarks/results/``. Server, clients and
loop are processes of their own; loop and server take turns. ``--quick`` takes few requests and writes nothing. Then
comes ``batch.py``, unless ``--server`` says that the server is all.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import contest
import machine
from PIL import Image

from zoo import media
from zoo.client import Client
from zoo.errors import ZooError

MODEL, CLIENTS, GOAL = "map-vessel", 8, 0.9
REQUESTS, TURNS = 24, 3
FIVE = ("map-vessel", "grad-align", "local-global-prototypes", "cemb-sam", "sampot")


@contextmanager
def serving(*models: str, page: bool = False) -> Iterator[tuple[Client, int, float]]:
    """A server of its own process: a client, its process id, and when it was started."""
    command = [sys.executable, "-m", "zoo", "serve", *models, "--port", "0", "--device", "cpu"]
    start = time.perf_counter()
    process = subprocess.Popen([*command, *([] if page else ["--no-page"])], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = next(line for line in process.stderr if "http://" in line)
        client = Client(next(word for word in line.split() if word.startswith("http://")))
        while True:
            try:
                client.models()
                break
            except ZooError:
                time.sleep(0.01)
        yield client, process.pid, start
    finally:
        process.terminate()
        process.wait()


def asked(url: str, image: str, requests: int, clients: int) -> list[float]:
    """Seconds of each of so many requests, and of all together, by clients that each wait for their answer."""

    def one(_: int) -> float:
        start = time.perf_counter()
        Client(url).predict(MODEL, image)
        return time.perf_counter() - start

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(one, range(clients)))
        start = time.perf_counter()
        times = list(pool.map(one, range(requests)))
        return [*times, time.perf_counter() - start]


def looped(image: str, requests: int) -> list[float]:
    """The same of the model in a loop: what the server does without its HTTP."""
    import zoo

    model = zoo.load(MODEL, device="cpu")
    for _ in range(2):
        model.predict(image)
    times = []
    start = time.perf_counter()
    for _ in range(requests):
        begin = time.perf_counter()
        found = model.predict(image)
        json.dumps({**found.to_dict(), "summary": found.summary()})
        times.append(time.perf_counter() - begin)
    return [*times, time.perf_counter() - start]


def apart(what: str, *arguments: Any) -> list[float]:
    """``asked`` or ``looped`` in a process of its own."""
    command = [sys.executable, __file__, "--part", what, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [float(value) for value in done.stdout.split()]


def throughput(image: str, requests: int, repeats: int) -> dict[str, float]:
    rates: dict[str, list[float]] = {}
    waits: dict[str, list[float]] = {}
    with serving(MODEL) as (client, _, _):
        for _ in range(repeats):
            for name, times in (
                ("in a loop", apart("looped", image, requests)),
                ("server, 1 client", apart("asked", client.url, image, requests, 1)),
                (f"server, {CLIENTS} clients", apart("asked", client.url, image, requests, CLIENTS)),
            ):
                rates.setdefault(name, []).append(requests / times[-1])
                waits.setdefault(name, []).extend(times[:-1])
    found: dict[str, float] = {}
    for name in rates:
        found[f"predictions per second, {name}"] = statistics.median(rates[name])
        found[f"p95 of a prediction, {name}, ms"] = 1000 * statistics.quantiles(waits[name], n=20)[-1]
    best, loop = rates[f"server, {CLIENTS} clients"], rates["in a loop"]
    found[f"server with {CLIENTS} clients over loop (goal {GOAL})"] = statistics.median(
        one / other for one, other in zip(best, loop, strict=True)
    )
    return found


def first_answers(image: str, repeats: int) -> dict[str, float]:
    """Seconds from the start of the command to the first answer, and to the first prediction."""
    found: dict[str, list[float]] = {}
    for page in (False, True):
        for _ in range(repeats):
            with serving(MODEL, page=page) as (client, _, start):
                suffix = "with the page" if page else "without the page"
                found.setdefault(f"start to first answer, {suffix}, s", []).append(time.perf_counter() - start)
                client.predict(MODEL, image)
                found.setdefault(f"start to first prediction, {suffix}, s", []).append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in found.items()}


def memory() -> dict[str, float]:
    """MB that a server holds after a prediction with one and with five models."""
    found = {}
    with serving(*FIVE) as (client, pid, _):
        for count, name in enumerate(FIVE, start=1):
            card = client.info(name)
            options = {"box": [60, 60, 180, 180]} if any(item["kind"] == "box" for item in card["inputs"]) else {}
            client.predict(name, f"{card['phantom']}?seed=1", **options)
            if count in (1, len(FIVE)):
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                resident = next(line for line in lines if line.startswith("VmRSS:"))
                found[f"memory with {count} models, MB"] = int(resident.split()[1]) / 1024
    return found


def server(quick: bool) -> dict[str, float]:
    """All about the server."""
    with tempfile.TemporaryDirectory() as folder:
        image = str(Path(folder) / "eye.png")
        Image.fromarray(media.read("phantom:fundus?seed=5").array).resize((256, 256)).save(image)
        found = throughput(image, 8 if quick else REQUESTS, 1 if quick else TURNS)
        return found | first_answers(image, 1 if quick else 2) | memory()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--server", action="store_true")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        what, *rest = arguments.part
        times = looped(rest[0], int(rest[1])) if what == "looped" else asked(*rest[:2], int(rest[2]), int(rest[3]))
        print(*times)
        return
    loads = [os.getloadavg()[0]]
    result: dict[str, Any] = server(arguments.quick)
    loads.append(os.getloadavg()[0])
    lines = [f"{name}: {value:.4g}" for name, value in result.items()]
    print("\n".join(lines))
    if not arguments.quick:
        facts = machine.facts() | {"load": loads}
        busy = "Load average at the start and end: {:.1f} and {:.1f}.".format(*loads)
        about = f"{facts['processor']}, {facts['threads']} threads, torch {facts['torch']}, {facts['date']}. {busy}"
        note = (
            f"{MODEL} on a file of 256 x 256 px; a prediction gives its record, as JSON. Server, clients and loop are "
            f"processes on the same cores; rates are medians of {TURNS} turns of {REQUESTS} predictions."
        )
        page = "\n".join(["# serve", "", about, "", note, "", *(f"- {line}" for line in lines), ""])
        contest.save("serve", page, facts, [result])
        if not arguments.server:
            subprocess.run([sys.executable, Path(__file__).with_name("batch.py")], check=True)


if __name__ == "__main__":
    main()
