"""Every claim of ours has a record in its package; where others are written and read."""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from pathlib import Path

import pytest

from zoo import claims, registry
from zoo.errors import DataError, OptionError
from zoo.extras import DISTRIBUTION

CARDS = [entry.plugin for entry in registry.entries() if entry.distribution == DISTRIBUTION and entry.plugin]


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_every_record_is_complete_and_of_its_models_claim(card) -> None:
    path = claims.record_path(card)
    assert path is not None
    result = claims.load_result(path)
    assert (result.model, result.complete, result.quick) == (card.name, True, False)
    assert result.claim.to_dict() == registry.part(card, "claim")[1].to_dict(), "the claim says something else by now"
    assert len(result.results) >= 5
    record = claims.record_of(card)
    assert record["verdict"] == result.verdict
    stored = [(item["verdict"], item["reason"]) for item in record["comparisons"]]
    assert stored == [(item.verdict, item.reason) for item in (result.primary, *result.secondary)]


def test_records_are_found_from_any_folder(tmp_path, monkeypatch) -> None:
    from zoo.publish import model_card

    monkeypatch.chdir(tmp_path)
    verdict = claims.record_of(CARDS[0])["verdict"]
    text = model_card(CARDS[0], {}, tmp_path, "org/model")
    assert f"Verdict of `zoo reproduce {CARDS[0].name}` over" in text
    assert f"**{verdict}**" in text


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """The toy plugin as a module in a folder of its own, where a record may be written."""
    source = Path(__file__).parent / "training" / "toy_plugin.py"
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "toy_plugin.py").write_bytes(source.read_bytes())
    monkeypatch.syspath_prepend(str(tmp_path / "package"))
    monkeypatch.delitem(sys.modules, "toy_plugin", raising=False)
    yield import_module("toy_plugin")
    del sys.modules["toy_plugin"]


def test_a_record_is_written_beside_the_claim_when_all_seeds_are_done(toy, tmp_path, monkeypatch) -> None:
    path = claims.record_path(toy.plugin)
    assert path == tmp_path / "package" / "claim.json"
    assert claims.record_of(toy.plugin) is None
    result = claims.reproduce(toy.plugin, out=tmp_path / "out", record=True)
    assert claims.record_of(toy.plugin) == result.to_dict()
    assert path.read_bytes() == (tmp_path / "out" / "toy-threshold.json").read_bytes()


def test_seeds_of_the_folder_and_of_the_record_are_not_run_again(toy, tmp_path, monkeypatch) -> None:
    ran: list[int] = []
    real = toy.arms
    monkeypatch.setattr(toy, "arms", lambda seed, *, quick: ran.append(seed) or real(seed, quick=quick))
    claims.reproduce(toy.plugin, out=tmp_path / "one", seeds=3)
    claims.reproduce(toy.plugin, out=tmp_path / "one", record=True)
    assert ran == [0, 1, 2, 3, 4]
    claims.reproduce(toy.plugin, out=tmp_path / "two", record=True)
    assert len(ran) == 5
    claims.reproduce(toy.plugin, out=tmp_path / "three")  # who asks for no record runs everything
    assert len(ran) == 10


def test_what_can_not_be_recorded_is_refused_in_one_sentence(toy, tmp_path, monkeypatch) -> None:
    with pytest.raises(OptionError, match="quick run proves nothing"):
        claims.reproduce(toy.plugin, out=tmp_path, quick=True, record=True)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(OptionError, match="run from a checkout"):
        claims.reproduce(toy.plugin, out=tmp_path / "out", record=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "{}", "[]", json.dumps({"verdict": "supported", "model": "another"})])
def test_a_damaged_record_is_named(toy, text: str) -> None:
    claims.record_path(toy.plugin).write_text(text)
    with pytest.raises(DataError, match=r"claim\.json is no record of the claim of toy-threshold"):
        claims.record_of(toy.plugin)
