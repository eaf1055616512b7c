"""``zoo.client``: a server's models from a script, without torch."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.serve.toy import png
from zoo.client import Client
from zoo.errors import MediaError, OptionError, PluginError, ZooError


@pytest.fixture
def eye(tmp_path: Path) -> Path:
    path = tmp_path / "eye.png"
    path.write_bytes(png())
    return path


def test_a_client_predicts_lists_and_saves(listening, eye: Path, tmp_path: Path) -> None:
    with listening() as url:
        client = Client(url)
        assert [card["name"] for card in client.models(task="segmentation")] == ["toy-model"]
        assert client.info("toy-model")["title"] == "Bright places"
        assert client.samples()
        (found,) = client.predict("toy-model", eye, threshold=0.25, invert=True)
        assert found.source == "eye.png"
        assert found.record["options"]["threshold"] == 0.25
        assert found.record["options"]["invert"] is True
        assert "bright" in found.summary()
        with pytest.raises(OptionError, match="ask for files with predict"):
            found.figure()
        region = np.zeros((48, 48), np.uint8)
        first, second, third = client.predict(
            "toy-model", [str(eye), "sample:retina", Image.open(eye)], files=True, box=[(1, 2, 3, 4), (5, 6, 7, 8)],
            region=Image.fromarray(region + 1),
        )  # fmt: skip
        assert first.record["options"]["box"] == [[1, 2, 3, 4], [5, 6, 7, 8]]
        assert second.figure().width > 200
        assert third.source == "image.png"
        written = first.save(tmp_path / "out")
        assert {path.name for path in written} == {"eye.json", "eye.png", "eye_mask.png"}
        assert json.loads((tmp_path / "out" / "eye.json").read_text())["source"] == "eye.png"


def test_a_folder_is_sent_whole(listening, tmp_path: Path) -> None:
    for name in ("b10.png", "b2.png"):
        (tmp_path / "scans").mkdir(exist_ok=True)
        (tmp_path / "scans" / name).write_bytes(png())
    with listening() as url:
        found = Client(url).predict(
            "toy-model", tmp_path / "scans", bank=tmp_path / "scans", box=np.array([1, 2, 3, 4])
        )
    assert [one.source for one in found] == ["scans/b2.png", "scans/b10.png"]
    assert found[0].record["options"]["bank"] == "scans"
    assert found[0].record["options"]["box"] == [[1, 2, 3, 4]]


def test_errors_are_those_of_a_prediction_here(listening, eye: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with listening() as url:
        client = Client(url)
        with pytest.raises(PluginError, match="did you mean toy-model"):
            client.predict("toy-modle", eye)
        with pytest.raises(OptionError, match="option threshold must be a number from 0 to 1, not 7"):
            client.predict("toy-model", eye, threshold=7)
        with pytest.raises(MediaError, match=r"^can't read bad\.png: it is named \.png but holds plain text"):
            client.predict("toy-model", tmp_path / "bad.png")
        with pytest.raises(MediaError, match="there is no such file or folder"):
            client.predict("toy-model", tmp_path / "missing.png")
        with pytest.raises(OptionError, match="must be a path, a sample, a phantom or a Pillow image, not a int"):
            client.predict("toy-model", 7)
        both = client.predict("toy-model", [eye, tmp_path / "bad.png"])
        assert both[0].error is None
        assert both[1].error is not None
        with pytest.raises(ZooError, match=r"can't predict on eye\.png: RuntimeError: a fault of the plugin"):
            client.predict("toy-model", eye, fault=True)


def test_a_job_is_followed_and_cancelled(listening, eye: Path) -> None:
    with listening() as url:
        client = Client(url)
        job = client.submit("toy-model", eye, layers=1_000_000)
        while job.status()["state"] != "running":
            time.sleep(0.02)
        job.cancel()
        with pytest.raises(ZooError, match="it was cancelled"):
            job.results(every=0.02)


def test_a_client_that_leaves_frees_the_desk(listening, eye: Path) -> None:
    code = (
        "import sys, zoo.client\n"
        "zoo.client.Client(sys.argv[1], timeout=1).predict('toy-model', sys.argv[2], layers=1_000_000)"
    )
    with listening() as url:
        done = subprocess.run([sys.executable, "-c", code, url, eye], capture_output=True, text=True, timeout=60)
        assert "can't reach" in done.stderr
        assert Client(url, timeout=30).predict("toy-model", eye)[0].error is None


def test_a_busy_server_is_asked_again_when_it_says(eye: Path) -> None:
    asked = []

    class Busy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((time.monotonic(), self.headers["User-Agent"], self.headers["Authorization"]))
            body = b'{"error": "BusyError", "detail": "the server is busy"}' if len(asked) < 3 else b"[]"
            self.send_response(503 if len(asked) < 3 else 200)
            self.send_header("Retry-After", "1")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        assert Client(url, "secret-token").models() == []
        assert asked[2][0] - asked[0][0] >= 1.9
        assert asked[0][1].startswith("medimg-zoo/")
        assert asked[0][2] == "Bearer secret-token"
        asked.clear()
        with pytest.raises(ZooError, match="the server is busy"):
            Client(url, timeout=0.5).models()
        server.shutdown()


def test_a_token_follows_no_redirect(eye: Path) -> None:
    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:9/")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(ZooError, match="the server answers 302"):
            Client(f"http://127.0.0.1:{server.server_address[1]}", "secret-token").models()
        server.shutdown()


def test_an_address_that_is_none(eye: Path) -> None:
    for url in ("ftp://x", "http://", "file:///etc/passwd"):
        with pytest.raises(OptionError, match="is no address of a server"):
            Client(url)
    with pytest.raises(ZooError, match=r"can't reach http://127\.0\.0\.1:9: .*start zoo serve there"):
        Client("127.0.0.1:9").models()


def test_a_client_imports_no_torch() -> None:
    heavy = "('torch', 'numpy', 'PIL', 'fastapi', 'huggingface_hub')"
    used = "from zoo.client import Client; Client('http://x')"
    code = f"import sys; {used}; print([one for one in {heavy} if one in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
