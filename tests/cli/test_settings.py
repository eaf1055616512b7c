"""What holds for all commands: help, the log, tables that fit, a user's defaults, completion."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from zoo import defaults
from zoo.cli.output import print_table


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Write the user's configuration file."""

    def write(text: str) -> Path:
        path = tmp_path / "config.toml"
        path.write_text(text)
        monkeypatch.setenv("ZOO_CONFIG", str(path))
        defaults._read.cache_clear()
        return path

    return write


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    path = tmp_path / "eye.png"
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    return path


# ---- help and tables ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [[], ["predict"], ["cache"], ["cache", "rm"], ["data", "check"], ["search"]])
def test_h_is_help(zoo_cli, command) -> None:
    short, long = zoo_cli(*command, "-h"), zoo_cli(*command, "--help")
    assert short.code == 0
    assert short.out == long.out
    assert "Usage:" in short.out


@pytest.mark.parametrize("command", [["list"], ["info", "map-vessel"], ["info", "cemb-sam"], ["samples"], ["doctor"]])
def test_tables_fit_80_columns(zoo_cli, monkeypatch, command) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    ran = zoo_cli(*command)
    tables = [line for line in ran.out.splitlines() if "  " in line.strip()]
    assert len(tables) > 5
    # prose and the citation are no tables; a word that is longer than a column stays whole
    wide = [line for line in tables if len(line) > 80 and not line.startswith(" ") and max(map(len, line.split())) < 30]
    assert wide == []


def test_list_has_a_line_for_each_model_and_wide_has_everything(zoo_cli, monkeypatch) -> None:
    from zoo import registry

    monkeypatch.setenv("COLUMNS", "80")
    models = registry.list_models()
    for options in ([], ["--wide"]):
        lines = zoo_cli("list", *options).out.splitlines()[1:]
        assert [line.split()[0] for line in lines] == models
    assert max(map(len, zoo_cli("list").out.splitlines())) <= 80
    row = next(line for line in zoo_cli("list", "--wide").out.splitlines() if line.startswith("map-vessel"))
    card = registry.info("map-vessel")
    assert card.summary in row
    assert card.modality in row
    assert "medimg-zoo" in row


def test_a_table_shrinks_its_widest_columns_and_leaves_words_whole(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    path = "/a/long/path/that/stays/whole/in/a/pipe/for/other/programs.png"
    print_table(["name", "said", "more"], [["a", "some words " * 12, "other words " * 9], ["b", path, ""]])
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if path not in line) <= 60
    assert sum(path in line for line in lines) == 1
    print_table(["name", "said"], [["a", "some words " * 12]], cut=True)
    head, row = capsys.readouterr().out.splitlines()
    assert len(row) <= 60
    assert row.endswith("...")
    assert head.split() == ["name", "said"]


# ---- the log --------------------------------------------------------------------------------------------------------


def test_quiet_leaves_results_and_errors_and_verbose_says_more(zoo_cli, picture, tmp_path) -> None:
    def ran(*options: str):
        return zoo_cli(
            *options, "predict", "map-vessel", picture, "--out", tmp_path / "out", "--device", "cpu", "--no-figure"
        )

    usual, quiet, verbose, chatty = ran(), ran("-q"), ran("-v"), ran("-vv")
    assert [each.code for each in (usual, quiet, verbose, chatty)] == [0] * 4
    assert "note: eye.png: " in usual.err
    assert quiet.err == ""
    assert quiet.out == usual.out
    assert "map-vessel: weights demo on cpu" in verbose.err
    assert "predicting on" not in verbose.err
    assert f"predicting on {picture}" in chatty.err
    assert "there is no model 'nope'" in zoo_cli("-q", "info", "nope").refused
    assert "exclude each other" in zoo_cli("-q", "-v", "list").refused
    assert "note: eye.png: " in ran().err  # nothing of it stays


def test_a_broken_plugin_is_told_of_by_the_log(zoo_cli, install_plugin) -> None:
    install_plugin("toy-dist", "raise RuntimeError('no \\x1b[31mgood')")
    ran = zoo_cli("-v", "list")
    assert "the plugin toy-model of toy-dist is broken: RuntimeError: no ?[31mgood" in ran.err


def test_the_library_is_silent_in_a_program_that_configures_no_log() -> None:
    code = "import zoo, logging; zoo.load('map-vessel'); print(logging.getLogger('zoo').handlers)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


# ---- a user's defaults ----------------------------------------------------------------------------------------------


def test_the_file_gives_device_folder_and_weights_and_the_command_line_goes_first(
    zoo_cli, settings, picture, tmp_path
) -> None:
    settings(f'device = "cuda:7"\nout = "{tmp_path / "mine"}"\n[weights]\nmap_vessel = "none"\n')
    assert "device cuda:7 is not available" in zoo_cli("predict", "map-vessel", picture).refused
    ran = zoo_cli("predict", "map-vessel", picture, "--device", "cpu", "--no-figure")
    assert "weights: none (" in ran.out
    assert (tmp_path / "mine" / "eye.json").is_file()
    other = tmp_path / "other"
    ran = zoo_cli(
        "predict", "map-vessel", picture, "--device", "cpu", "--weights", "demo", "--out", other, "--no-figure"
    )
    assert "weights: demo (" in ran.out
    assert (other / "eye.json").is_file()
    evaluated = zoo_cli("evaluate", "map-vessel", "--data", "phantom:fundus?n=4&seed=1", "--out", tmp_path / "e")
    assert "device cuda:7 is not available" in evaluated.refused


def test_a_program_does_not_read_it(settings, monkeypatch) -> None:
    import zoo

    settings('device = "cuda:7"\n[weights]\nmap-vessel = "/nowhere"\n')
    assert zoo.load("map-vessel", device="cpu").provenance.weights == "demo"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("device = ", "is no TOML"), ('devise = "cpu"', "did you mean 'device'"), ("device = 3", 'must be a "text"'),
        ('weights = "demo"', "must be [weights] with lines"),
        ("[weights]\nmap-vessel = 3", "the weights of map-vessel"),
        ("\x00", "is no TOML"), ("a = " + "[" * 4000, "is no TOML"),
    ],
)  # fmt: skip
def test_a_file_that_is_wrong_is_one_sentence(zoo_cli, settings, text, said) -> None:
    settings(text)
    assert said in zoo_cli("list").refused


def test_where_it_is_looked_for(tmp_path, monkeypatch, zoo_cli) -> None:
    if os.name == "nt":
        pytest.skip("Windows keeps settings elsewhere")
    monkeypatch.delenv("ZOO_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert defaults.place() == tmp_path / "zoo" / "config.toml"
    assert defaults.read() == defaults.Defaults()
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert defaults.place() == tmp_path / ".config" / "zoo" / "config.toml"
    monkeypatch.setenv("ZOO_CONFIG", str(tmp_path / "none.toml"))
    assert "can't read" in zoo_cli("list").refused
    monkeypatch.setenv("ZOO_CONFIG", "")
    assert defaults.place() is None


# ---- other people's plugins, completion -----------------------------------------------------------------------------


def test_zoo_starts_without_other_peoples_plugins(zoo_cli, install_plugin, monkeypatch) -> None:
    from zoo import registry

    install_plugin("toy-dist", "import toy_never_there")
    assert "toy-model" in zoo_cli("list").out
    registry.entries.cache_clear()
    monkeypatch.setenv("ZOO_PLUGINS", "")
    ran = zoo_cli("list")
    assert "toy-model" not in ran.out
    assert "map-vessel" in ran.out
    assert "toy_package" not in sys.modules


def test_the_shell_completes_commands_and_options() -> None:
    def completed(words: str) -> list[str]:
        environment = {
            **os.environ, "_ZOO_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")),
        }  # fmt: skip
        code = "import sys; sys.argv[0] = 'zoo'; from zoo.cli import main; main()"
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        return done.stdout.split()

    assert completed("zoo pred") == ["predict"]
    assert "--batch-size" in completed("zoo predict --ba")
    assert set(completed("zoo cache ")) == {"list", "size", "rm"}
