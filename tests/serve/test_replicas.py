"""The same server on Ray Serve: its front asks replicas, and one that dies is not noticed."""

from __future__ import annotations

import concurrent.futures
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import zoo
from zoo.client import Client
from zoo.errors import OptionError
from zoo.extras import missing

if missing("cluster") or missing("serve"):
    pytest.skip("needs the extras cluster and serve", allow_module_level=True)

from zoo.serve import replicas
from zoo.serve.uploads import Asked


def test_files_of_a_request_are_moved_with_all_that_names_them(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    asked = Asked(
        "m", [f"{here}/1/a.png", "phantom:fundus"], {"mask": f"{here}/2/b.png", "box": ((1, 2),), "n": 3}, here
    )
    moved = replicas.moved(asked, there)
    assert moved.inputs == [f"{there}/1/a.png", "phantom:fundus"]
    assert moved.chosen == {"mask": f"{there}/2/b.png", "box": ((1, 2),), "n": 3}
    assert moved.folder == there
    assert asked.inputs[0] == f"{here}/1/a.png"


def test_a_replica_answers_as_the_server_would(tmp_path: Path) -> None:
    one = replicas.Replica(replicas.Settings(models=("disbelieve",), device="cpu"), 1)
    asked = Asked("disbelieve", ["phantom:skin-lesion?seed=4"], {}, tmp_path / "gone", ("zip",), True)
    answer, files = one.predict(asked, {})
    expected = zoo.predict("disbelieve", "phantom:skin-lesion?seed=4", device="cpu")[0]
    assert answer.results[0]["probabilities"] == expected.to_dict()["probabilities"]
    assert set(files) == set(answer.files[0].values())
    refused, none = one.predict(
        Asked("disbelieve", [str(tmp_path / "gone" / "1" / "x.png")], {}, tmp_path / "gone"), {}
    )
    assert isinstance(refused, zoo.MediaError)
    assert none == {}


def test_options_of_a_cluster_are_refused_without_one(zoo_cli) -> None:
    assert "add --engine ray" in zoo_cli("serve", "--replicas", "2").refused
    assert "there is no engine 'spark'" in zoo_cli("serve", "--engine", "spark").refused


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    log = tmp_path_factory.mktemp("serve") / "log"
    arguments = [
        "serve",
        "disbelieve",
        "--engine",
        "ray",
        "--replicas",
        "2",
        "--port",
        "0",
        "--device",
        "cpu",
        "--no-page",
    ]
    with open(log, "w") as file:
        running = subprocess.Popen(
            [sys.executable, "-m", "zoo", *arguments], stdout=file, stderr=file, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 300
        while not (found := re.search(r"serving on (http://\S+)", log.read_text())):
            assert running.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        yield found[1], running
    finally:
        running.send_signal(signal.SIGINT)
        running.wait(120)


@pytest.mark.slow
def test_replicas_answer_side_by_side_and_one_that_dies_is_not_noticed(server, tmp_path: Path) -> None:
    import psutil

    url, running = server
    client = Client(url, timeout=300)
    expected = zoo.predict("disbelieve", "phantom:skin-lesion?seed=4", device="cpu")[0].to_dict()["probabilities"]

    def ask(seed: int = 4) -> dict[str, float]:
        return client.predict("disbelieve", f"phantom:skin-lesion?seed={seed}")[0].record["probabilities"]

    assert ask() == pytest.approx(expected, abs=1e-5)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(ask, range(8)))) == 8
    with pytest.raises(OptionError, match="nonsense"):
        client.predict("disbelieve", "phantom:skin-lesion?seed=4", nonsense=3)
    [with_files] = client.predict("disbelieve", "phantom:skin-lesion?seed=4", files=True)  # a job of the front
    assert with_files.figure().size[0] > 100
    children = psutil.Process(running.pid).children(recursive=True)
    workers = [one for one in children if "ServeReplica:zoo:replica" in " ".join(one.cmdline())]
    assert len(workers) == 2
    os.kill(workers[0].pid, signal.SIGKILL)
    for _ in range(6):
        assert ask() == pytest.approx(expected, abs=1e-5)
