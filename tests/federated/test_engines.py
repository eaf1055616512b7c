from __future__ import annotations

import json
import re
import socket
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.data.sets import load_dataset
from zoo.data.splits import Split, split
from zoo.errors import DataError, OptionError
from zoo.federated import construct, deployment, federate
from zoo.federated.app import facts_of, rebuild
from zoo.federated.federation import initial_models
from zoo.training import Run
from zoo.training.recipe import digest, train


@pytest.fixture
def table(tmp_path):
    """A data set on disk, which other processes can read as well."""
    rng = np.random.default_rng(0)
    rows = ["image,label"]
    for i in range(24):
        grey = np.clip(100 + 60 * (i % 2) + rng.normal(0, 30, (2, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(grey).save(tmp_path / f"c{i}.png")
        rows.append(f"c{i}.png,{'ab'[i % 2]}")
    (tmp_path / "table.csv").write_text("\n".join(rows) + "\n")
    return f"csv:{tmp_path / 'table.csv'}"


@pytest.fixture
def start(toy, table, tmp_path, monkeypatch):
    """``start(engine)``: the toy federation on an engine."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()

    def run(engine, resume=False, **fields):
        parts = split(load_dataset(table), seed=0)
        source = {"data": table, "phantom": None, "split": asdict(Split()), "cases": digest(parts)}
        run = Run(
            tmp_path / engine, device="cpu", progress=False, engine=engine, source=source, resume=resume,
            identity={"model": "toy"},
        )  # fmt: skip
        return federate(toy.build, toy.ToyRecipe(**fields), parts, run)

    return run


def assert_alike(a, b):
    for name, value in a.state_dict().items():
        torch.testing.assert_close(value, b.state_dict()[name], rtol=1e-4, atol=1e-5)
    assert a.ledger == b.ledger


@pytest.fixture
def listeners(monkeypatch):
    """The ports that a deployment took."""
    taken: list[int] = []
    free = deployment._free_ports
    monkeypatch.setattr(deployment, "_free_ports", lambda n: taken.extend(free(n)) or taken[-n:])
    return taken


def test_three_engines_give_the_same_global_weights(start, listeners, tmp_path):
    local = start("local", rounds=1)
    assert_alike(local, start("simulation", rounds=1))
    assert_alike(local, start("deployment", rounds=1))

    for port in listeners:  # nothing is left running
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port), timeout=1)
    folder = tmp_path / "deployment" / "app"
    assert {path.name for path in folder.iterdir()} == {
        "pyproject.toml", "server_app.py", "client_app.py", "federation.json",
    }  # fmt: skip
    assert not (tmp_path / "home" / ".flwr").exists()
    assert_alike(local, start("deployment", rounds=1, resume=True))  # what's finished isn't started again


@pytest.mark.slow
def test_a_deployed_client_that_crashes_is_left_out(start):
    outcome = start("deployment", rounds=1, crash=1)
    assert outcome.rows[0]["failed"] == 1


@pytest.mark.slow
def test_a_deployed_server_says_why_it_stopped(start):
    with pytest.raises(DataError, match="round 1: 1 of 2 clients"):
        start("deployment", rounds=1, crash=1, min_clients=2)


@pytest.mark.parametrize("missing", ["flwr", "flwr-serverapp", "flower-superexec"])
def test_a_command_that_is_not_there_is_named_before_anything_starts(missing, tmp_path, monkeypatch):
    there = deployment.shutil.which
    monkeypatch.setattr(
        "zoo.federated.deployment.shutil.which", lambda name, path=None: None if name == missing else there(name)
    )
    monkeypatch.setattr(deployment, "COMMANDS", (missing,))
    with pytest.raises(OptionError, match=f"needs Flower's command {missing}, which isn't beside this Python"):
        deployment.deploy(tmp_path, "federated", 2)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("module", ["my_paper.training", "a_paper_with_a_very_long_name.training", "x" * 40])
def test_the_generated_app_passes_flowers_own_check(toy, tmp_path, module):
    from flwr.cli.build import build_fab_from_disk
    from flwr.cli.config_utils import load_and_validate

    facts = {"build": f"zoo.models.{module}:build", "stage": "federated", "out": str(tmp_path)}
    folder = deployment.write_app(tmp_path / "app", facts, clients=2, rounds=3)
    config, warnings = load_and_validate(folder / "pyproject.toml", check_module=False)
    assert warnings == []
    assert re.fullmatch(r"[a-z][a-z0-9-]{0,31}", config["project"]["name"])
    assert config["tool"]["flwr"]["app"]["components"] == {
        "serverapp": "server_app:app", "clientapp": "client_app:app",
    }  # fmt: skip
    assert len(build_fab_from_disk(folder)) > 0


def test_other_processes_refuse_other_data(toy, table, tmp_path):
    parts = split(load_dataset(table), seed=0)
    source = {"data": table, "phantom": None, "split": asdict(Split()), "cases": digest(parts)}
    run = Run(tmp_path / "run", device="cpu", engine="simulation", source=source)
    facts = facts_of(toy.build, toy.ToyRecipe(), run, "federated")
    assert rebuild(json.dumps(facts)).clients == 2
    with pytest.raises(DataError, match="holds other cases here"):
        rebuild(json.dumps({**facts, "seed": 5}))
    with pytest.raises(OptionError, match="can't import"):
        facts_of(lambda *_: None, toy.ToyRecipe(), run, "federated")
    with pytest.raises(OptionError, match="need a data specification; use zoo train"):
        federate(toy.build, toy.ToyRecipe(), parts, Run(None, device="cpu", engine="simulation"))


def test_training_by_name_or_plugin_takes_an_engine(toy, table, tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.training.recipe.store", lambda *_: None)  # the toy's network is no Model
    out = train(toy.plugin, table, out=tmp_path / "run", overrides={"clients": "3"}, device="cpu", engine="local")
    assert len(list((out / "metrics").glob("*.csv"))) == 3
    with pytest.raises(OptionError, match="engine must be local, simulation or deployment, not 'moon'"):
        train(toy.plugin, table, out=tmp_path / "other", engine="moon")


def test_an_engine_means_nothing_to_other_models(tmp_path):
    with pytest.raises(OptionError, match="map-vessel isn't a federated model, so engine local means nothing"):
        train("map-vessel", "phantom:fundus", out=tmp_path / "run", engine="local")
    assert not (tmp_path / "run").exists()


def test_without_flower_there_is_one_sentence(monkeypatch):
    from zoo.errors import MissingExtraError

    for name in [name for name in sys.modules if name.split(".")[0] == "flwr" or name.startswith("zoo.federated")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "flwr", None)
    import zoo.federated

    with pytest.raises(MissingExtraError, match=r"medimg-zoo\[federated\]"):
        zoo.federated.federate  # noqa: B018


def test_importing_the_package_imports_neither_torch_nor_flower():
    import subprocess

    code = "import sys, zoo.federated; print('torch' in sys.modules, 'flwr' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["False", "False"]


def test_the_model_starts_from_the_seed_or_from_given_weights(toy):
    federation = construct(toy.build, toy.ToyRecipe(), toy.toy_data(), 3)
    first, again = (initial_models(federation, 3, "federated")["network"] for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    given = {name: torch.full_like(value, 2) for name, value in first.items()}
    run = Run(None, device="cpu", progress=False)
    outcome = federate(toy.build, toy.ToyRecipe(rounds=1, lr=1e-9), toy.toy_data(), run, models={"network": given})
    torch.testing.assert_close(outcome.state_dict()["0.weight"], given["0.weight"])
