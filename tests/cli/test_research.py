"""`zoo train`, `evaluate`, `reproduce` and `data check` as a researcher meets them."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo import models

TINY = ["--set", "epochs=1", "--set", "crops_per_image=1", "--set", "method=baseline", "--set", "batch_size=2"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of image and mask files, as a user has it."""
    from zoo.data.phantoms.fundus import fundus

    root = tmp_path_factory.mktemp("pairs")
    for kind in ("images", "masks"):
        (root / kind).mkdir()
    for seed in range(6):
        case = fundus(seed, size=160)
        Image.fromarray(np.asarray(case.image)).save(root / "images" / f"eye{seed}.png")
        Image.fromarray(np.asarray(case.masks["mask"]) * 255).save(root / "masks" / f"eye{seed}.png")
    return root


def train(zoo_cli, data: str | Path, *more: str, out: Path):
    return zoo_cli("train", "map-vessel", "--data", data, "--preset", "demo", *TINY, *more, "--out", out,
                   "--device", "cpu")  # fmt: skip


def test_train_evaluate_and_predict_on_ones_own_pairs(zoo_cli, pairs, tmp_path) -> None:
    run = tmp_path / "run"
    ran = train(zoo_cli, f"pairs:{pairs}", "--set", "network.working_size=160", out=run)
    assert ran.code == 0, ran.err
    assert f"--weights {run}" in ran.out
    line, plan, _ = ran.err.splitlines()
    assert "for training" in plan
    assert line == f"note: pairs:{pairs}: no case says which patient it is of, so each counts as a patient of its own"
    assert {"config.json", "model.safetensors", "run.json", "split.json"} <= {path.name for path in run.iterdir()}

    ran = zoo_cli("evaluate", "map-vessel", "--data", f"pairs:{pairs}", "--weights", run, "--out", tmp_path / "e",
                  "--device", "cpu", "--json")  # fmt: skip
    assert ran.code == 0, ran.err
    result = json.loads(ran.out)
    assert result["split"] == "test"
    held_out = json.loads((run / "split.json").read_text())["test"]
    with (tmp_path / "e" / "cases.csv").open() as table:
        assert sorted(row["id"] for row in csv.DictReader(table)) == sorted(held_out)
    assert {path.name for path in (tmp_path / "e").iterdir()} == {"evaluation.json", "cases.csv", "figure.png"}

    image = pairs / "images" / "eye0.png"
    ran = zoo_cli("predict", "map-vessel", image, "--weights", run, "--out", tmp_path / "p", "--json")
    assert json.loads(ran.out)["trained_on"] == f"pairs:{pairs}"


def test_training_says_once_that_soft_masks_are_cut(zoo_cli, tmp_path) -> None:
    from zoo.data.phantoms.fundus import fundus

    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for seed in range(4):
        case = fundus(seed, size=128)
        Image.fromarray(np.asarray(case.image)).save(tmp_path / "images" / f"{seed}.png")
        Image.fromarray(np.asarray(case.masks["mask"]) * 255).save(tmp_path / "masks" / f"{seed}.jpg", quality=50)
    ran = train(zoo_cli, f"pairs:{tmp_path}", "--set", "network.working_size=128", out=tmp_path / "run")
    assert ran.code == 0, ran.err
    text = f"note: masks in {tmp_path / 'masks'} have grey edges; they were cut at half"
    assert ran.err.splitlines().count(text) == 1
    measured = zoo_cli("evaluate", "map-vessel", "--data", f"pairs:{tmp_path}", "--weights", tmp_path / "run",
                       "--out", tmp_path / "e", "--device", "cpu", "--json")  # fmt: skip
    assert text.removeprefix("note: ") in json.loads(measured.out)["notes"]


def test_equal_seeds_give_equal_weights_and_others_do_not(zoo_cli, tmp_path) -> None:
    spec = "phantom:fundus?n=6&size=160"
    weights = []
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        ran = train(zoo_cli, spec, "--seed", seed, "--set", "network.working_size=160", out=tmp_path / name)
        assert ran.code == 0, ran.err
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config["disclaimer"] == "trained on phantoms; not for clinical use"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "phantom:fundus?n=6", "--set", "epoch=1"], "did you mean 'epochs'"),
        (["--data", "phantom:fundus?n=6", "--set", "epochs=soon"], "epochs"),
        (["--data", "phantom:fundus?n=6", "--set", "epochs"], "has no value"),
        (["--data", "phantom:fundus?n=6", "--preset", "huge"], "there is no preset 'huge'"),
        (["--data", "phantom:fundos?n=6"], "fundus"),
        (["--data", "pairs:/no/such/folder"], "/no/such/folder"),
        (["--data", "nothing"], "nothing"),
    ],
)
def test_wrong_training_arguments_are_refused_by_name(zoo_cli, tmp_path, arguments, message) -> None:
    ran = zoo_cli("train", "map-vessel", *arguments, "--out", tmp_path / "run", "--device", "cpu")
    assert message in ran.refused
    assert not (tmp_path / "run").exists()


def test_data_check_tells_good_sets_from_bad(zoo_cli, pairs, tmp_path) -> None:
    ran = zoo_cli("data", "check", f"pairs:{pairs}", "--model", "map-vessel", "--json")
    assert ran.code == 0, ran.out
    assert json.loads(ran.out)["cases"] == 6
    broken = tmp_path / "broken"
    for kind in ("images", "masks"):
        (broken / kind).mkdir(parents=True)
        for path in (pairs / kind).iterdir():
            (broken / kind / path.name).write_bytes(path.read_bytes())
    (broken / "images" / "eye1.png").write_bytes(b"no picture")
    Image.new("L", (10, 10)).save(broken / "masks" / "eye2.png")
    ran = zoo_cli("data", "check", f"pairs:{broken}")
    assert ran.code == 2
    assert "eye1" in ran.out
    assert "eye2" in ran.out


def test_demo_weights_are_measured_on_seeds_they_did_not_see_and_the_terminal_says_so(zoo_cli, tmp_path) -> None:
    demo = json.loads((Path(models.__file__).parent / "grad_align" / "demo" / "seen.json").read_text())
    seen = {seed for part in ("train", "validation") for seeds in demo[part]["phantoms"].values() for seed in seeds}
    given = (
        "evaluate",
        "grad-align",
        "--data",
        "phantom:chest-xray?n=60&size=48",
        "--device",
        "cpu",
        "--out",
        tmp_path,
    )
    ran = zoo_cli(*given)
    assert ran.code == 0, ran.err
    with (tmp_path / "cases.csv").open() as table:
        measured = {int(row["id"].rpartition("-")[2]) for row in csv.DictReader(table)}
    assert measured == set(range(60)) - seen
    assert f"note: split as in the training of these weights: {len(measured)} of 60 cases" in ran.out
    refused = zoo_cli(*given, "--split", "all").refused
    assert f"saw {60 - len(measured)} of these 60 cases" in refused
    assert "--allow-seen" in refused
    ran = zoo_cli(*given, "--split", "all", "--allow-seen")
    assert ran.code == 0, ran.err
    assert f"note: the weights saw {60 - len(measured)} of these 60 cases" in ran.out


def test_cases_that_fail_are_named_on_the_terminal(zoo_cli, pairs, tmp_path) -> None:
    broken = tmp_path / "broken"
    for kind in ("images", "masks"):
        (broken / kind).mkdir(parents=True)
        for path in sorted((pairs / kind).iterdir())[:2]:
            (broken / kind / path.name).write_bytes(path.read_bytes())
    (broken / "images" / "eye1.png").write_bytes(b"no picture")
    ran = zoo_cli("evaluate", "map-vessel", "--data", f"pairs:{broken}", "--split", "all", "--device", "cpu",
                  "--out", tmp_path / "e")  # fmt: skip
    assert ran.code == 0, ran.err
    assert "failed: eye1: " in ran.out


@pytest.mark.slow
def test_reproduce_quick_runs_every_arm_and_proves_nothing(zoo_cli, tmp_path) -> None:
    ran = zoo_cli("reproduce", "map-vessel", "--quick", "--out", tmp_path)
    assert ran.code == 0, ran.err
    result = json.loads((tmp_path / "map-vessel.quick.json").read_text())
    assert result["verdict"] == "inconclusive"
    assert result["quick"] is True
    for arms in result["results"].values():
        assert set(arms) == {"map", "pooled", "baseline", "bigaug"}
        assert all(0 <= value <= 100 for scores in arms.values() for value in scores.values())
    assert (tmp_path / "map-vessel.quick.png").stat().st_size > 5000


def test_reproduce_refuses_what_has_no_claim(zoo_cli, tmp_path) -> None:
    assert "name a model" in zoo_cli("reproduce").refused
    assert "there is no model" in zoo_cli("reproduce", "nothing-like-it").refused
    assert str(tmp_path) in zoo_cli("reproduce", "--all", "--report", tmp_path / "p.md", "--out", tmp_path).refused


@pytest.mark.slow
def test_accelerate_launch_trains_in_two_processes_and_writes_once(tmp_path) -> None:
    """Equality with one process is tested in tests/training: here every process has batch statistics of its own."""
    import subprocess

    import zoo

    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
               "--main_process_port", "0", "-m", "zoo", "train", "map-vessel", "--data", "phantom:fundus?n=6&size=160",
               "--preset", "demo", *TINY, "--set", "network.working_size=160", "--device", "cpu",
               "--out", str(tmp_path / "two")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("trained weights are in") == 1
    assert json.loads((tmp_path / "two" / "run.json").read_text())["finished"] is True
    model = zoo.load("map-vessel", weights=str(tmp_path / "two"), device="cpu")
    assert all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())
