"""Stored answers: asked again they are the same, and whatever changes is noticed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import zoo
from zoo import answers, loading, registry
from zoo.extras import DISTRIBUTION
from zoo.weights import ANSWER, TENSORS

OURS = [entry.name for entry in registry.entries() if entry.distribution == DISTRIBUTION and entry.plugin.weights]


@pytest.fixture
def folder(tmp_path) -> Path:
    """The demo weights of map-vessel, to spoil."""
    demo = loading.locate("demo", registry.info("map-vessel")).folder
    return Path(shutil.copytree(demo, tmp_path / "weights"))


def spoil(folder: Path, **changes: Any) -> None:
    record = json.loads((folder / ANSWER).read_text())
    (folder / ANSWER).write_text(json.dumps({**record, **changes}))


@pytest.mark.parametrize("name", OURS)
def test_all_our_demo_weights_carry_a_small_answer_of_their_own_tensors(name):
    located = loading.locate("demo", registry.info(name))
    answer = answers.read(located)
    assert answer is not None
    assert (located.folder / ANSWER).stat().st_size < 64 << 10
    assert answer.input == answers.question(registry.info(name))
    assert answer.tensors == answers._digest(located)
    assert answer.quantities or answer.arrays
    assert answer.tolerance == answers.TOLERANCE
    assert json.loads((located.folder / ANSWER).read_text()) == json.loads(answer.to_json())


def test_weights_answer_as_their_author_saw(zoo_cli, folder):
    told = zoo_cli("test", "map-vessel", "--weights", folder, "--device", "cpu")
    assert told.code == 0, told.err
    assert told.out.startswith("map-vessel: gives the stored answer")
    assert "phantom:fundus?seed=97" in told.out
    record = json.loads(zoo_cli("test", "map-vessel", "--json", "--device", "cpu").out)
    assert record["ok"] is True
    assert (record["weights"], record["differences"], record["tolerance"]) == ("demo", [], 1e-3)


def test_other_tensors_are_noticed_and_named(zoo_cli, folder):
    tensors = load_file(folder / TENSORS)
    name = max(tensors, key=lambda one: tensors[one].numel())
    tensors[name] = tensors[name] * 1.5
    save_file(tensors, folder / TENSORS, metadata={"format": "pt"})
    told = zoo_cli("test", "map-vessel", "--weights", folder, "--device", "cpu")
    assert told.code == 1
    assert "map-vessel: answers otherwise than its author saw: " in told.out
    tested = answers.ask_again("map-vessel", weights=str(folder), device="cpu")
    assert tested.differences[-1] == "the tensors are not those that were asked"
    assert any("probability is off by" in text for text in tested.differences)
    written = zoo_cli("test", "map-vessel", "--weights", folder, "--write")
    assert written.out.strip() == str(folder / ANSWER)
    assert answers.ask_again("map-vessel", weights=str(folder), device="cpu").ok


def test_a_small_difference_passes_and_a_larger_one_does_not(folder):
    located = loading.locate(str(folder), registry.info("map-vessel"))
    expected = answers.read(located)
    assert expected is not None
    share = expected.quantities["area_fraction_vessel"]

    def off(by: float, **made: str) -> list[str]:
        found = replace(expected, quantities={"area_fraction_vessel": share + by}, made={**expected.made, **made})
        return list(answers._differences(expected, found, answers.tolerance_of(expected, found)))

    assert off(0.0009) == []
    assert off(0.0011) == [f"area_fraction_vessel is {share + 0.0011:.6g}, not {share:.6g}"]
    assert off(0.004, device="cuda") == []
    assert off(0.006, device="cuda") != []
    assert off(0.015, device="cuda", dtype="bfloat16") == []
    assert off(0.015, device="mps") == []  # one that nobody measured counts as the coarsest
    assert off(0.03, device="mps") != []


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (np.zeros((9, 9), np.float32), np.zeros((9, 8), np.float32), "has the shape [9, 8], not [9, 9]"),
        (np.zeros((9, 9), np.float32), np.full((9, 9), 0.01, np.float32), "is off by 0.01"),
        (np.zeros((9, 9), np.float32), np.full((9, 9), 5e-4, np.float32), ""),
        (np.zeros((40, 40), np.uint8), np.eye(40, dtype=np.uint8), "is off by 0.1"),
        (np.zeros((3, 5, 6, 7), np.float32), np.zeros((3, 5, 6, 7), np.float32), ""),
    ],
)
def test_arrays_are_told_apart_by_their_blocks(before, after, said):
    found = list(answers._array_differences("mask", answers.sketch(before), answers.sketch(after), 1e-3))
    assert found == ([f"mask {said}"] if said else [])


def test_a_sketch_is_the_mean_of_each_block():
    array = np.arange(64, dtype=np.float32).reshape(8, 8)
    blocks = array.reshape(4, 2, 4, 2).mean(axis=(1, 3)).ravel().tolist()
    assert answers.sketch(array)["means"] == blocks
    uneven = answers.sketch(np.arange(10, dtype=np.float64))["means"]
    assert uneven == [0.5, 3.0, 5.5, 8.0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"input": "/etc/passwd"}, "neither a phantom nor a sample"),
        ({"format": 9}, "of another release"),
        ({"tolerance": {"cpu float32": 7.0}}, "must lie between 0 and 1"),
        ({"quantities": [1]}, "its quantities is a list"),
        ({"extra": 1}, "extra"),
        ({"arrays": {"mask": {"shape": [4], "means": [{}]}}}, "can't be read"),
        ({"arrays": {"mask": 3}}, "can't be read"),
    ],
)
def test_an_answer_that_can_not_be_used_is_refused(zoo_cli, folder, changes, said):
    spoil(folder, **changes)
    refused = zoo_cli("test", "map-vessel", "--weights", folder).refused
    assert said in refused
    assert "get the file again" in refused


def test_what_can_not_be_asked_is_refused(zoo_cli, folder):
    (folder / ANSWER).unlink()
    assert "carry no answer.json" in zoo_cli("test", "map-vessel", "--weights", folder).refused
    assert "random initialisation" in zoo_cli("test", "map-vessel", "--weights", "none").refused
    assert "--all" in zoo_cli("test").refused
    assert "push the folder" in zoo_cli("test", "map-vessel", "--weights", "hf://org/x", "--write").refused


def test_a_training_stores_what_its_weights_say(tmp_path):
    small = {"epochs": "1", "crops_per_image": "1", "batch_size": "2", "crop": "32"}
    out = zoo.train("map-vessel", "phantom:fundus?n=5&size=128", preset="demo", out=tmp_path / "run", device="cpu",
                    overrides=small)  # fmt: skip
    located = loading.locate(str(out), registry.info("map-vessel"))
    answer = answers.read(located)
    assert answer is not None
    assert answer.tensors == answers._digest(located)
    assert answers.ask_again("map-vessel", weights=str(out), device="cpu").ok


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", OURS)
def test_a_cuda_device_gives_the_answer_that_the_cpu_gave(name):
    tested = answers.ask_again(name, device="cuda")
    assert tested.ok, tested.sentence()
