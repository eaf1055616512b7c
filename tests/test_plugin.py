from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace

import pytest

from zoo import registry
from zoo.plugin import Input, Paper, Plugin


@pytest.fixture
def card() -> Plugin:
    return registry.info("map-vessel")


def test_a_card_is_frozen_and_plain_data(card: Plugin) -> None:
    with pytest.raises(FrozenInstanceError):
        card.name = "other"  # type: ignore[misc]
    assert json.loads(json.dumps(card.to_dict()))["name"] == "map-vessel"


@pytest.mark.parametrize("name", ["Map", "map_vessel", "-map", "map-", "map--vessel", "", "4d"])
def test_names_are_kebab_case(card: Plugin, name: str) -> None:
    with pytest.raises(ValueError, match="kebab-case"):
        replace(card, name=name)


def test_malformed_cards_are_refused(card: Plugin) -> None:
    with pytest.raises(ValueError, match="declares no input"):
        replace(card, inputs=())
    with pytest.raises(ValueError, match="twice"):
        replace(card, inputs=(Input("a", "image", ""), Input("a", "text", "")))
    with pytest.raises(ValueError, match="without choices"):
        replace(card, inputs=(Input("a", "choice", ""),))
    with pytest.raises(ValueError, match=r"package\.module:name"):
        replace(card, model="not an import string")


def test_bibtex_names_all_authors_and_the_title() -> None:
    entry = Paper("MAP: a title", ("Dewei Hu", "Hao Li"), "MICCAI 2023 Workshops", doi="10.1/x").bibtex()
    assert entry.startswith("@inproceedings{hu2023map,")
    assert "Dewei Hu and Hao Li" in entry
    assert "{{MAP: a title}}" in entry
    assert "10.1/x" in entry
    assert entry.endswith("}")
