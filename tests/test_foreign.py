"""Other people's distributions at their worst: no command falls over, and each says whose fault it is."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from zoo import foreign, registry
from zoo.errors import PluginError

CARD = """
from zoo.plugin import Input, Output, Paper, Plugin
plugin = Plugin(
    name="toy-model", title="A toy", summary={summary!r}, paper=Paper("On Toys", ("Ann Author",), "ISIC"),
    task="classification", modality="dermoscopy", inputs=(Input("image", "image", "a picture", required=True),),
    outputs=(Output("probabilities", "of two classes"),), model="toy_package:Nothing"{more}
)
"""
ESCAPES = "red \x1b[31m bell \x07 title \x1b]0;mine\x07 csi \x9b2J back \u202e [bold]markup[/bold]"


def card(summary: str = "Does little.", **fields: object) -> str:
    return CARD.format(summary=summary, more="".join(f", {name}={value!r}" for name, value in fields.items()))


def wrong(**fields: object) -> str:
    """A card whose fields are changed behind the back of whatever checks its types."""
    return card() + "".join(f"object.__setattr__(plugin, {n!r}, {value!r})\n" for n, value in fields.items())


def entry(name: str = "toy-model") -> registry.Entry:
    return next(entry for entry in registry.entries() if entry.name == name)


def broken_metadata(site: Path, folder: str, metadata: str | None, points: str) -> None:
    info = site / folder
    info.mkdir()
    if metadata is not None:
        (info / "METADATA").write_text(metadata)
    (info / "entry_points.txt").write_text(points)
    registry.entries.cache_clear()


@pytest.mark.parametrize("metadata", [None, "", "Metadata-Version: 2.1\n", "Name: \nVersion: \n", "\x00\xff"])
def test_metadata_without_name_or_version_stops_nothing(zoo_cli, install_plugin, metadata) -> None:
    site = install_plugin("toy-dist", card())
    broken_metadata(site, "nameless-1.0.dist-info", metadata, "[zoo.models]\nnameless = toy_package:plugin\n")
    found = entry("nameless")
    assert found.distribution in ("nameless", "unknown")
    assert "calls itself toy-model" in (found.error or "")
    ran = zoo_cli("list", "--wide")
    assert ran.code == 0
    assert "map-vessel" in ran.out
    assert registry.find("toy-model").status == "ok"


def test_entry_points_that_are_none_spare_the_others(zoo_cli, install_plugin) -> None:
    site = install_plugin("toy-dist", card())
    broken_metadata(site, "torn-1.0.dist-info", "Name: torn\nVersion: 1\n", "[zoo.models]\nno equals sign\n")
    assert registry.find("map-vessel").distribution == "medimg-zoo"
    assert registry.find("toy-model").version == "1.2"
    assert "entry_points.txt is malformed" in (entry("torn").error or "")
    assert zoo_cli("list").code == 0


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("class Stop(BaseException): pass\nraise Stop('now')", "raises Stop: now"),
        ("raise KeyboardInterrupt", "raises KeyboardInterrupt"),
        ("raise GeneratorExit('x')", "raises GeneratorExit: x"),
        ("import sys; sys.exit(3)", "raises SystemExit: 3"),
        ("def f(): f()\nf()", "RecursionError"),
        ("raise Exception('\\x1b[2J' + 'long ' * 10000)", "?[2Jlong long"),
        ("class E(Exception):\n    def __str__(self): raise ValueError\nraise E", "E: E"),
        ("plugin = (", "SyntaxError"),
        (card("x" * 10_000_000), "its card holds 10,000,"),
        (card(labels=("a" * 70_000,)), "its card holds 70,"),
        (wrong(labels=(1, 2)), "its card is malformed: labels[0] must be text"),
        (wrong(licence_notes=None), "its card is malformed: licence_notes must be text"),
        (wrong(extras="imaging"), "its card is malformed: extras must be a list"),
    ],
)
def test_a_plugin_may_fail_in_any_way_and_is_listed(zoo_cli, install_plugin, source: str, reason: str) -> None:
    install_plugin("toy-dist", source)
    assert entry().status == "broken"
    assert reason in (entry().error or "")
    assert len(entry().error or "") < 400
    ran = zoo_cli("list", "--wide")
    assert ran.code == 0
    assert "map-vessel" in ran.out
    assert len(ran.out) < 20_000
    assert "\x1b" not in ran.out


def test_a_loop_at_import_is_left_behind(zoo_cli, install_plugin, monkeypatch) -> None:
    monkeypatch.setattr(foreign, "IMPORT_SECONDS", 0.3)
    install_plugin("toy-dist", "while True: pass")
    start = time.perf_counter()
    ran = zoo_cli("list", "--wide")
    assert time.perf_counter() - start < 5
    assert ran.code == 0
    assert "importing toy_package:plugin took more than 0.3 seconds" in ran.out
    time.sleep(0.5)
    assert not [one for one in threading.enumerate() if one.name == "import of toy_package:plugin"]  # it was stopped


@pytest.mark.parametrize("daemon", [None, False])
def test_threads_at_import_do_not_keep_a_command(install_plugin, daemon: bool | None) -> None:
    start = f"threading.Thread(target=time.sleep, args=(60,), name='miner', daemon={daemon}).start()"
    site = install_plugin("toy-dist", f"import threading, time\n{start}\n{card()}")
    info = (["info", "toy-model"], 0 if daemon is None else 2)  # by default, threads end with the one that imports
    for command, code in (["list", "--wide"], 0), (["info", "map-vessel"], 0), info:
        done = subprocess.run(
            [sys.executable, "-m", "zoo", *command], env={**os.environ, "PYTHONPATH": str(site)},
            capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        if daemon is False and command != ["info", "map-vessel"]:
            assert "starts a thread (miner) that would not let zoo end" in done.stdout + done.stderr


def test_what_a_plugin_prints_at_import_is_no_output_of_ours(zoo_cli, install_plugin) -> None:
    import json

    install_plugin("toy-dist", "print('hello')\n" + card())
    ran = zoo_cli("list", "--json")
    assert json.loads(ran.out)
    assert "hello" in ran.err


def test_text_of_a_card_steers_no_terminal(zoo_cli, install_plugin) -> None:
    install_plugin("toy-dist", card(ESCAPES, licence_notes=ESCAPES))
    for arguments in (["list", "--wide"], ["info", "toy-model"], ["list", "--json"], ["info", "toy-model", "--json"]):
        ran = zoo_cli(*arguments)
        assert ran.code == 0
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(ran.out)
        assert "[bold]markup[/bold]" in ran.out


def test_a_long_summary_is_cut_in_the_table(zoo_cli, install_plugin) -> None:
    install_plugin("toy-dist", card("word " * 10_000))
    assert entry().status == "ok"
    assert len(zoo_cli("list").out) < 20_000


@pytest.mark.parametrize(("stated", "there"), [("", False), ("other", False), ("Toy_Dist, other", True), (None, True)])
def test_other_peoples_plugins_can_be_left_out(install_plugin, monkeypatch, stated: str | None, there: bool) -> None:
    if stated is not None:
        monkeypatch.setenv("ZOO_PLUGINS", stated)
    install_plugin("toy-dist", card())
    assert ("toy-model" in registry.list_models()) == there
    assert "map-vessel" in registry.list_models()


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise ValueError('no GPU today')", r"the model of toy-model can't be imported \(ValueError: no GPU today\)"),
        ("import", r"can't be imported \(SyntaxError: "),
        ("from os import no_such_name", r"can't be imported \(ImportError: cannot import name"),
        ("import sys; sys.exit(1)", r"can't be imported \(SystemExit: 1\)"),
        ("class Stop(BaseException): pass\nraise Stop('now')", r"can't be imported \(Stop: now\)"),
        ("import toy_model_code.inner", r"can't be imported \(ModuleNotFoundError: No module named 'toy_model_code.in"),
        ("Other = 1", "points to toy_model_code:Model, which does not exist"),
        ("None.attribute", r"can't be imported \(AttributeError: 'NoneType' object has no attribute 'attribute'\)"),
    ],
)
def test_a_model_that_fails_says_why(zoo_cli, install_plugin, source: str, reason: str) -> None:
    site = install_plugin("toy-dist", card().replace("toy_package:Nothing", "toy_model_code:Model"))
    (site / "toy_model_code.py").write_text(source)
    found = registry.find("toy-model")
    with pytest.raises(PluginError, match=reason):
        registry.resolve(found, "model")
    sys.modules.pop("toy_model_code", None)
    assert "toy-model" in zoo_cli("predict", "toy-model", "sample:retina").refused
