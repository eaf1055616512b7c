"""The cache on this machine, and ``zoo cache``, ``zoo push`` and ``zoo pull`` as a person types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import zoo
from zoo.errors import WeightsError
from zoo.hub.cache import cached, remove


@pytest.fixture
def pulled(hub, client, make_toy):
    first = zoo.push(make_toy(), "org/toy").revision
    zoo.pull("org/toy")
    second = zoo.push(make_toy("two", seed=1), "org/toy").revision
    zoo.pull("org/toy")
    hub.add("other/net", {"config.json": b"{}", "model.safetensors": b"x"})
    from zoo.hub import fetch_backbone

    fetch_backbone("other/net", needed_by="test", announce=lambda line: None)
    return first, second


def test_the_cache_shows_the_zoos_weights_and_on_request_all(pulled) -> None:
    first, second = pulled
    mine = {item.revision: item for item in cached()}
    assert set(mine) == {first, second}
    assert mine[second].refs == ("main",)
    assert mine[first].refs == ()
    assert all(item.model == "toy-model" and item.size > 1000 for item in mine.values())
    assert {item.repo for item in cached(everything=True)} == {"org/toy", "other/net"}


def test_removing_takes_only_what_was_named(pulled) -> None:
    first, second = pulled
    gone, freed = remove(f"org/toy@{first[:12]}")
    assert [item.revision for item in gone] == [first]
    assert freed > 1000
    assert {item.revision for item in cached()} == {second}
    remove("hf://org/toy")
    assert {item.repo for item in cached(everything=True)} == {"other/net"}
    with pytest.raises(WeightsError, match="hf://org/toy is not in the cache"):
        remove("org/toy")


def test_an_empty_cache_is_no_error(client, zoo_cli) -> None:
    assert cached() == []
    assert "zoo pull" in zoo_cli("cache", "list").out
    assert zoo_cli("cache", "size").out.startswith("0 B in 0 revisions")


def test_the_cache_commands(pulled, client, zoo_cli) -> None:
    _, second = pulled
    table = zoo_cli("cache", "list").out
    assert second[:12] in table
    assert "other/net" not in table
    assert "other/net" in zoo_cli("cache", "list", "--all").out
    listed = json.loads(zoo_cli("cache", "list", "--json").out)
    assert {item["model"] for item in listed} == {"toy-model"}
    size = json.loads(zoo_cli("cache", "size", "--json").out)
    assert size == {"folder": str(client.cache), "size": sum(item["size"] for item in listed), "revisions": 2}
    assert "--yes" in zoo_cli("cache", "rm", "org/toy").refused
    assert "removed 2 revisions of org/toy" in zoo_cli("cache", "rm", "org/toy", "--yes").out
    assert "not in the cache" in zoo_cli("cache", "rm", "org/toy", "--yes").refused


def test_push_and_pull_as_typed(hub, client, make_toy, zoo_cli, tmp_path: Path) -> None:
    folder = make_toy()
    plan = zoo_cli("push", folder, "org/toy", "--dry-run")
    assert plan.code == 0
    assert "model.safetensors" in plan.out
    assert "nothing was sent to org/toy" in plan.out
    assert hub.requests == []
    pushed = zoo_cli("push", folder, "org/toy", "--private", "--message", "first")
    revision = hub.repos["org/toy"].refs["main"]
    assert f"pushed hf://org/toy@{revision}" in pushed.out
    assert pushed.err == ""
    back = zoo_cli("pull", f"org/toy@{revision}", "--out", tmp_path / "back")
    assert f"revision {revision} is in {tmp_path / 'back'}" in back.out
    assert f"zoo predict toy-model INPUT --weights {tmp_path / 'back'}" in back.out
    assert back.err == ""
    opened = json.loads(zoo_cli("push", make_toy("two", seed=1), "org/toy", "--pr", "--json").out)
    assert opened["pull_request"].endswith("/discussions/1")


def test_refusals_are_one_sentence(hub, client, make_toy, zoo_cli, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "file").write_text("")
    for arguments, said in [
        (("pull", "org/nothing"), "does not exist or is private"),
        (("pull", "nothing"), "not a Hub address"),
        (("push", empty, "org/toy"), "holds no model.safetensors"),
        (("push", tmp_path / "file", "org/toy"), "push the folder"),
        (("push", "no-such-model", "org/toy"), "there is no model"),
        (("push", "toy-model", "org/toy"), "comes without demo weights"),
        (("push", make_toy(), "org/toy@main"), "--revision main"),
        (("push", make_toy(), "elsewhere/toy"), "may not write to hf://elsewhere/toy"),
    ]:
        assert said in zoo_cli(*arguments).refused
