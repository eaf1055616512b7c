"""A Hub that lies: a mirror, a wrong HF_ENDPOINT, or one that somebody took over."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import zoo
from zoo.errors import WeightsError
from zoo.hub.guard import DIGEST, unportable

OUT = ["/OUT/evil", "../../../../evil", "..", "a" * 39, "z" * 40, "A" * 64, "C:\\evil", "", "0" * 40 + "\u00e9"]


@pytest.fixture
def listed(tmp_path: Path) -> Callable[[], set[str]]:
    """Files outside the cache, before and after."""
    return lambda: {str(path) for path in tmp_path.rglob("*") if "hf/hub" not in str(path) and path.is_file()}


@pytest.mark.parametrize("etag", OUT)
@pytest.mark.parametrize("header", ["ETag", "X-Linked-Etag"])
def test_a_file_whose_etag_is_no_digest_is_refused_before_it_is_fetched(
    hub, client, server, make_toy, contents, listed, tmp_path: Path, header: str, etag: str
) -> None:
    hub.add("org/toy", contents(make_toy()))
    etag = etag.replace("/OUT", str(tmp_path / "out")).encode("latin1").decode("latin1")
    hub.faults.append(server.Fault("HEAD", "/resolve/", times=99, headers={header: f'"{etag}"'}))
    before = listed()
    with pytest.raises(WeightsError, match=r"states the ETag .* no plain hexadecimal digest; it was not fetched"):
        zoo.pull("org/toy")
    assert hub.count("GET", "config.json") == 0
    assert listed() == before
    assert all(DIGEST.fullmatch(path.stem) for path in client.cache.rglob("blobs/*"))


@pytest.mark.parametrize("commit", ["../../evil", "/tmp/evil", "main", "f" * 39])
def test_a_commit_that_is_no_digest_is_refused(hub, client, server, make_toy, contents, listed, commit: str) -> None:
    hub.add("org/toy", contents(make_toy()))
    before = listed()
    hub.faults.append(server.Fault("HEAD", "/resolve/", times=99, headers={"X-Repo-Commit": commit}))
    with pytest.raises(WeightsError, match="states the commit"):
        zoo.pull("org/toy")
    assert listed() == before

    def elsewhere(body: bytes) -> bytes:
        return json.dumps(json.loads(body) | {"sha": commit}).encode()

    hub.faults[:] = [server.Fault("GET", "/api/models/org/toy$", times=99, change=elsewhere)]
    with pytest.raises(WeightsError, match="states the sha"):
        zoo.pull("org/toy")
    info = "/api/models/org/toy(/revision/main)?$"  # good at first, and then the client asks for itself
    hub.faults[0] = server.Fault("GET", info, times=99, after=1, change=elsewhere)
    client.forget()
    with pytest.raises(WeightsError, match="states the sha"):
        zoo.pull("org/toy")
    assert listed() == before


def test_a_listing_whose_hashes_are_paths_is_refused(hub, client, server, make_toy, contents) -> None:
    hub.add("org/toy", contents(make_toy()))

    def paths(body: bytes) -> bytes:
        entries = json.loads(body)
        for entry in entries:
            entry.get("lfs", entry)["oid"] = "../../../evil"
        return json.dumps(entries).encode()

    hub.faults.append(server.Fault("GET", "/tree/", times=99, change=paths))
    with pytest.raises(WeightsError, match=r"states the oid '../../../evil'"):
        zoo.pull("org/toy")


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["gallery/CON.png"], "device on Windows"),
        (["gallery/nul.png"], "device on Windows"),
        (["gallery/com1.a.png"], "device on Windows"),
        (["gallery/dir./a.png"], "ends with a dot or a space"),
        (["gallery/dir /a.png"], "ends with a dot or a space"),
        (["gallery/a.png", "gallery/A.png"], "upper and lower case only"),
        (["gallery/x/a.png", "gallery/X/b.png"], "upper and lower case only"),
        ([f"gallery/{'x' * 300}.png"], "longer than 255 bytes"),
    ],
)
def test_names_that_other_systems_cannot_hold_are_refused(
    hub, client, make_toy, contents, names: list[str], why: str
) -> None:
    hub.add("org/toy", contents(make_toy()) | dict.fromkeys(names, b"\x89PNG"))
    with pytest.raises(WeightsError, match=f"{why}.*nothing of it was fetched"):
        zoo.pull("org/toy")
    assert hub.count("GET", "/resolve/") == 0
    assert zoo.load("toy-model", weights="hf://org/toy"), "weights alone need none of those files"


@pytest.mark.parametrize("name", ["/a", "a\\b", "C:a", "a//b", "./a", "a/..", "a\x00b", "a?b", "AUX", "lpt9.txt", "a "])
def test_unportable_names_are_told(name: str) -> None:
    assert unportable([name]) is not None
    assert unportable(["config.json", "model-00001-of-00002.safetensors", "gallery/console (1).png"]) is None


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/api/models/org/toy$"), ("HEAD", "/resolve/"), ("GET", "/tree/")]
)
def test_a_redirect_to_another_host_gets_no_token(hub, client, server, make_toy, contents, method, path) -> None:
    hub.add("org/toy", contents(make_toy()))
    away = f"{hub.storage}/api/elsewhere"
    hub.faults.append(server.Fault(method, path, times=99, status=302, headers={"Location": away}))
    with pytest.raises(WeightsError):
        zoo.pull("org/toy")
    elsewhere = [request for request in hub.requests if request.host.startswith("localhost")]
    assert all(request.token is None for request in elsewhere)
    assert any(request.token == server.OWNER for request in hub.requests if request.host.startswith("127.0.0.1"))
