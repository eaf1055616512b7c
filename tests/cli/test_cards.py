from __future__ import annotations

import json
import shlex
import subprocess
import sys

import pytest

import zoo
from zoo import __version__, cards, options


def test_list_shows_models_with_their_task(zoo_cli) -> None:
    ran = zoo_cli("list", "--wide")
    assert ran.code == 0
    row = next(line for line in ran.out.splitlines() if line.startswith("map-vessel"))
    assert "segmentation" in row
    assert "medimg-zoo" in row


def test_list_as_json_is_the_card(zoo_cli) -> None:
    (card,) = [card for card in json.loads(zoo_cli("list", "--json").out) if card["name"] == "map-vessel"]
    assert card["status"] == "ok"
    assert card["inputs"][0]["kind"] == "image"


@pytest.mark.parametrize("name", zoo.list_models())
def test_the_example_of_a_card_is_whole(name: str) -> None:
    words = shlex.split(cards.example(zoo.info(name)))
    assert words[:3] == ["zoo", "predict", name]
    given = [words[place + 1] for place, word in enumerate(words) if word == "--with"]
    assert "..." not in " ".join(words)
    assert options.parse(zoo.info(name), given).keys() >= {
        item.name for item in zoo.info(name).options if item.required
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.list_models())
def test_the_example_of_a_card_runs_as_printed(zoo_cli, tmp_path, monkeypatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert zoo_cli(*shlex.split(cards.example(zoo.info(name)))[1:]).code == 0
    assert list(tmp_path.glob("predictions/*.png"))


def test_list_filters(zoo_cli) -> None:
    assert "map-vessel" in zoo_cli("list", "--task", "segmentation", "--modality", "fundus").out
    assert "no model matches" in zoo_cli("list", "--task", "report", "--operator", "icp").out


def test_list_shows_a_broken_plugin_with_its_error(zoo_cli, install_plugin) -> None:
    install_plugin("toy-dist", "raise RuntimeError('no good')")
    ran = zoo_cli("list")
    assert ran.code == 0
    assert "toy-model" in ran.out
    assert "RuntimeError: no good" in ran.out
    assert "map-vessel" in ran.out


def test_info_shows_inputs_citation_and_a_call_that_works(zoo_cli) -> None:
    ran = zoo_cli("info", "map_vessel")
    assert ran.code == 0
    for part in (
        "zoo predict map-vessel sample:retina",
        "@inproceedings{hu2023map",
        "threshold",
        "not for clinical use",
    ):
        assert part in " ".join(ran.out.split())  # whatever line it's on


def test_info_shows_departures_from_the_paper_and_what_came_out_of_the_claim(zoo_cli) -> None:
    ran = zoo_cli("info", "pointcloud-recon3d")
    assert "Departures from the paper\n  All points of a layer are registered; band=auto is the paper" in ran.out
    assert "Effect: see the claim." in ran.out
    assert "Verdict of zoo reproduce pointcloud-recon3d over" in ran.out


def test_every_model_of_ours_says_where_it_departs_from_its_paper_and_why() -> None:
    from zoo import registry
    from zoo.extras import DISTRIBUTION

    for entry in registry.entries():
        if entry.distribution == DISTRIBUTION and entry.plugin:
            assert len(entry.plugin.departures) >= 3, entry.name
            for item in entry.plugin.departures:
                assert item.what.endswith(".") and item.why.endswith("."), (entry.name, item)  # noqa: PT018


def test_info_as_json(zoo_cli) -> None:
    card = json.loads(zoo_cli("info", "map-vessel", "--json").out)
    assert card["paper"]["workshop"]
    assert card["example"].startswith("zoo predict map-vessel")


def test_samples_lists_real_and_procedural_images(zoo_cli) -> None:
    names = {row["input"] for row in json.loads(zoo_cli("samples", "--json").out)}
    assert {"sample:retina", "sample:ihc", "phantom:fundus"} <= names


def test_unknown_names_commands_and_options_are_refused_in_one_sentence(zoo_cli) -> None:
    assert "did you mean map-vessel" in zoo_cli("info", "map-vessell").refused
    assert "no-such-command" in zoo_cli("no-such-command").refused
    assert "--no-such-option" in zoo_cli("list", "--no-such-option").refused


def test_debug_shows_the_traceback() -> None:
    done = subprocess.run([sys.executable, "-m", "zoo", "--debug", "info", "nope"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert "PluginError" in done.stderr
    assert done.stderr.splitlines()[-1] == "zoo: there is no model 'nope'; zoo list shows all models"


def test_version_and_module_call() -> None:
    done = subprocess.run([sys.executable, "-m", "zoo", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"zoo {__version__}"


@pytest.mark.parametrize("arguments", [["list"], ["--help"], ["info", "map-vessel"], ["samples"]])
def test_light_commands_import_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom zoo.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        "print('heavy:', sorted({'torch', 'PIL', 'skimage', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "heavy: []"


def test_a_closed_pipe_is_no_error() -> None:
    done = subprocess.run(f"{sys.executable} -m zoo list | true", shell=True, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
