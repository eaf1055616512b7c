"""The command line against a Hub, each time in a process of its own that knows nothing but its environment."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from PIL import Image

import zoo

pytestmark = pytest.mark.slow


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.linear_gradient("L").save(path)
    return path


def test_another_machine_predicts_the_same_then_offline(hub, client, make_toy, run_zoo, photo, tmp_path: Path) -> None:
    """Two processes with one empty cache start at once; a third comes later, offline."""
    folder = make_toy()
    pushed = zoo.push(folder, "org/toy", private=True)
    expected = zoo.load("toy-model", weights=str(folder)).predict(str(photo)).to_dict()

    def predict(out: str, **environment: str):
        arguments = ("predict", "toy-model", photo, "--weights", "hf://org/toy", "--out", out, "--json", "--no-figure")
        return run_zoo(*arguments, **environment)

    pair = [predict(f"out{i}", HF_TOKEN="hf_reader" + "0" * 24) for i in range(2)]
    results = [process.communicate(timeout=240) for process in pair]
    hub.server.shutdown()
    hub.thread.join()
    last = predict("out2", HF_HUB_OFFLINE="1")
    results.append(last.communicate(timeout=240))
    for process, (out, err) in zip([*pair, last], results, strict=True):
        assert process.returncode == 0, err
        found = json.loads(out)
        assert found["revision"] == pushed.revision
        assert found["weights"] == "hf://org/toy"
        assert found["probabilities"] == expected["probabilities"]
        assert "hf_reader" not in out + err
    threading.Thread(target=hub.server.serve_forever, args=(0.05,), daemon=True).start()  # for a clean shutdown


def test_a_push_that_was_killed_is_repeated_by_the_same_command(hub, client, server, make_toy, run_zoo) -> None:
    folder = make_toy(max_shard_size=1500)
    shards = len(list(folder.glob("model-*.safetensors")))
    held = server.Fault("PUT", "/storage/", after=1, hold=threading.Event(), times=shards)
    hub.faults.append(held)
    first = run_zoo("push", folder, "org/toy", HF_TOKEN=server.OWNER)
    for _ in range(2400):
        if hub.count("PUT", "/storage/") == shards and len(hub.store) == 1:
            break
        assert first.poll() is None, first.communicate()
        threading.Event().wait(0.05)
    first.kill()
    first.communicate()
    hub.faults.clear()
    before = set(hub.store)
    assert len(before) == 1
    assert "config.json" not in hub.files("org/toy")
    with hub.lock:
        hub.requests.clear()
        released = held.hold
    second = run_zoo("push", folder, "org/toy", "--json", HF_TOKEN=server.OWNER)
    out, err = second.communicate(timeout=240)
    assert second.returncode == 0, err
    assert hub.count("PUT", "/storage/") == shards - 1
    assert json.loads(out)["revision"] == hub.repos["org/toy"].refs["main"]
    assert "config.json" in hub.files("org/toy")
    released.set()
