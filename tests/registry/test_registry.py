from __future__ import annotations

import ast
import sys
from importlib.resources import files
from pathlib import Path
from typing import get_args

import pytest

from zoo import registry
from zoo.errors import MissingExtraError, PluginError
from zoo.plugin import Operator

CARD = """
from zoo.plugin import Input, Output, Paper, Plugin
plugin = Plugin(
    name="toy-model", title="A toy", summary="Does little.", paper=Paper("On Toys", ("Ann Author",), "ISIC"),
    task="classification", modality="dermoscopy", inputs=(Input("image", "image", "a picture", required=True),),
    outputs=(Output("probabilities", "of two classes"),), model="toy_package:Nothing", extras=("imaging",),
    operators=("icp",){more}
)
"""


def card(**fields: object) -> str:
    return CARD.replace("{more}", "".join(f", {name}={value!r}" for name, value in fields.items()))


def test_built_in_plugins_come_through_entry_points() -> None:
    entry = registry.find("map-vessel")
    assert entry.plugin is not None
    assert (entry.distribution, entry.plugin.task) == ("medimg-zoo", "segmentation")


@pytest.mark.parametrize("name", ["map_vessel", "Map-Vessel", "medimg-zoo:map-vessel", "medimg_zoo:map_vessel"])
def test_names_are_forgiving(name: str) -> None:
    assert registry.find(name).name == "map-vessel"


def test_other_peoples_plugin_is_found_by_the_same_road(install_plugin) -> None:
    install_plugin("toy-dist", card())
    entry = registry.find("toy-model")
    assert (entry.distribution, entry.version, entry.status) == ("toy-dist", "1.2", "ok")
    assert "toy-model" in registry.list_models()


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import a_module_that_is_not_there", "a_module_that_is_not_there"),
        ("raise SystemExit('stop everything')", "stop everything"),
        ("plugin = 'a string'", "not a zoo.Plugin"),
        ("1 / 0", "division by zero"),
        (card(contract=99), "version 99 of the plugin contract"),
        (card().replace('name="toy-model"', 'name="other-model"'), "calls itself other-model"),
        (card().replace('name="toy-model"', 'name="Toy Model"'), "not kebab-case"),
    ],
)
def test_a_broken_plugin_is_listed_with_its_error_and_breaks_nothing_else(install_plugin, source, reason) -> None:
    install_plugin("toy-dist", source)
    broken = next(entry for entry in registry.entries() if entry.name == "toy-model")
    assert broken.status == "broken"
    assert reason in (broken.error or "")
    assert registry.find("map-vessel").status == "ok"
    with pytest.raises(PluginError, match=r"toy-model of toy-dist is broken .*update or uninstall toy-dist"):
        registry.find("toy-model")


def test_two_distributions_with_one_name_neither_wins(install_plugin) -> None:
    install_plugin("toy-dist", card())
    install_plugin("rival-dist", card(), module="toy_rival")
    with pytest.raises(PluginError, match="claimed by rival-dist and toy-dist"):
        registry.find("toy-model")
    assert registry.find("rival-dist:toy-model").distribution == "rival-dist"


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(PluginError, match="did you mean map-vessel"):
        registry.find("map-vesel")
    with pytest.raises(PluginError, match="zoo list shows all models"):
        registry.find("zzzzzz")


def test_filters_select_by_task_modality_and_operator(install_plugin) -> None:
    install_plugin("toy-dist", card())
    assert "toy-model" in registry.list_models(operator="icp")
    assert "toy-model" not in registry.list_models(operator="cosine_filter")
    skin = registry.list_models(task="classification", modality="Dermoscopy")
    assert {"toy-model", "local-global-prototypes"} <= set(skin)
    assert "map-vessel" not in skin
    assert "map-vessel" in registry.list_models(modality="fundus")


@pytest.mark.parametrize(
    "entry", [e for e in registry.entries() if e.distribution == "medimg-zoo"], ids=lambda entry: entry.name
)
def test_every_operator_that_a_plugin_imports_stands_on_its_card(entry) -> None:
    package = Path(str(files(entry.plugin.model.partition(":")[0].rpartition(".")[0])))
    imported = {
        alias.name
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[:2] == ["zoo", "ops"]
        for alias in node.names
    }
    assert imported & set(get_args(Operator)) <= set(entry.plugin.operators)


def test_the_operators_of_a_card_are_those_of_zoo_ops() -> None:
    from zoo import ops

    others = {"status", "by_reference", "self_tests", "ways"}
    assert set(get_args(Operator)) == {name for name in ops.__all__ if name.islower()} - others


def test_both_users_of_the_nearest_neighbours_are_found_by_operator() -> None:
    assert "local-global-prototypes" in registry.list_models(operator="cosine_topk")
    assert "pointcloud-recon3d" in registry.list_models(operator="nearest_neighbors")


def test_an_import_string_that_leads_nowhere_is_named(install_plugin) -> None:
    install_plugin("toy-dist", card())
    entry = registry.find("toy-model")
    with pytest.raises(PluginError, match="model of toy-model points to toy_package:Nothing"):
        registry.resolve(entry, "model")
    with pytest.raises(PluginError, match="toy-model has no claim"):
        registry.resolve(entry, "claim")


def test_a_missing_library_is_named_with_the_install_command(install_plugin) -> None:
    install_plugin("toy-dist", card() + "\n").joinpath("toy_heavy.py").write_text("import not_installed_library")
    entry = registry.find("toy-model")
    object.__setattr__(entry.plugin, "model", "toy_heavy:Model")
    with pytest.raises(MissingExtraError, match=r"toy-model needs .*not_installed_library.*'toy-dist\[imaging\]'"):
        registry.resolve(entry, "model")


def test_reading_the_registry_imports_no_torch() -> None:
    import subprocess

    code = "import sys, zoo; zoo.list_models(); zoo.info('map-vessel'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
