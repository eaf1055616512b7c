"""``zoo search``: what the Hub lists under the library's tag, by the unmodified client."""

from __future__ import annotations

import json

import pytest

import zoo

PLUGIN = b"---\nlibrary_name: medimg-zoo\ntags: [zoo-plugin, dermoscopy]\n---\n# A package\n"
OTHER = b"---\nlibrary_name: timm\ntags: [dermoscopy]\n---\n"


@pytest.fixture
def filled(hub, client, make_toy):
    """Weights of an installed model, weights of none, a plugin's package, another library's model, a private one."""
    zoo.push(make_toy(), "org/toy")
    hub.add("org/stray", {"README.md": b"---\nlibrary_name: medimg-zoo\ntags: [gone-model, fundus]\n---\n"})
    hub.add("lab/spots", {"README.md": PLUGIN})
    hub.add("lab/other", {"README.md": OTHER})
    hub.add("org/secret", {"README.md": PLUGIN}, private=True)
    hub.requests.clear()
    return hub


def test_weights_and_plugins_are_found_by_the_librarys_tag_over_all_pages(filled, zoo_cli) -> None:
    found = {one["repo"]: one for one in json.loads(zoo_cli("search", "--json").out)}
    assert set(found) == {"org/toy", "org/stray", "lab/spots"}
    assert found["org/toy"]["kind"] == "weights"
    assert found["org/toy"]["model"] == "toy-model"
    assert found["org/toy"]["command"] == "zoo predict toy-model INPUT --weights hf://org/toy"
    assert found["org/stray"]["command"] == "zoo pull org/stray"
    assert found["lab/spots"]["kind"] == "plugin"
    assert found["lab/spots"]["command"] == "zoo install git+https://huggingface.co/lab/spots"
    assert filled.count("GET", "^/api/models$") == 2
    assert all(request.agent.startswith("medimg-zoo/") for request in filled.requests)


@pytest.mark.parametrize(
    ("words", "repos"),
    [
        (["Dermoscopy"], {"lab/spots"}), (["toy"], {"org/toy"}), (["org/", "fundus"], {"org/stray"}),
        (["plugin"], {"lab/spots"}), (["fundus", "dermoscopy"], set()),
    ],
)  # fmt: skip
def test_every_word_must_be_in_the_name_or_the_tags(filled, zoo_cli, words, repos) -> None:
    assert {one["repo"] for one in json.loads(zoo_cli("search", *words, "--json").out)} == repos


def test_the_table_ends_with_what_to_type_next(filled, zoo_cli) -> None:
    out = zoo_cli("search", "toy").out
    assert out.splitlines()[0].split() == ["repository", "what", "model", "downloads", "changed"]
    assert out.splitlines()[-1] == "try: zoo predict toy-model INPUT --weights hf://org/toy"
    assert "2026-01-02" in out
    assert "nothing for medimg-zoo with no such words; try fewer words" in zoo_cli("search", "no such words").out


def test_a_hub_that_can_not_be_asked_is_one_sentence(filled, client, server, zoo_cli) -> None:
    filled.faults.append(server.Fault("GET", "^/api/models$", times=99, status=403))
    assert zoo_cli("search").refused.startswith("zoo: the Hub can't be searched: it answers 403")
    filled.faults[:] = [server.Fault("GET", "^/api/models$", times=99, change=lambda body: b"<html>")]
    assert "the answer is not a Hub's" in zoo_cli("search").refused
    client.offline()
    assert "HF_HUB_OFFLINE is set" in zoo_cli("search").refused


def test_what_a_hub_lists_can_not_steer_a_terminal_or_become_a_command(filled, zoo_cli) -> None:
    filled.add("lab/tags", {"README.md": b'---\nlibrary_name: medimg-zoo\ntags: ["\\e[31mred"]\n---\n'})
    filled.repos["evil; rm -rf /x"] = filled.repos["lab/spots"]
    found = json.loads(zoo_cli("search", "--json").out)
    assert not any("evil" in one["repo"] or "rm" in one["command"].split() for one in found)
    assert "\x1b" not in "".join(tag for one in found for tag in one["tags"])


def test_a_hub_that_can_not_be_reached_is_one_sentence_without_the_clients_own(
    filled, zoo_cli, monkeypatch, caplog
) -> None:
    import time

    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # it asks again by itself
    assert zoo_cli("search").refused.startswith("zoo: the Hub can't be searched: it can't be reached (no connection)")
    assert [one for one in caplog.records if one.name.startswith("huggingface_hub")] == []
