"""``zoo push``, ``zoo pull`` and ``zoo cache`` without a Hub; ``tests/hub`` has one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import zoo


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)


@pytest.mark.parametrize("command", ["push", "pull", "cache"])
def test_help_is_there(zoo_cli, command: str) -> None:
    ran = zoo_cli(command, "--help")
    assert ran.code == 0
    assert "Usage" in ran.out


def test_pull_offline_says_what_to_do(zoo_cli) -> None:
    assert "go online and run: zoo pull org/toy@v1" in zoo_cli("pull", "org/toy@v1").refused


def test_push_needs_weights(zoo_cli, tmp_path: Path) -> None:
    assert "there is no model 'nothing'" in zoo_cli("push", "nothing", "org/toy").refused
    assert "holds no model.safetensors" in zoo_cli("push", tmp_path, "org/toy").refused
    assert "not a Hub address" in zoo_cli("push", tmp_path, "toy").refused
    (tmp_path / "model.bin").write_bytes(b"pickle")
    assert "only pickled weights ('model.bin')" in zoo_cli("push", tmp_path, "org/toy").refused


def test_the_cache_is_empty_at_first(zoo_cli, tmp_path: Path) -> None:
    assert "zoo pull ORG/REPO" in zoo_cli("cache", "list").out
    assert json.loads(zoo_cli("cache", "list", "--json").out) == []
    assert zoo_cli("cache", "size").out == f"0 B in 0 revisions in {tmp_path / 'hf'}\n"
    assert "org/toy is not in the cache" in zoo_cli("cache", "rm", "org/toy", "--yes").refused


def test_the_python_functions_are_public() -> None:
    from zoo import hub, publish

    assert zoo.push is publish.push
    assert zoo.pull is hub.pull
    assert {"push", "pull"} <= set(zoo.__all__)
