"""``zoo new``, ``zoo install`` and ``zoo uninstall`` as commands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from zoo.cli import plugins

CARD = """
from zoo import Input, Output, Paper, Plugin
plugin = Plugin(
    name="toy-model", title="A toy", summary="Does nothing.",
    paper=Paper(title="Toys", authors=("Ada Lovelace",), workshop="Toy Workshop"),
    task="classification", modality="any", inputs=(Input("image", "image", "any", required=True),),
    outputs=(Output("label", "a label"),), labels=("a", "b"), model="toy_package:Toy",
)
"""


@pytest.fixture
def pip(monkeypatch):
    """What pip would be asked to do; nothing is done."""
    asked: list[list[str]] = []
    answer = SimpleNamespace(asked=asked, code=0)

    def run(command, **_):
        asked.append(command)
        return subprocess.CompletedProcess(command, answer.code)

    monkeypatch.setattr(plugins.subprocess, "run", run)
    monkeypatch.setattr(plugins, "find_spec", lambda name: object())
    return answer


def test_new_names_the_files_and_what_to_do_next(zoo_cli, tmp_path):
    ran = zoo_cli("new", "spot-finder", "--folder", tmp_path)
    assert ran.code == 0
    lines = ran.out.splitlines()
    folder = tmp_path / "spot-finder"
    assert all((folder / Path(line).relative_to(folder)).is_file() for line in lines[: lines.index("")])
    assert f"  zoo install --editable {folder}" in lines
    assert "  zoo check spot-finder" in lines
    assert zoo_cli("new", "spot-finder", "--folder", tmp_path).refused.endswith("another --folder")


def test_new_warns_of_a_name_that_is_taken(zoo_cli, tmp_path):
    ran = zoo_cli("new", "map-vessel", "--folder", tmp_path)
    assert ran.code == 0
    assert ran.err.startswith("note: medimg-zoo already has a model called map-vessel")


def test_new_refuses_a_task_without_a_template(zoo_cli, tmp_path):
    refusal = zoo_cli("new", "spot-finder", "--task", "registration", "--folder", tmp_path).refused
    assert refusal == "zoo: there is no template for the task 'registration'; did you mean 'reconstruction'?"
    assert list(tmp_path.iterdir()) == []


def test_install_prints_the_command_that_it_runs(zoo_cli, pip):
    ran = zoo_cli("install", "spot-finder==1.0", "--editable", "my plugin", "--upgrade")
    assert ran.code == 0
    expected = ["-m", "pip", "install", "--upgrade", "--editable", "my plugin", "spot-finder==1.0"]
    assert pip.asked == [[sys.executable, *expected]]
    assert ran.out.splitlines()[0].endswith("-m pip install --upgrade --editable 'my plugin' spot-finder==1.0")
    assert ran.out.splitlines()[1] == "zoo list shows no new model"


def test_the_exit_code_is_that_of_pip(zoo_cli, pip):
    pip.code = 23
    assert zoo_cli("install", "no-such-thing").code == 23


def test_install_needs_something_to_install(zoo_cli, pip):
    assert "name what to install" in zoo_cli("install").refused
    assert pip.asked == []


@pytest.mark.parametrize("name", ["toy-model", "toy_model", "toy-zoo", "toy-zoo:toy-model"])
def test_uninstall_takes_the_distribution_of_a_model(zoo_cli, pip, install_plugin, name):
    install_plugin("toy-zoo", CARD)
    assert zoo_cli("uninstall", name, "--yes").code == 0
    assert pip.asked == [[sys.executable, "-m", "pip", "uninstall", "--yes", "toy-zoo"]]


def test_uninstall_works_for_a_plugin_that_is_broken(zoo_cli, pip, install_plugin):
    install_plugin("toy-zoo", "raise RuntimeError('broken')")
    assert zoo_cli("uninstall", "toy-model", "--yes").code == 0
    assert pip.asked[0][-1] == "toy-zoo"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["toy-model"], "uninstalling toy-zoo needs a yes; repeat the command with --yes"),
        (["map-vessel", "--yes"], "map-vessel is part of medimg-zoo itself"),
        (["numpy", "--yes"], "numpy brings no model; uninstall it with pip"),
        (["toy-modle", "--yes"], "there is no model 'toy-modle'; did you mean toy-model?"),
    ],
)
def test_uninstall_refuses(zoo_cli, pip, install_plugin, monkeypatch, arguments, reason):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: False))
    install_plugin("toy-zoo", CARD)
    assert reason in zoo_cli("uninstall", *arguments).refused
    assert pip.asked == []


@pytest.mark.parametrize(
    ("uv", "remedy"),
    [("/usr/bin/uv", f"uv pip install --python {sys.executable} spot-finder"), (None, "-m ensurepip")],
)
def test_a_python_without_pip_is_told_what_to_run(zoo_cli, pip, monkeypatch, uv, remedy):
    monkeypatch.setattr(plugins, "find_spec", lambda name: None)
    monkeypatch.setattr(plugins.shutil, "which", lambda name: uv)
    refusal = zoo_cli("install", "spot-finder").refused
    assert "has no pip; run: " in refusal
    assert refusal.endswith(remedy)
    assert pip.asked == []
