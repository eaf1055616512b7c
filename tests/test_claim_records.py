"""Every claim of ours has a record in its package; where others are written and read."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from zoo import claims, ops, registry
from zoo.claims import digests
from zoo.errors import DataError, OptionError
from zoo.extras import DISTRIBUTION
from zoo.ops import status

CARDS = [entry.plugin for entry in registry.entries() if entry.distribution == DISTRIBUTION and entry.plugin]


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_every_record_is_complete_and_of_its_models_claim(card) -> None:
    path = claims.record_path(card)
    assert path is not None
    result = claims.load_result(path)
    assert (result.model, result.complete, result.quick) == (card.name, True, False)
    claim = registry.part(card, "claim")[1]
    assert result.claim.to_dict() == claim.to_dict(), "the claim says something else by now"
    assert sorted(result.results) == sorted(claim.seeds), "it's of other seeds than those named in advance"
    assert len(result.results) >= 5
    assert claim.tuning, "the page must say where the arms' settings come from"
    record = claims.record_of(card)
    assert record["verdict"] == result.verdict
    stored = [(item["verdict"], item["reason"]) for item in record["comparisons"]]
    assert stored == [(item.verdict, item.reason) for item in (result.primary, *result.secondary)]


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_every_record_is_by_the_code_as_it_stands_on_one_thread_and_fair(card) -> None:
    """Stale after a change of code? ``zoo reproduce MODEL --confirm`` says whether its numbers are the same."""
    record = claims.load_result(claims.record_path(card))
    if digests.operators()[1] or digests.OPERATORS not in record.modules:  # else they aren't compiled here
        assert record.doubts == []
    assert ("zoo.ops._library" in record.modules) == (digests.OPERATORS in record.modules), "it names the operators"


def test_records_are_found_from_any_folder(tmp_path, monkeypatch) -> None:
    from zoo.publish import model_card

    monkeypatch.chdir(tmp_path)
    verdict = claims.record_of(CARDS[0])["verdict"]
    text = model_card(CARDS[0], {}, tmp_path, "org/model")
    assert f"Verdict of `zoo reproduce {CARDS[0].name}` over" in text
    assert verdict in text


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """The toy plugin as a module in a folder of its own, where a record may be written."""
    source = Path(__file__).parent / "training" / "toy_plugin.py"
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "toy_plugin.py").write_bytes(source.read_bytes())
    monkeypatch.syspath_prepend(str(tmp_path / "package"))
    monkeypatch.delitem(sys.modules, "toy_plugin", raising=False)
    monkeypatch.setattr(digests, "STARTED", math.inf)  # the module is written, then imported
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
    claims.reproduce(toy.plugin, out=tmp_path / "one", seeds=[0, 1, 2, 9])
    claims.reproduce(toy.plugin, out=tmp_path / "one", record=True)
    assert ran == [0, 1, 2, 9, 3, 4]
    assert sorted(claims.load_result(claims.record_path(toy.plugin)).results) == [0, 1, 2, 3, 4]
    claims.reproduce(toy.plugin, out=tmp_path / "two", record=True)
    assert len(ran) == 6
    claims.reproduce(toy.plugin, out=tmp_path / "three")  # who asks for no record runs everything
    assert len(ran) == 11


def test_what_can_not_be_recorded_is_refused_in_one_sentence(toy, tmp_path, monkeypatch) -> None:
    with pytest.raises(OptionError, match="quick run proves nothing"):
        claims.reproduce(toy.plugin, out=tmp_path, quick=True, record=True)
    with pytest.raises(OptionError, match="leave out --seeds"):
        claims.reproduce(toy.plugin, out=tmp_path / "out", seeds=3, record=True)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(OptionError, match="run from a checkout"):
        claims.reproduce(toy.plugin, out=tmp_path / "out", record=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "{}", "[]", json.dumps({"verdict": "supported", "model": "another"})])
def test_a_damaged_record_is_named(toy, text: str) -> None:
    claims.record_path(toy.plugin).write_text(text)
    with pytest.raises(DataError, match=r"claim\.json is no record of the claim of toy-threshold"):
        claims.record_of(toy.plugin)


def test_a_record_names_its_code_and_goes_stale_with_it(toy, tmp_path) -> None:
    claims.reproduce(toy.plugin, out=tmp_path / "out", record=True)
    record = claims.load_result(claims.record_path(toy.plugin))
    assert {"toy_plugin", "zoo.model", "zoo.training.run"} <= record.modules.keys()
    assert not [one for one in record.modules if one.startswith(("zoo.cli.", "zoo.errors", "zoo.models."))]
    (few,) = record.doubts
    assert re.fullmatch(r"5 seeds of \d+ s each; the primary comparison gets 8", few)
    module = Path(toy.__file__)
    source = module.read_text()
    module.write_text(source.replace("a threshold on brightness", "a simple thing"))
    assert len(record.doubts) == 1
    module.write_text(source.replace("rng.normal(3, 0.4)", "rng.normal(3, 0.5)"))
    assert "the code has changed since: toy_plugin; run: zoo reproduce toy-threshold --confirm" in record.doubts


def test_confirming_renews_digests_where_numbers_stay_and_says_what_differs_where_not(
    toy, tmp_path, monkeypatch
) -> None:
    with pytest.raises(OptionError, match="no record to confirm"):
        claims.confirm(toy.plugin)
    claims.reproduce(toy.plugin, out=tmp_path / "out", record=True)
    path = claims.record_path(toy.plugin)
    module = Path(toy.__file__)
    module.write_text(module.read_text().replace("base = float(", "base = 1.0 * float("))
    assert digests.stale(claims.load_result(path).modules) == ["toy_plugin"]
    assert not claims.is_current(toy.plugin)
    path.write_text(json.dumps({**json.loads(path.read_text()), "cpu_seconds": {}}))
    claims.confirm(toy.plugin)
    assert digests.stale(claims.load_result(path).modules) == []
    assert claims.load_result(path).cpu_seconds.keys() == {0}  # a record from before these were kept learns the cost
    assert claims.is_current(toy.plugin)
    before, real = path.read_bytes(), toy.arms

    def moved(seed, *, quick):
        arms = real(seed, quick=quick)
        arms["better"]["dice"] += 1e-12
        return arms

    monkeypatch.setattr(toy, "arms", moved)
    with pytest.raises(
        DataError, match=r"seed 0 of toy-threshold doesn't give what the record says: dice of better is"
    ):
        claims.confirm(toy.plugin)
    assert path.read_bytes() == before
    monkeypatch.setattr(toy, "claim", replace(toy.claim, timed=("dice", "seconds")))
    claims.confirm(toy.plugin)  # times differ from run to run
    monkeypatch.setattr(toy, "claim", replace(toy.claim, primary=replace(toy.claim.primary, margin=0.5)))
    with pytest.raises(OptionError, match="asks something else than its record"):
        claims.confirm(toy.plugin)


def test_a_record_of_another_processor_is_confirmed_beside_its_own_code(toy, tmp_path, monkeypatch) -> None:
    claims.reproduce(toy.plugin, out=tmp_path / "own", record=True)
    path = claims.record_path(toy.plugin)
    record = json.loads(path.read_text())
    record["results"]["0"]["better"]["dice"] += 1e-9  # as its own processor rounded
    path.write_text(json.dumps(record))
    with pytest.raises(DataError, match="doesn't give what the record says"):
        claims.confirm(toy.plugin)
    with pytest.raises(OptionError, match=r"there is no .*other.toy-threshold\.json; run: zoo reproduce"):
        claims.confirm(toy.plugin, tmp_path / "other")
    claims.confirm(toy.plugin, tmp_path / "own")
    confirmed = claims.load_result(path)
    assert confirmed.results[0]["better"]["dice"] == record["results"]["0"]["better"]["dice"]
    assert "by the record's own code on a processor with" in confirmed.confirmed
    real = toy.arms
    monkeypatch.setattr(toy, "arms", lambda seed, *, quick: real(seed + 1, quick=quick))
    with pytest.raises(DataError, match="doesn't give what the record's code gives here"):
        claims.confirm(toy.plugin, tmp_path / "own")
    other = json.loads((tmp_path / "own" / "toy-threshold.json").read_text())
    other["modules"]["toy_plugin"] = "of other code"
    (tmp_path / "own" / "toy-threshold.json").write_text(json.dumps(other))
    with pytest.raises(OptionError, match="isn't by the code of the record"):
        claims.confirm(toy.plugin, tmp_path / "own")


def test_a_record_is_of_the_operators_that_were_compiled_in(toy, tmp_path, monkeypatch) -> None:
    def compiled(level: str, sources: str) -> None:
        built = replace(status(), mode="auto", simd=level, build={"sources": sources})
        monkeypatch.setattr(ops, "status", lambda: built)

    monkeypatch.setitem(sys.modules, digests.OPERATORS, sys.modules[ops.__name__])  # as if it were there
    compiled("avx2", "one")
    claims.reproduce(toy.plugin, out=tmp_path / "out", record=True)
    record = claims.load_result(claims.record_path(toy.plugin))
    assert (record.modules[digests.OPERATORS], record.environment["operators"]) == ("one", "compiled avx2")
    compiled("avx512", "one")
    assert not record.stale
    ran: list[int] = []
    real = toy.arms
    monkeypatch.setattr(toy, "arms", lambda seed, *, quick: ran.append(seed) or real(seed, quick=quick))
    claims.reproduce(toy.plugin, out=tmp_path / "out")  # sums of another processor aren't mixed with these
    assert len(ran) == 5
    compiled("avx2", "two")
    assert record.stale == [digests.OPERATORS]
    claims.confirm(toy.plugin)
    assert not claims.load_result(claims.record_path(toy.plugin)).stale
    monkeypatch.setattr(ops, "status", lambda: replace(status(), mode="reference"))
    assert record.stale == [digests.OPERATORS]
    assert digests.operators() == ("reference", "")


def test_what_is_recorded_is_committed(toy, tmp_path) -> None:
    package = Path(toy.__file__).parent

    def git(*words: str) -> str:
        names = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        return subprocess.run(["git", *names, *words], cwd=package, check=True, capture_output=True, text=True).stdout

    git("init", "-q")
    with pytest.raises(OptionError, match=r"toy_plugin\.py isn't committed"):
        claims.reproduce(toy.plugin, out=tmp_path / "out", record=True)
    git("add", "toy_plugin.py")
    git("commit", "-qm", "a toy")
    result = claims.reproduce(toy.plugin, out=tmp_path / "out", record=True)
    assert git("rev-parse", "HEAD").startswith(result.commit)
    assert len(result.commit) == 12


def test_digests_are_of_what_can_move_a_number(tmp_path) -> None:
    def digest(text: str) -> str:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.py"
        path.write_text(text)
        return digests._digest(((path, 0),))

    card = 'plugin = Plugin(title="a", labels=("x",))\nclaim = Claim(statement="a", seeds=(1,))\n'
    assert digest(card) == digest(card.replace('"a"', '"b"'))
    assert digest(card) != digest(card.replace('"x"', '"y"'))
    base = 'def f(x):\n    """Says."""\n    if x > 1:\n        raise ValueError("too much")\n    return x + 1\n'
    for same in (
        ("Says.", "Says more."),
        ("too much", f"{base[:3]} more"),
        ("x + 1", "(x + 1)  # one"),
        ("\n    if", "\n\n    if"),
    ):
        assert digest(base.replace(*same)) == digest(base), same
    for other in (("x + 1", "x + 2"), ("x > 1", "x >= 1"), ("ValueError", "TypeError"), ("def f", "def g")):
        assert digest(base.replace(*other)) != digest(base), other
