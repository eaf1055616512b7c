"""Pushing and pulling between this machine and a Hub, with the unmodified client."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import zoo
from zoo import loading, weights
from zoo.data.seen import Seen
from zoo.errors import OptionError, WeightsError

IMAGE = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)


def test_a_pushed_model_comes_back_bit_for_bit(hub, client, make_toy, contents) -> None:
    folder = make_toy()
    pushed = zoo.push(folder, "org/toy")
    sent = hub.files("org/toy")
    assert {"config.json", "model.safetensors", "README.md"} <= set(sent)
    for name, content in contents(folder).items():
        assert sent[name] == content

    here = zoo.load("toy-model", weights=str(folder))
    there = zoo.load("toy-model", weights="hf://org/toy")
    assert pushed.revision == hub.repos["org/toy"].refs["main"]
    for name, tensor in here.state_dict().items():
        assert torch.equal(tensor, there.state_dict()[name]), name
        assert tensor.dtype == there.state_dict()[name].dtype
    prediction = there.predict(IMAGE)
    assert prediction.probabilities == here.predict(IMAGE).probabilities
    record = prediction.to_dict()
    assert record["revision"] == pushed.revision
    assert record["weights"] == "hf://org/toy"
    assert record["trained_on"] == "phantom:fundus?n=4&seed=0"
    assert client.cache.is_dir()


def test_sharded_weights_come_back_bit_for_bit(hub, client, make_toy) -> None:
    folder = make_toy(max_shard_size=1500)
    shards = sorted(path.name for path in folder.glob("model-*.safetensors"))
    assert len(shards) >= 2
    assert not (folder / "model.safetensors").exists()
    zoo.push(folder, "org/toy")
    assert {*shards, "model.safetensors.index.json"} <= set(hub.files("org/toy"))
    here = zoo.load("toy-model", weights=str(folder)).state_dict()
    there = zoo.load("toy-model", weights="hf://org/toy").state_dict()
    assert all(torch.equal(here[name], there[name]) for name in here)
    client.offline()
    again = zoo.load("toy-model", weights="hf://org/toy").state_dict()
    assert all(torch.equal(here[name], again[name]) for name in here)


def test_a_push_in_the_other_layout_leaves_no_stale_tensors(hub, client, make_toy) -> None:
    zoo.push(make_toy(max_shard_size=1500), "org/toy")
    zoo.push(make_toy("whole"), "org/toy")
    tensors = [name for name in hub.files("org/toy") if "safetensors" in name]
    assert tensors == ["model.safetensors"]


def test_a_loaded_model_can_be_pushed(hub, client, toy) -> None:
    model = zoo.load("toy-model", weights="none")
    zoo.push(model, "org/toy", message="by hand")
    repo = hub.repos["org/toy"]
    assert repo.messages[repo.refs["main"]] == "by hand"
    back = zoo.load("toy-model", weights="hf://org/toy")
    assert torch.equal(back.norm.weight, model.norm.weight)


def test_a_revision_may_be_a_branch_or_a_commit(hub, client, make_toy) -> None:
    first = zoo.push(make_toy(seed=0), "org/toy").revision
    second = zoo.push(make_toy("two", seed=1), "org/toy", revision="better").revision
    assert hub.repos["org/toy"].refs == {"main": first, "better": second}
    by_branch = zoo.load("toy-model", weights="hf://org/toy@better")
    by_commit = zoo.load("toy-model", weights=f"hf://org/toy@{first}")
    assert by_branch.provenance.revision == second
    assert by_commit.provenance.revision == first
    assert not torch.equal(by_branch.layers[0].weight, by_commit.layers[0].weight)
    requests = len(hub.requests)
    zoo.load("toy-model", weights=f"hf://org/toy@{first}")
    assert len(hub.requests) == requests, "a commit that is in the cache needs no request"


def test_a_pull_request_leaves_main_alone(hub, client, server, make_toy) -> None:
    first = zoo.push(make_toy(), "org/toy").revision
    client.token(server.READER)
    opened = zoo.push(make_toy("two", seed=1), "org/toy", pull_request=True)
    assert opened.pull_request.endswith("/org/toy/discussions/1")
    assert hub.repos["org/toy"].refs["main"] == first
    assert zoo.load("toy-model", weights="hf://org/toy@refs/pr/1").provenance.revision == opened.revision
    with pytest.raises(OptionError, match="--pr"):
        zoo.push(make_toy("three"), "org/toy", pull_request=True, revision="branch")


def test_private_repositories_are_made_private_and_never_public_by_mistake(hub, client, make_toy) -> None:
    folder = make_toy()
    zoo.push(folder, "org/secret", private=True)
    assert hub.repos["org/secret"].private
    zoo.push(folder, "org/open")
    before = hub.repos["org/open"].refs["main"]
    with pytest.raises(WeightsError, match=r"org/open exists and is public"):
        zoo.push(make_toy("two", seed=1), "org/open", private=True)
    assert hub.repos["org/open"].refs["main"] == before


def test_a_dry_run_sends_nothing(hub, client, make_toy) -> None:
    client.token(None)
    folder = make_toy()
    plan = zoo.push(folder, "org/toy", dry_run=True)
    assert plan.revision is None
    assert plan.files["model.safetensors"] == (folder / "model.safetensors").stat().st_size
    assert set(plan.files) == {"config.json", "model.safetensors", "README.md"}
    assert hub.requests == []


def test_only_named_files_leave_the_machine(hub, client, make_toy, tmp_path: Path) -> None:
    folder = make_toy()
    (folder / "gallery").mkdir()
    (folder / "gallery" / "one.png").write_bytes(b"\x89PNG")
    (folder / "gallery" / "notes.txt").write_text("private")
    (folder / ".env").write_text("HF_TOKEN=hf_x")
    (folder / "optimizer.pt").write_bytes(b"pickle")
    (tmp_path / "passwords.png").write_text("secret")
    (folder / "gallery" / "link.png").symlink_to(tmp_path / "passwords.png")
    plan = zoo.push(folder, "org/toy", dry_run=True)
    assert set(plan.files) == {"config.json", "model.safetensors", "README.md", "gallery/one.png"}


def test_weights_that_would_not_load_are_not_pushed(hub, client, make_toy) -> None:
    folder = make_toy()
    record = json.loads((folder / "config.json").read_text())
    record["config"]["width"] = 17
    (folder / "config.json").write_text(json.dumps(record))
    with pytest.raises(WeightsError, match=r"has shape \[16, 16\], expected \[17, 17\]"):
        zoo.push(folder, "org/toy")
    assert hub.requests == []


def test_pull_writes_plain_files(hub, client, make_toy, contents, tmp_path: Path) -> None:
    folder = make_toy()
    (folder / "gallery").mkdir()
    (folder / "gallery" / "one.png").write_bytes(b"\x89PNG")
    zoo.push(folder, "org/toy")
    pulled = zoo.pull("org/toy", tmp_path / "out")
    assert pulled.model == "toy-model"
    for name in ("config.json", "model.safetensors", "gallery/one.png"):
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()
        assert not (tmp_path / "out" / name).is_symlink()
    assert zoo.load("toy-model", weights=str(tmp_path / "out"))
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match=r"can't write to .*file.*--out"):
        zoo.pull("org/toy", tmp_path / "file")


def test_the_list_of_seen_cases_travels_with_the_weights(hub, client, make_toy, tmp_path: Path) -> None:
    folder = make_toy()
    seen = Seen(frozenset({"0123456789abcdef", "phantom:fundus?size=64#7"}), frozenset({"phantom:fundus?size=64#8"}))
    with_patients = Seen(seen.train, seen.validation, frozenset({"fedcba9876543210"}))  # who are nobody's business
    (folder / "seen.json").write_text(with_patients.to_json())
    assert "seen.json" in zoo.push(folder, "org/toy").files
    model = zoo.load("toy-model", weights="hf://org/toy")
    assert model.seen == seen
    zoo.pull("org/toy", tmp_path / "out")
    assert zoo.load("toy-model", weights=str(tmp_path / "out")).seen == seen
    model.save_pretrained(tmp_path / "again")
    assert zoo.load("toy-model", weights=str(tmp_path / "again")).seen == seen
    (folder / "seen.json").write_text("{}")
    with pytest.raises(WeightsError, match="is no list of the cases"):
        zoo.push(folder, "org/toy")


def test_loading_fetches_no_pictures(hub, client, make_toy) -> None:
    folder = make_toy()
    (folder / "gallery").mkdir()
    (folder / "gallery" / "one.png").write_bytes(b"\x89PNG")
    zoo.push(folder, "org/toy")
    zoo.load("toy-model", weights="hf://org/toy")
    assert hub.count("GET", "gallery") == 0
    zoo.pull("org/toy")
    assert hub.count("GET", "gallery") == 1


def test_a_token_is_never_sent_to_the_storage_host(hub, client, server, make_toy) -> None:
    zoo.push(make_toy(), "org/toy", private=True)
    zoo.load("toy-model", weights="hf://org/toy")
    storage = [request for request in hub.requests if request.path.startswith("/storage")]
    assert {request.method for request in storage} >= {"PUT", "GET"}
    assert all(request.token is None for request in storage)
    assert any(request.token == server.OWNER for request in hub.requests)


def test_the_hub_mixin_saves_loads_and_pushes_our_layout(hub, client, make_toy, tmp_path: Path) -> None:
    model = zoo.load("toy-model", weights=str(make_toy()))
    model.save_pretrained(tmp_path / "mixin")
    assert json.loads((tmp_path / "mixin" / "config.json").read_text())["model"] == "toy-model"
    back = type(model).from_pretrained(str(tmp_path / "mixin"))
    assert torch.equal(back.norm.weight, model.norm.weight)
    zoo.push(tmp_path / "mixin", "org/toy")
    assert b"Tells bright from dark images." in hub.files("org/toy")["README.md"]
    assert type(model).from_pretrained("org/toy").provenance.revision == hub.repos["org/toy"].refs["main"]


# ---------------------------------------------------------------- interruptions


def test_an_interrupted_download_goes_on_where_it_stopped(hub, client, server, make_toy) -> None:
    chunk = 10 << 20  # what the client writes at a time
    zoo.push(make_toy(width=1300), "org/toy")
    hub.requests.clear()
    hub.faults.append(server.Fault("GET", "/storage/", cut=chunk + 1000))
    model = zoo.load("toy-model", weights="hf://org/toy")
    ranges = [request.range for request in hub.requests if request.path.startswith("/storage")]
    assert ranges == [None, f"bytes={chunk}-"]
    assert model.provenance.revision == hub.repos["org/toy"].refs["main"]


def test_a_pull_that_died_is_repeated_without_what_had_arrived(hub, client, server, make_toy) -> None:
    zoo.push(make_toy(max_shard_size=1500), "org/toy")
    shards = sum(name.startswith("model-") for name in hub.files("org/toy"))
    hub.requests.clear()
    hub.faults.append(server.Fault("GET", "/storage/", after=shards - 1, status=404, times=99))
    with pytest.raises(WeightsError, match="hf://org/toy"):
        zoo.pull("org/toy")
    hub.faults.clear()
    hub.requests.clear()
    zoo.pull("org/toy")
    assert 1 <= hub.count("GET", "/storage/") < shards
    assert zoo.load("toy-model", weights="hf://org/toy")


def test_an_interrupted_upload_is_repeated_by_the_same_call(hub, client, server, make_toy) -> None:
    folder = make_toy(max_shard_size=1500)
    shards = len(list(folder.glob("model-*.safetensors")))
    hub.faults.append(server.Fault("PUT", "/storage/", after=shards - 1, cut=100, times=99))
    with pytest.raises(WeightsError, match="hf://org/toy can't be pushed to"):
        zoo.push(folder, "org/toy")
    assert "config.json" not in hub.files("org/toy"), "nothing is published by half"
    arrived = len(hub.store)
    assert arrived == shards - 1
    hub.faults.clear()
    hub.requests.clear()
    zoo.push(folder, "org/toy")
    assert hub.count("PUT", "/storage/") == shards - arrived
    assert zoo.load("toy-model", weights="hf://org/toy")


def test_pushing_the_same_twice_makes_no_second_commit(hub, client, make_toy) -> None:
    folder = make_toy()
    first = zoo.push(folder, "org/toy")
    assert zoo.push(folder, "org/toy").revision == first.revision
    assert len(hub.repos["org/toy"].commits) == 2  # the initial one and ours


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_hub_that_is_busy_for_a_moment_is_asked_again(hub, client, server, make_toy, status: int) -> None:
    hub.faults += [
        server.Fault("POST", "/api/repos/create", status=status, times=2, headers={"Retry-After": "0"}),
        server.Fault("POST", "/preupload/", status=status, times=1),
        server.Fault("PUT", "/storage/", status=status, times=1),
        server.Fault("POST", "/commit/", status=status, times=1),
    ]
    zoo.push(make_toy(), "org/toy")
    hub.faults += [
        server.Fault("GET", "/api/models/org/toy", status=status, times=2),
        server.Fault("HEAD", "/resolve/", status=status, times=1),
        server.Fault("GET", "/storage/", status=status, times=1),
    ]
    assert zoo.load("toy-model", weights="hf://org/toy").provenance.revision
    assert all(fault.times == 0 for fault in hub.faults)


def test_a_hub_that_stays_down_is_named_and_the_cache_still_serves(hub, client, server, make_toy) -> None:
    zoo.push(make_toy(), "org/toy")
    down = server.Fault("GET", ".*", status=503, times=10**6)
    hub.faults.append(down)
    with pytest.raises(WeightsError, match=r"not in the cache .* \(it answers 503\)"):
        zoo.load("toy-model", weights="hf://org/toy")
    down.times = 0
    zoo.load("toy-model", weights="hf://org/toy")
    down.times = 10**6
    assert zoo.load("toy-model", weights="hf://org/toy").provenance.revision


# ---------------------------------------------------------------- refusals


@pytest.fixture
def secret(hub: Any, client: Any, make_toy: Callable[..., Path]) -> str:
    zoo.push(make_toy(), "org/secret", private=True)
    return "hf://org/secret"


def test_a_private_repository_needs_the_right_token(hub, client, server, secret) -> None:
    refusals = {None: "does not exist or is private.*set HF_TOKEN", server.UNKNOWN: "does not accept the token",
                server.NARROW: "the token may not read hf://org/secret"}  # fmt: skip
    for token, said in refusals.items():
        client.token(token)
        with pytest.raises(WeightsError, match=said) as refusal:
            zoo.load("toy-model", weights=secret)
        assert len(str(refusal.value).splitlines()) == 1
        assert "hf_" not in str(refusal.value)
    client.token(server.READER)
    assert zoo.load("toy-model", weights=secret)


def test_pushing_needs_a_token_that_may_write(hub, client, server, make_toy) -> None:
    folder = make_toy()
    client.token(None)
    with pytest.raises(WeightsError, match="needs a token; set HF_TOKEN"):
        zoo.push(folder, "org/toy")
    for token, said in {server.UNKNOWN: "does not accept the token", server.READER: "may not write to"}.items():
        client.token(token)
        with pytest.raises(WeightsError, match=said):
            zoo.push(folder, "org/toy")
    assert hub.repos == {}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("hf://org/nothing", "org/nothing does not exist or is private"),
        ("hf://org/toy@nowhere", "org/toy has no revision nowhere"),
        (f"hf://org/toy@{'0' * 40}", "org/toy has no revision 0000"),
        ("hf://toy", "not a Hub address"),
        ("hf://org/toy@../../x", "not a Hub address"),
        ("hf://org/..", "not a Hub address"),
    ],
)
def test_what_does_not_exist_is_named(hub, client, make_toy, spec: str, said: str) -> None:
    zoo.push(make_toy(), "org/toy")
    with pytest.raises(WeightsError, match=said):
        zoo.load("toy-model", weights=spec)


@pytest.mark.parametrize("gone", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(hub, client, make_toy, contents, gone: str) -> None:
    hub.add("org/toy", {name: content for name, content in contents(make_toy()).items() if name != gone})
    with pytest.raises(WeightsError, match=f"hf://org/toy holds no {gone}"):
        zoo.load("toy-model", weights="hf://org/toy")


def test_a_file_that_vanishes_during_a_pull_is_reported(hub, client, server, make_toy) -> None:
    zoo.push(make_toy(), "org/toy")
    hub.faults.append(
        server.Fault("HEAD", "/resolve/.*/config.json", status=404, times=9, headers={"X-Error-Code": "EntryNotFound"})
    )
    with pytest.raises(WeightsError, match="hf://org/toy lacks a file that it lists"):
        zoo.load("toy-model", weights="hf://org/toy")


def test_a_repository_of_pickles_is_refused_before_anything_is_fetched(hub, client, toy) -> None:
    hub.add("org/old", {"config.json": b"{}", "pytorch_model.bin": b"\x80\x04."})
    with pytest.raises(WeightsError, match=r"only pickled weights \('pytorch_model.bin'\), which can run code"):
        zoo.load("toy-model", weights="hf://org/old")
    assert hub.count("GET", "/resolve/") + hub.count("HEAD", "/resolve/") == 0


@pytest.mark.parametrize("name", ["../evil.json", "gallery/../../evil.png", "/etc/evil", "C:\\evil", "a\\..\\evil"])
def test_file_names_that_lead_out_of_the_folder_are_refused(hub, client, make_toy, contents, name: str) -> None:
    hub.add("org/toy", contents(make_toy()) | {name: b"evil"})
    with pytest.raises(WeightsError, match="leads out of its folder"):
        zoo.pull("org/toy")
    assert hub.count("GET", "/resolve/") == 0


def test_nothing_else_in_a_repository_is_fetched_or_run(hub, client, make_toy, contents) -> None:
    evil = {"modeling_toy.py": b"raise SystemExit('ran')", "setup.py": b"1/0", "optimizer.pt": b"\x80\x04."}
    hub.add("org/toy", contents(make_toy()) | evil)
    pulled = zoo.pull("org/toy")
    assert zoo.load("toy-model", weights="hf://org/toy")
    assert {path.name for path in pulled.folder.iterdir()} == {"config.json", "model.safetensors"}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_that_was_altered_on_its_way_is_never_loaded(hub, client, server, make_toy, name: str) -> None:
    zoo.push(make_toy(), "org/toy")
    path = "/storage/" if name.endswith("safetensors") else f"/resolve/.*{name}"

    def flip(content: bytes) -> bytes:
        return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]

    hub.faults.append(server.Fault("GET", path, change=flip))
    with pytest.raises(WeightsError, match=f"{name} of hf://org/toy is damaged.*zoo cache rm org/toy"):
        zoo.load("toy-model", weights="hf://org/toy")
    with pytest.raises(WeightsError, match="is damaged"):  # the damaged file is in the cache now
        zoo.load("toy-model", weights="hf://org/toy")
    from zoo.hub.cache import remove

    remove("org/toy")
    client.forget()
    assert zoo.load("toy-model", weights="hf://org/toy")


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_went_bad_in_the_cache_is_never_loaded(hub, client, make_toy, links: bool, monkeypatch) -> None:
    if not links:  # as on Windows
        monkeypatch.setattr("huggingface_hub.file_download.are_symlinks_supported", lambda *_: False)
    zoo.push(make_toy(), "org/toy")
    zoo.load("toy-model", weights="hf://org/toy")
    client.offline()
    client.forget()
    assert zoo.load("toy-model", weights="hf://org/toy").provenance.revision
    [path] = client.cache.glob("models--org--toy/snapshots/*/model.safetensors")
    assert path.is_symlink() == links
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.resolve().write_bytes(content)
    with pytest.raises(WeightsError, match=r"model\.safetensors of hf://org/toy is damaged"):
        zoo.load("toy-model", weights="hf://org/toy")


def test_a_cache_that_cannot_be_written_is_named(hub, client, make_toy) -> None:
    zoo.push(make_toy(), "org/toy")
    client.cache.parent.mkdir(parents=True, exist_ok=True)
    client.cache.write_text("a file where the folder must be")
    with pytest.raises(WeightsError, match=r"can't write hf://org/toy to the cache .*set HF_HOME") as refusal:
        zoo.load("toy-model", weights="hf://org/toy")
    assert str(client.cache) in str(refusal.value)


def test_a_full_disk_is_named(hub, client, make_toy, monkeypatch) -> None:
    zoo.push(make_toy(), "org/toy")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(WeightsError, match="No space left on device"):
        zoo.load("toy-model", weights="hf://org/toy")


def test_offline_with_a_cold_cache_says_what_to_do(hub, client, make_toy) -> None:
    client.offline()
    with pytest.raises(WeightsError, match=r"HF_HUB_OFFLINE is set.*zoo pull org/toy@main") as refusal:
        zoo.load("toy-model", weights="hf://org/toy@main")
    assert "not in the cache" in str(refusal.value)
    assert hub.requests == []


def test_offline_with_a_warm_cache_works(hub, client, make_toy) -> None:
    zoo.push(make_toy(), "org/toy")
    online = zoo.load("toy-model", weights="hf://org/toy")
    client.offline()
    client.forget()
    requests = len(hub.requests)
    offline = zoo.load("toy-model", weights="hf://org/toy")
    assert offline.provenance == online.provenance
    assert len(hub.requests) == requests
    with pytest.raises(WeightsError, match="not in the cache"):
        zoo.load("toy-model", weights="hf://org/toy@other")


def test_a_half_filled_cache_is_not_used_offline(hub, client, make_toy) -> None:
    zoo.push(make_toy(max_shard_size=1500), "org/toy")
    zoo.load("toy-model", weights="hf://org/toy")
    shard = next(iter(client.cache.glob("models--org--toy/snapshots/*/model-00002*")))
    shard.unlink()
    client.offline()
    client.forget()
    with pytest.raises(WeightsError, match="not in the cache"):
        zoo.load("toy-model", weights="hf://org/toy")


def test_no_connection_is_told_from_no_repository(hub, client, make_toy, monkeypatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WeightsError, match=r"the Hub can't be reached \(no connection\)"):
        zoo.load("toy-model", weights="hf://org/toy")
    with pytest.raises(WeightsError, match=r"can't be pushed to: the Hub can't be reached"):
        zoo.push(make_toy(), "org/toy")


@pytest.mark.parametrize("answer", [b"<html>hello</html>", b"[]", b"{}", b"null", b'{"id": 3}'])
def test_an_endpoint_that_is_no_hub_is_refused(hub, client, server, toy, answer: bytes) -> None:
    hub.add("org/toy", {"config.json": b"{}"})
    hub.faults.append(server.Fault("GET", "/api/", change=lambda _: answer, times=99))
    with pytest.raises(WeightsError):
        zoo.load("toy-model", weights="hf://org/toy")


def test_the_token_never_shows(hub, client, server, make_toy, zoo_cli, capsys) -> None:
    """Not even when a Hub sends it back in its error message, and not in a traceback."""
    folder = make_toy()
    said = []
    for status in (400, 401, 403, 404, 409, 418, 500):
        hub.faults = [
            server.Fault(m, ".*", status=status, times=10**6, headers={"X-Error-Message": f"bad token {server.OWNER}"})
            for m in ("GET", "POST", "HEAD")
        ]
        for command in (["pull", "org/toy"], ["push", folder, "org/toy"]):
            ran = zoo_cli(*command)
            assert ran.refused
            said.append(ran.out + ran.err)
            said.append(_debug(*command, capsys=capsys))
    hub.faults = []
    ran = zoo_cli("push", folder, "org/toy", "--json")
    assert ran.code == 0, ran.err
    said += [ran.out, ran.err, zoo_cli("pull", "org/toy", "--json").out]
    said += [json.dumps(zoo.load("toy-model", weights="hf://org/toy").predict(IMAGE).to_dict())]
    assert not any(server.OWNER in text for text in said)


def _debug(*command: str | Path, capsys: pytest.CaptureFixture[str]) -> str:
    from zoo.cli import main
    from zoo.cli.output import state

    try:
        main(["--debug", *map(str, command)])
    except SystemExit:
        told = "".join(capsys.readouterr())
        assert "Traceback" in told
        return told
    finally:
        state["debug"] = False
    raise AssertionError("it was not refused")


def test_weights_of_another_model_are_refused_with_both_names(hub, client, make_toy, contents) -> None:
    files = contents(make_toy())
    record = json.loads(files["config.json"])
    changes = {
        "model": ("other-model", r"for the model 'other-model', not for toy-model"),
        "distribution": ("their-zoo", r"made by toy-model of their-zoo 1.2, the installed toy-model is of toy-zoo"),
        "version": ("2.0", r"made by toy-zoo 2.0, which is incompatible with the installed toy-zoo 1.2"),
        "contract": (99, r"made by toy-zoo 1.2 under version 99 of the contract, this zoo has 2"),
    }
    for number, (key, (value, said)) in enumerate(changes.items()):
        changed = json.dumps(record | {key: value}).encode()
        hub.add(f"org/toy{number}", files | {"config.json": changed})
        with pytest.raises(WeightsError, match=said):
            zoo.load("toy-model", weights=f"hf://org/toy{number}")


def test_two_threads_of_one_process_may_load_at_once(hub, client, make_toy) -> None:
    from concurrent.futures import ThreadPoolExecutor

    zoo.push(make_toy(), "org/toy")
    with ThreadPoolExecutor(2) as pool:
        models = list(pool.map(lambda _: zoo.load("toy-model", weights="hf://org/toy"), range(2)))
    assert torch.equal(models[0].norm.weight, models[1].norm.weight)
    assert weights.read_headers(loading.locate("hf://org/toy", models[0].plugin))


def test_every_request_carries_the_librarys_name_and_version(hub, client, make_toy) -> None:
    zoo.push(make_toy(), "org/toy", revision="next")
    zoo.pull("org/toy@next")
    hub_requests = [request for request in hub.requests if not request.path.startswith("/storage/")]
    assert {request.method for request in hub_requests} >= {"GET", "POST", "HEAD"}
    assert [r for r in hub_requests if not r.agent.startswith(f"medimg-zoo/{zoo.__version__};")] == []
