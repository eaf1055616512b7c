"""A batch on a Ray cluster: nothing is lost, everything is written once, and inputs may lie elsewhere."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import numpy as np
import pytest
from PIL import Image

from zoo import cluster
from zoo.errors import MediaError
from zoo.extras import missing
from zoo.results import Table

if missing("cluster"):
    pytest.skip("needs the extra cluster", allow_module_level=True)

RAN = ["--engine", "ray", "--workers", "2", "--device", "cpu", "--no-figure"]


def pictures(folder: Path, count: int, side: int = 64) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    paths = [folder / f"eye{i}.png" for i in range(count)]
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8)).save(path)
    return paths


def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "zoo", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


def table(out: Path) -> list[dict[str, str]]:
    with open(out / "predictions.csv", newline="") as file:
        return sorted(csv.DictReader(file), key=lambda row: row["input"])


# ---- without a cluster ----------------------------------------------------------------------------------------------


def test_what_lies_elsewhere_is_told_by_its_name() -> None:
    assert [
        one for one in ("s3://b/a.png", "gs://b/*", "memory://x/a.png", "file:///a.png") if not cluster.is_url(one)
    ] == []
    assert [
        one
        for one in ("a.png", "sample:retina", "phantom:fundus?seed=1", "C:/a.png", "hf://o/r")
        if cluster.is_url(one)
    ] == []


def test_addresses_stand_for_files_patterns_and_folders() -> None:
    import fsspec

    system = fsspec.filesystem("memory")
    for name in ("eye10.png", "eye2.png", "notes.txt", ".hidden.png", "deep/eye.png"):
        system.pipe(f"/scans/{name}", b"x")
    assert cluster.expand("memory://scans") == ["memory:///scans/eye2.png", "memory:///scans/eye10.png"]
    assert "memory:///scans/deep/eye.png" in cluster.expand("memory://scans/**/*.png")
    assert cluster.expand("memory://scans/notes.txt") == ["memory://scans/notes.txt"]
    for address, said in (
        ("memory://none.png", "it doesn't exist"), ("memory://scans/*.dcm", "it holds no images"),
        ("nosuch://a/b.png", "Protocol not known"),
    ):  # fmt: skip
        with pytest.raises(MediaError, match=said):
            cluster.expand(address)
    system.rm("/scans", recursive=True)


def test_names_of_files_are_settled_before_anybody_writes() -> None:
    assert cluster.distinct_files(["eye", "eye_mask", "eye_2", "Eye_probability", "other_mask"]) == [
        "eye", "eye_mask-2", "eye_2", "Eye_probability-2", "other_mask",
    ]  # fmt: skip


def test_the_parquet_file_has_the_tables_rows_with_numbers_as_numbers(tmp_path: Path) -> None:
    from pyarrow import parquet

    kept = Table(tmp_path / "predictions.csv")
    kept.append({"input": "a", "model": "m", "error": None, "label": "1", "p_x": 0.25, "unlike": False})
    kept.append({"input": "b", "model": "m", "error": "it is damaged"})
    read = parquet.read_table(cluster.write_parquet(tmp_path, kept)).to_pylist()
    assert [row["input"] for row in read] == ["a", "b"]
    assert read[0]["p_x"] == 0.25
    assert read[0]["unlike"] is False
    assert read[0]["label"] == "1"
    assert read[1]["p_x"] is None
    assert read[1]["error"] == "it is damaged"


def test_a_worker_answers_for_each_input_and_fetches_what_lies_elsewhere(tmp_path: Path) -> None:
    import fsspec
    import pyarrow
    from ray import cloudpickle

    path = pictures(tmp_path, 1)[0]
    fsspec.filesystem("memory").pipe("/bucket/far.png", path.read_bytes())
    given = [str(path), "memory://bucket/far.png", str(tmp_path / "none.png"), "memory://bucket/none.png"]
    batch = pyarrow.Table.from_pylist(
        [{"place": i, "input": cloudpickle.dumps(one), "stem": f"s{i}"} for i, one in enumerate(given)]
    )
    job = cluster.Job("map-vessel", None, "cpu", {}, {"model": "map-vessel"}, False, "auto", frozenset(), 2, 1)
    found = {row["place"]: row for row in cluster.Worker(job)(batch).to_pylist()}
    assert set(found) == {0, 1, 2, 3}
    assert found[0]["names"] == ["s0_mask.png", "s0.json"]
    assert found[0]["contents"][0] == found[1]["contents"][0]
    assert b'"source": "memory://bucket/far.png"' in found[1]["contents"][1]
    assert "none.png" in found[2]["told"]
    assert "memory://bucket/none.png" in found[3]["told"]
    assert not found[2]["names"]


def test_options_of_a_cluster_are_refused_without_one(zoo_cli, tmp_path: Path, monkeypatch) -> None:
    path = pictures(tmp_path, 1)[0]
    assert "there is no engine 'spark'" in zoo_cli("predict", "map-vessel", path, "--engine", "spark").refused
    assert "add --engine ray" in zoo_cli("predict", "map-vessel", path, "--address", "auto").refused
    assert "add --engine ray" in zoo_cli("predict", "map-vessel", "s3://bucket/a.png").refused
    monkeypatch.setattr("zoo.extras._installed", lambda name: name != "s3fs")
    refused = zoo_cli("predict", "map-vessel", path, "--engine", "ray", "--out", tmp_path / "out").refused
    assert refused.endswith("install it with: pip install 'medimg-zoo[cluster]'")


# ---- on a cluster of two workers ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_worker_that_is_killed_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    count, out = 24, tmp_path / "out"
    inputs = pictures(tmp_path / "in", count, side=192)
    damaged = tmp_path / "in" / "eye7.png"
    damaged.write_bytes(b"no picture")
    running = start("predict", "map-vessel", tmp_path / "in" / "*.png", damaged, "--out", out, *RAN)
    killed = kill_a_worker(running, out)
    _, said = running.communicate(timeout=500)
    assert killed
    assert running.returncode == 2, said
    assert "1 of 24 inputs failed" in said
    assert "Traceback" not in said
    rows = table(out)
    assert sorted(row["input"] for row in rows) == sorted(map(str, inputs))
    assert [row["input"] for row in rows if row["error"]] == [str(damaged)]
    files = [name for row in rows for name in row["files"].split("; ") if name]
    assert len(files) == len(set(files)) == 2 * (count - 1)
    assert {path.name for path in out.iterdir()} == {*files, "predictions.csv", "predictions.parquet"}

    # the same as on one machine, and nothing is left to do
    alone = start(
        "predict",
        "map-vessel",
        tmp_path / "in" / "*.png",
        damaged,
        "--out",
        tmp_path / "alone",
        "--device",
        "cpu",
        "--no-figure",
    )
    alone.communicate(timeout=500)
    assert table(tmp_path / "alone") == rows
    for name in files:
        assert (out / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), name
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.json")}
    damaged.unlink()
    again = start("predict", "map-vessel", tmp_path / "in" / "*.png", "--out", out, *RAN, "--resume")
    _, said = again.communicate(timeout=500)
    assert again.returncode == 0, said
    assert "23 of 23 inputs were done before" in said
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.json")} == before


def kill_a_worker(running: subprocess.Popen[str], out: Path) -> bool:
    """SIGKILL for one of the workers that ``running`` has started, once some rows are there and not all."""
    import psutil

    deadline = time.monotonic() + 400
    while time.monotonic() < deadline and running.poll() is None:
        written = (out / "predictions.csv").read_text().count("\n") if (out / "predictions.csv").is_file() else 0
        if written >= 2:
            mine = psutil.Process(running.pid).children(recursive=True)
            workers = [one for one in mine if "MapWorker" in " ".join(one.cmdline())]
            if workers:
                os.kill(workers[0].pid, signal.SIGKILL)
                return written < 20
        time.sleep(0.05)
    return False


def where(protocol: str, bucket: str) -> dict[str, str]:
    """The environment in which addresses of this kind are asked of ``bucket``, without credentials."""
    if protocol == "s3":
        return {"FSSPEC_S3_ENDPOINT_URL": bucket, "FSSPEC_S3_ANON": "true", "AWS_DEFAULT_REGION": "us-east-1"}
    # Which kind of bucket it is would be asked by gRPC, which this server does not speak.
    plain = {"FSSPEC_GS_TOKEN": "anon", "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
    return {"STORAGE_EMULATOR_HOST": bucket, **plain}


@pytest.mark.parametrize("protocol", ["s3", "gs"])
def test_a_bucket_is_looked_through_and_read(protocol: str, bucket: str, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom zoo import cluster\n"
        "for address in sys.argv[1:]:\n    print(cluster.expand(address))\n"
        "with cluster._fetched(cluster.expand(sys.argv[1])[0]) as path:\n    print(len(Path(path).read_bytes()))"
    )
    addresses = [f"{protocol}://scans/{what}" for what in ("*.png", "", "eye1.png")]
    command = [sys.executable, "-W", "ignore", "-c", code, *addresses]
    environment = {**os.environ, **where(protocol, bucket)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    both = [f"{protocol}://scans/eye{i}.png" for i in range(2)]
    size = (tmp_path / "bucket" / "eye0.png").stat().st_size
    assert ran.stdout.splitlines() == [str(both), str(both), str(both[1:]), str(size)], ran.stderr
    assert not ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["s3", "gs"])
def test_inputs_may_lie_in_a_bucket(protocol: str, tmp_path: Path, bucket: str) -> None:
    out = tmp_path / "out"
    given = [f"{protocol}://scans/*.png", f"file://{pictures(tmp_path, 3)[2]}", f"{protocol}://scans/none.png"]
    running = start("predict", "map-vessel", *given, "--out", out, *RAN, **where(protocol, bucket))
    _, said = running.communicate(timeout=500)
    assert running.returncode == 2, said
    assert f"can't read {protocol}://scans/none.png" in said
    rows = table(out)
    there = [f"{protocol}://scans/eye{i}.png" for i in range(2)]
    assert [row["input"] for row in rows if not row["error"]] == sorted([given[1], *there])
    assert (out / "eye0_mask.png").is_file()
    assert f'"source": "{there[0]}"' in (out / "eye0.json").read_text()


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[str]:
    """As much of S3 and of Google's storage as reading takes: the bucket ``scans`` with two pictures and a note."""
    held = {path.name: path.read_bytes() for path in pictures(tmp_path / "bucket", 2)} | {"notes.txt": b"x"}

    def described(name: str) -> dict[str, str]:
        return {"kind": "storage#object", "name": name, "bucket": "scans", "size": str(len(held[name]))}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            prefix = parse_qs(url.query).get("prefix", [""])[0]
            place, found, key = unquote(url.path).partition("/storage/v1/b/scans/o")
            if found:
                return self.google(place, key.lstrip("/"), prefix)
            key = unquote(url.path).removeprefix("/scans").lstrip("/")
            if key in held:
                return self.answer(200, held[key], "image/png")
            if key or not url.path.startswith("/scans"):
                return self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            parts = "".join(
                f"<Contents><Key>{escape(name)}</Key><Size>{len(content)}</Size><ETag>x</ETag>"
                "<LastModified>2026-01-01T00:00:00.000Z</LastModified><StorageClass>STANDARD</StorageClass></Contents>"
                for name, content in held.items() if name.startswith(prefix)
            )  # fmt: skip
            body = f"<ListBucketResult><Name>scans</Name><IsTruncated>false</IsTruncated>{parts}</ListBucketResult>"
            self.answer(200, body.encode())

        do_HEAD = do_GET

        def google(self, place: str, key: str, prefix: str) -> None:
            if key and key not in held:
                self.answer(404, b'{"error": {"code": 404, "message": "no such object"}}', "application/json")
            elif place == "/download":
                self.answer(200, held[key], "image/png")
            else:
                found = {"items": [described(name) for name in sorted(held) if name.startswith(prefix)]}
                self.answer(200, json.dumps(described(key) if key else found).encode(), "application/json")

        def answer(self, status: int, body: bytes, kind: str = "application/xml") -> None:
            self.send_response(status)
            for name, value in {"Content-Type": kind, "Content-Length": len(body), "ETag": '"x"'}.items():
                self.send_header(name, str(value))
            self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
