"""Stored answers on their way to a Hub and back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import zoo
from zoo import answers, loading, registry
from zoo.errors import WeightsError
from zoo.weights import ANSWER


@pytest.fixture
def folder(tmp_path) -> Path:
    demo = loading.locate("demo", registry.info("map-vessel")).folder
    return Path(shutil.copytree(demo, tmp_path / "vessels"))


def test_weights_from_the_hub_are_asked_what_their_author_saw(hub, client, zoo_cli, folder, tmp_path):
    pushed = zoo.push(folder, "org/vessels")
    assert hub.files("org/vessels")[ANSWER] == (folder / ANSWER).read_bytes()
    assert "zoo test map-vessel --weights hf://org/vessels" in hub.files("org/vessels")["README.md"].decode()
    told = zoo_cli("test", "map-vessel", "--weights", "hf://org/vessels", "--device", "cpu", "--json")
    assert told.code == 0, told.err
    record = json.loads(told.out)
    assert record["ok"] is True
    assert record["revision"] == pushed.revision

    pulled = zoo.pull("org/vessels", tmp_path / "pulled")
    assert (pulled.folder / ANSWER).read_bytes() == (folder / ANSWER).read_bytes()
    client.offline()
    assert answers.ask_again("map-vessel", weights="hf://org/vessels", device="cpu").ok


def test_a_push_makes_the_answer_that_is_missing(hub, client, folder):
    stored = (folder / ANSWER).read_bytes()
    (folder / ANSWER).unlink()
    zoo.push(folder, "org/vessels")
    made, known = (json.loads(text) for text in (hub.files("org/vessels")[ANSWER], stored))
    assert made["tensors"] == known["tensors"]
    assert made["input"] == known["input"]
    assert not (folder / ANSWER).exists()

    model = zoo.load("map-vessel", weights=str(folder), device="cpu")
    zoo.push(model, "org/loaded")
    assert answers.ask_again("map-vessel", weights="hf://org/loaded", device="cpu").ok


def test_an_answer_of_other_weights_is_not_published(hub, client, folder):
    record = json.loads((folder / ANSWER).read_text())
    record["quantities"]["area_fraction_vessel"] += 0.1
    (folder / ANSWER).write_text(json.dumps(record))
    with pytest.raises(WeightsError, match=r"answers otherwise than its author saw: area_fraction_vessel is .*--write"):
        zoo.push(folder, "org/vessels")
    assert "org/vessels" not in hub.repos


def test_a_later_push_without_an_answer_removes_the_old_one(hub, client, make_toy):
    folder = make_toy()
    zoo.push(folder, "org/toy")
    assert ANSWER not in hub.files("org/toy")  # its card names neither a phantom nor a sample
