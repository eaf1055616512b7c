"""The contract page: every name on it exists, and none that a version promised has left it."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import zoo
from zoo.plugin import CONTRACT_VERSION

PAGE = Path(__file__).resolve().parents[2] / "docs" / "contract.md"
PROMISED = Path(__file__).with_name(f"contract-{CONTRACT_VERSION}.txt")
ROW = re.compile(r"\| `(zoo[\w.]*)` \| (.*)\|")

if not PAGE.is_file():
    pytest.skip("needs the source checkout", allow_module_level=True)


def names_on_the_page() -> list[str]:
    names = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if match := ROW.fullmatch(line):
            names += [match[1], *(f"{match[1]}.{member}" for member in re.findall(r"`(\w+)`", match[2]))]
    return names


def resolve(name: str) -> Any:
    """The object behind a dotted name: modules as far as they go, attributes after that."""
    parts = name.split(".")
    value, rest = import_module(parts[0]), parts[1:]
    for part in rest:
        if not hasattr(value, part) and inspect.ismodule(value):
            import_module(f"{value.__name__}.{part}")
        value = getattr(value, part)
    return value


def has(owner: Any, member: str) -> bool:
    """Whether a class has a member: an attribute, a field, or one that ``__init__`` sets."""
    if hasattr(owner, member) or any(member in getattr(base, "__annotations__", {}) for base in owner.__mro__):
        return True
    if dataclasses.is_dataclass(owner):
        return member in {field.name for field in dataclasses.fields(owner)}
    return f"self.{member} = " in inspect.getsource(owner) or f"self.{member}: " in inspect.getsource(owner)


@pytest.mark.parametrize("name", names_on_the_page())
def test_every_name_on_the_page_exists(name):
    owner, _, member = name.rpartition(".")
    if f"`{owner}`" in PAGE.read_text(encoding="utf-8") and owner.rpartition(".")[2][:1].isupper():
        assert has(resolve(owner), member), f"{owner} lost {member}, which {PAGE.name} promises"
    else:
        resolve(name)


def test_no_name_that_this_version_promised_has_left_the_page():
    promised = PROMISED.read_text(encoding="utf-8").split()
    assert len(promised) > 150
    assert sorted(set(promised) - set(names_on_the_page())) == []


def test_the_page_tells_the_version_of_the_contract():
    assert f"**Version {CONTRACT_VERSION}.**" in PAGE.read_text(encoding="utf-8")


def test_all_that_zoo_exports_is_on_the_page():
    exported = {f"zoo.{name}" for name in zoo.__all__ if not name.startswith("__")}
    assert sorted(exported - set(names_on_the_page())) == []


CARD = """
from zoo import Input, Output, Paper, Plugin
plugin = Plugin(
    name="toy-model", title="A toy", summary="Does nothing.",
    paper=Paper(title="Toys", authors=("Ada Lovelace",), workshop="Toy Workshop"),
    task="classification", modality="any", inputs=(Input("image", "image", "any", required=True),),
    outputs=(Output("label", "a label"),), labels=("a", "b"), model="toy_heavy:Toy", contract={contract},
)
"""


@pytest.mark.parametrize(("contract", "to_update"), [(CONTRACT_VERSION + 1, "medimg-zoo"), (0, "toy-zoo")])
def test_a_plugin_for_another_version_is_shown_as_such_and_not_loaded(install_plugin, zoo_cli, contract, to_update):
    site = install_plugin("toy-zoo", CARD.format(contract=contract))
    (site / "toy_heavy.py").write_text("class Toy: ...\n")

    listed = {item["name"]: item for item in json.loads(zoo_cli("list", "--json").out)}
    assert listed["toy-model"]["status"] == "broken"
    reason = f"written for version {contract} of the plugin contract, this zoo has {CONTRACT_VERSION}"
    assert listed["toy-model"]["error"] == f"{reason}; update {to_update}"
    assert "map-vessel" in listed

    for command in (["predict", "toy-model", "sample:retina"], ["info", "toy-model"], ["check", "toy-model"]):
        assert reason in zoo_cli(*command).refused
    assert "toy-model" not in zoo.list_models()
    assert "toy_heavy" not in sys.modules
