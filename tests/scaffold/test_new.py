"""``zoo new``: what it writes, and what it refuses to."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from zoo import scaffold
from zoo.errors import OptionError
from zoo.training import Run

try:
    import tomllib
except ImportError:  # Python 3.10
    tomllib = None

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    ".github/workflows/ci.yml", ".github/workflows/release.yml", ".gitignore", "README.md", "CHANGELOG.md",
    "CITATION.cff", "pyproject.toml",
    "src/spot_finder/__init__.py", "src/spot_finder/claim.py", "src/spot_finder/model.py",
    "src/spot_finder/phantom.py", "src/spot_finder/training.py",
    "src/spot_finder/demo/answer.json", "src/spot_finder/demo/config.json",
    "src/spot_finder/demo/model.safetensors", "tests/test_spot_finder.py",
}  # fmt: skip
KINDS = {"src/spot_finder/data.py"}
IMAGE = {*KINDS, "src/spot_finder/encoder.py"}


def files_of(task: str) -> set[str]:
    return FILES | (IMAGE if task in scaffold.WRAPPING else KINDS if task == "volume-segmentation" else set())


@pytest.mark.parametrize("task", scaffold.TASKS)
def test_a_package_is_written_with_all_its_parts_under_its_name(tmp_path, task):
    created = scaffold.new("spot-finder", task, tmp_path)
    assert created.folder == tmp_path / "spot-finder"
    assert {path.as_posix() for path in created.files} == files_of(task)
    on_disk = {p.relative_to(created.folder).as_posix() for p in created.folder.rglob("*") if p.is_file()}
    assert on_disk == files_of(task)
    for path in created.files:
        if path.suffix != ".safetensors":
            text = (created.folder / path).read_text(encoding="utf-8")
            assert not re.search(r"my.model|MyModel|TODO|FIXME", text, re.IGNORECASE), path
        if path.suffix == ".py":
            ast.parse((created.folder / path).read_text(encoding="utf-8"))
    assert [path.name for path in tmp_path.iterdir()] == ["spot-finder"]


@pytest.mark.skipif(tomllib is None, reason="needs tomllib of Python 3.11")
def test_the_entry_points_lead_to_the_card_and_the_phantom(tmp_path):
    folder = scaffold.new("spot-finder", parent=tmp_path).folder
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["name"] == "spot-finder"
    assert project["entry-points"]["zoo.models"] == {"spot-finder": "spot_finder:plugin"}
    assert project["entry-points"]["zoo.phantoms"] == {"spot-finder": "spot_finder.phantom:draw"}
    record = json.loads((folder / "src/spot_finder/demo/config.json").read_text())
    assert (record["model"], record["distribution"]) == ("spot-finder", "spot-finder")


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("SpotFinder", "spot-finder"), ("spot_finder", "spot-finder"), ("spot--finder", "spot-finder"),
        ("-spot", "spot"), ("9-spots", "spots"), ("", "my-model"), ("../spot", "spot"), ("spot/finder", "spot-finder"),
        ("spöt", "sp-t"), ("a" * 61, "a" * 60),
    ],
)  # fmt: skip
def test_a_name_that_is_no_plugins_is_refused_with_one_that_would_do(tmp_path, name, suggestion):
    with pytest.raises(OptionError) as refusal:
        scaffold.new(name, parent=tmp_path)
    assert str(refusal.value).endswith(f"such as {suggestion}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["json", "class", "zoo", "torch", "test"])
def test_a_name_that_would_hide_a_package_is_refused(tmp_path, name):
    with pytest.raises(OptionError, match="would hide a package"):
        scaffold.new(name, parent=tmp_path)


def test_an_unknown_task_is_refused(tmp_path):
    with pytest.raises(OptionError, match="no template for the task 'segmentatoin'; did you mean 'segmentation'"):
        scaffold.new("spot-finder", "segmentatoin", tmp_path)


@pytest.mark.parametrize(("backbone", "extra"), [("timm:resnet34", "backbones"), ("hf:org/net", "text")])
def test_a_backbone_is_what_the_preset_of_the_paper_starts_from(tmp_path, backbone, extra):
    folder = scaffold.new("spot-finder", "detection", tmp_path, backbone=backbone).folder
    assert f'BACKBONE = "{backbone}"' in (folder / "src/spot_finder/encoder.py").read_text()
    training = (folder / "src/spot_finder/training.py").read_text()
    assert '"paper": {"network": {"backbone": BACKBONE}}' in training
    assert "from .encoder import BACKBONE\n" in training
    assert f"medimg-zoo[train,{extra}]" in (folder / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    ("task", "backbone", "reason"),
    [
        ("segmentation", "timm:resnet18", "the template of segmentation has no place for a backbone"),
        ("detection", "resnet18", "'resnet18' is no backbone; write timm:NAME"),
        ("detection", 'timm:a"; import os', "is no backbone"),
        ("detection", "timm:../x", "is no backbone"),
    ],
)
def test_what_is_no_backbone_is_refused(tmp_path, task, backbone, reason):
    with pytest.raises(OptionError, match=reason):
        scaffold.new("spot-finder", task, tmp_path, backbone=backbone)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "spot-finder").mkdir()
    (tmp_path / "spot-finder" / "precious.txt").write_text("mine")
    with pytest.raises(OptionError, match="exists and nothing is overwritten"):
        scaffold.new("spot-finder", parent=tmp_path)
    assert [path.name for path in (tmp_path / "spot-finder").iterdir()] == ["precious.txt"]
    (tmp_path / "other").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OptionError, match="exists and nothing is overwritten"):
        scaffold.new("other", parent=tmp_path)


def test_a_folder_that_cant_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match=r"can't write .*choose another folder with --folder"):
        scaffold.new("spot-finder", parent=tmp_path / "file")


def test_a_failure_half_way_leaves_nothing_behind(tmp_path, monkeypatch):
    def full_disk(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scaffold.shutil, "copyfile", full_disk)
    with pytest.raises(OptionError, match="No space left on device"):
        scaffold.new("spot-finder", parent=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_name_of_an_installed_model_is_warned_of(tmp_path):
    created = scaffold.new("map-vessel", parent=tmp_path)
    assert len(created.warnings) == 1
    assert "medimg-zoo already has a model called map-vessel" in created.warnings[0]
    assert "hide" in scaffold.new("numpy", parent=tmp_path).warnings[0]
    assert scaffold.new("quite-new-name", parent=tmp_path).warnings == ()


@pytest.mark.parametrize("task", scaffold.TASKS)
def test_the_phantom_is_a_pure_function_and_its_truth_is_exact(tmp_path, monkeypatch, task):
    import numpy as np

    folder = scaffold.new("toy-scaffold", task, tmp_path).folder
    monkeypatch.syspath_prepend(str(folder / "src"))
    for name in [name for name in sys.modules if name.startswith("toy_scaffold")]:
        monkeypatch.delitem(sys.modules, name)
    from importlib import import_module

    draw = import_module("toy_scaffold.phantom").draw
    a, b, c = draw(5), draw(5), draw(6)
    assert np.array_equal(a.image, b.image)
    assert not np.array_equal(a.image, c.image)
    for seed in range(30):
        case = draw(seed)
        assert case.image.dtype == (np.float32 if task == "volume-segmentation" else np.uint8)
        assert case.image.shape == case.masks["mask"].shape
        assert 0 < case.masks["mask"].sum() < case.image.size / 2
        inside, outside = (case.image[case.masks["mask"] == v].astype(float) for v in (1, 0))
        assert task == "segmentation" or inside.mean() > outside.mean() + 20
    kinds = {None} if "segmentation" in task else {"smooth", "spiculated"}
    assert {draw(seed).label for seed in range(4)} == kinds
    for name in [name for name in sys.modules if name.startswith("toy_scaffold")]:
        monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """Modules of a package that was just written, of those kinds that share them."""
    from importlib import import_module

    def forget() -> None:
        for name in [name for name in sys.modules if name.startswith("toy_scaffold")]:
            del sys.modules[name]

    def write(task: str) -> list:
        folder = scaffold.new("toy-scaffold", task, tmp_path).folder
        monkeypatch.syspath_prepend(str(folder / "src"))
        return [import_module(f"toy_scaffold.{name}") for name in ("data", "training", "phantom", "claim")]

    forget()
    yield write
    forget()


OF_A_KIND = [task for task in scaffold.TASKS if files_of(task) >= KINDS]


@pytest.mark.parametrize("task", OF_A_KIND)
def test_every_part_of_a_kind_is_imported_and_works_together(parts, task):
    data, training, phantom, claim = parts(task)
    with Run(seed=0, device="cpu") as run:
        recipe = replace(training.ToyScaffoldRecipe(), steps=2, batch_size=2)
        model = training.fit(recipe, [phantom.draw(seed) for seed in range(4)], run)
    assert data.METRIC in data.score(model, phantom.draw(99), {})
    assert claim.claim.primary.metric == data.METRIC
    assert set(model.plugin.weights.metrics) == {data.METRIC}


@pytest.mark.slow
@pytest.mark.parametrize("task", OF_A_KIND)
def test_a_kind_learns_its_phantom_as_its_card_says(parts, task):
    data, training, phantom, _ = parts(task)
    with Run(seed=0, device="cpu") as run:
        recipe = replace(training.ToyScaffoldRecipe(), steps=training.training.presets["demo"]["steps"])
        model = training.fit(recipe, [phantom.draw(seed) for seed in range(56)], run)
    found = sum(data.score(model, phantom.draw(seed), {})[data.METRIC] for seed in range(5000, 5020)) / 20
    assert found > model.plugin.weights.metrics[data.METRIC] - 0.15


@pytest.mark.parametrize("task", scaffold.TASKS)
def test_lint_finds_nothing_in_a_new_package(tmp_path, task):
    ruff = pytest.importorskip("ruff")
    folder = scaffold.new("spot-finder", task, tmp_path).folder
    for how in (["check"], ["check", "--select", "E,B,UP,SIM"], ["format", "--check"]):
        done = subprocess.run([ruff.find_ruff_bin(), *how, "--no-cache"], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("task", scaffold.TASKS)
def test_its_tests_pass_as_generated(tmp_path, environment, task):
    folder = scaffold.new("spot-finder", task, tmp_path).folder
    environment.install("--editable", folder)
    done = environment.run("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=folder)
    assert " passed" in done
    assert "skipped" not in done
    # what was installed is what pip would build from it
    wheel = environment.wheel(folder, tmp_path / "dist")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"spot_finder/__init__.py", "spot_finder/demo/config.json", "spot_finder/demo/model.safetensors"} <= {*names}
    assert os.path.getsize(wheel) < 150_000


@pytest.mark.slow
@pytest.mark.parametrize("task", scaffold.TASKS)
def test_every_kind_goes_from_its_wheel_to_a_hub(tmp_path, environment, local_hub, task):
    folder = scaffold.new("spot-finder", task, tmp_path).folder
    environment.zoo("install", environment.wheel(folder, tmp_path / "dist"))
    report = json.loads(environment.zoo("check", "spot-finder", "--json"))
    assert report["ok"] is True, report
    pushed = json.loads(environment.zoo("push", "spot-finder", "org/spot-finder", "--json"))
    files = local_hub.files("org/spot-finder")
    assert files["model.safetensors"] == (folder / "src/spot_finder/demo/model.safetensors").read_bytes()
    there = ("--weights", f"hf://org/spot-finder@{pushed['revision']}", "--json", "--out", tmp_path / "there")
    line = json.loads(environment.zoo("predict", "spot-finder", "phantom:spot-finder?seed=3", *there))
    assert line["revision"] == pushed["revision"]
    assert line["inputs"]
