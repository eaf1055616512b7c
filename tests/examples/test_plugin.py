"""The package in ``examples/plugin``: built, installed elsewhere, used, checked, and its weights sent to a Hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = ROOT / "examples" / "plugin"

if not PLUGIN.is_dir():
    pytest.skip("needs the source checkout", allow_module_level=True)


@pytest.mark.slow
def test_a_plugin_of_somebody_else_from_wheel_to_hub(environment, local_hub, tmp_path):
    wheel = environment.wheel(PLUGIN, tmp_path / "dist")
    output = environment.zoo("install", wheel)
    assert f"running: {environment.python} -m pip install {wheel}" in output
    assert "new in zoo list: spot-finder" in output

    listed = {item["name"]: item for item in json.loads(environment.zoo("list", "--json"))}
    assert listed["spot-finder"]["status"] == "ok"
    assert listed["spot-finder"]["distribution"] == "spot-finder"
    assert "map-vessel" in listed
    samples = json.loads(environment.zoo("samples", "--json"))
    drawn = "A uint8 ``[size size]`` image with one to three lesions, and their mask"
    assert {"input": "phantom:spot-finder", "title": drawn, "origin": "procedural"} in samples

    spec = "phantom:spot-finder?seed=3"
    line = json.loads(environment.zoo("predict", "spot-finder", spec, "--json", "--out", tmp_path / "here"))
    assert line["distribution"] == "spot-finder"
    assert 0.001 < line["area_fraction"]["lesion"] < 0.2
    assert {Path(name).suffix for name in line["files"]} == {".json", ".png"}
    assert all(Path(name).stat().st_size > 0 for name in line["files"])

    report = json.loads(environment.zoo("check", "spot-finder", "--json"))
    assert report["ok"] is True
    skipped = {item["check"] for item in report["results"] if item["status"] == "skipped"}
    assert skipped <= {"sample", "cuda", "answer"}

    pushed = json.loads(environment.zoo("push", "spot-finder", "org/spot-finder", "--json"))
    files = local_hub.files("org/spot-finder")
    assert {"README.md", "config.json", "model.safetensors"} <= set(files)
    assert files["model.safetensors"] == (PLUGIN / "src/spot_finder/demo/model.safetensors").read_bytes()
    card = files["README.md"].decode()
    assert "pip install spot-finder" in card.replace("'", "")
    assert "zoo predict spot-finder phantom:spot-finder --weights hf://org/spot-finder" in card

    pulled = json.loads(environment.zoo("pull", "org/spot-finder", "--out", tmp_path / "pulled", "--json"))
    assert pulled["model"] == "spot-finder"
    assert pulled["revision"] == pushed["revision"]
    pinned = f"hf://org/spot-finder@{pushed['revision']}"
    again = environment.zoo("predict", "spot-finder", spec, "--json", "--out", tmp_path / "there", "--weights", pinned)
    assert json.loads(again)["area_fraction"] == line["area_fraction"]
    assert json.loads(again)["revision"] == pushed["revision"]

    output = environment.zoo("uninstall", "spot-finder", "--yes")
    assert "-m pip uninstall --yes spot-finder" in output
    assert "spot-finder" not in environment.zoo("list")


def test_what_is_measured_on_the_card_holds(monkeypatch):
    """Without installing: the demo weights find the lesions of the phantom they were not trained on."""
    import sys

    import numpy as np

    from zoo import loading

    monkeypatch.syspath_prepend(str(PLUGIN / "src"))
    from importlib import import_module

    plugin = import_module("spot_finder").plugin
    monkeypatch.setattr(loading, "owner", lambda _: "spot-finder")
    model = loading.load_into(import_module("spot_finder.model").SpotFinder, "demo")
    draw = import_module("spot_finder.phantom").draw
    dice = []
    for seed in range(1000, 1012):
        case = draw(seed)
        found, wanted = model.predict(case.image).mask > 0, case.masks["mask"] > 0
        dice.append(2 * (found & wanted).sum() / (found.sum() + wanted.sum()))
    assert abs(np.mean(dice) - plugin.weights.metrics["dice"]) < 0.06
    for name in [name for name in sys.modules if name.startswith("spot_finder")]:
        del sys.modules[name]
