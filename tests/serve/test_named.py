"""A model of two named images, over HTTP, through the page and with the client: all come to what the library says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import zoo
from zoo.client import Client
from zoo.serve import Settings, create_app

pytest.importorskip("fastapi")

NAME = "change-finder"


def found(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The boxes of a record, which must name both images."""
    assert set(record["inputs"]) == {"current", "prior"}
    assert record["boxes"]
    return record["boxes"]


@pytest.fixture
def here(change_finder: Path) -> list[dict[str, Any]]:
    """The boxes that the library finds."""
    today, before = (str(change_finder / f"{name}.png") for name in ("today", "before"))
    (prediction,) = zoo.predict(NAME, today, prior=before, device="cpu")
    return found(json.loads(json.dumps(prediction.to_dict())))


def test_both_are_files_of_a_form(serving: Callable[..., Any], here: Any, change_finder: Path) -> None:
    today, before = ((change_finder / f"{name}.png").read_bytes() for name in ("today", "before"))
    with serving(models=(NAME,)) as client:
        form = client.get("/openapi.json").json()["paths"][f"/models/{NAME}/predict"]["post"]["requestBody"]
        schema = form["content"]["multipart/form-data"]["schema"]
        assert set(schema["required"]) == {"current", "prior"}
        assert schema["properties"]["prior"]["format"] == "binary"
        address = f"/models/{NAME}/predict"
        answer = client.post(address, files={"current": ("t.png", today), "prior": ("b.png", before)})
        assert answer.status_code == 200, answer.text
        (record,) = answer.json()["results"]
        assert found(record) == here
        assert [record["inputs"][name]["source"] for name in ("current", "prior")] == ["t.png", "b.png"]
        lacking = client.post(address, files={"current": ("t.png", today)})
        assert lacking.status_code == 422
        assert "needs prior" in lacking.json()["detail"]
        named = client.post(address, files={"current": ("t.png", today)}, data={"prior": "/etc/passwd"})
        assert named.status_code == 422


def test_a_client_sends_both(listening: Callable[..., Any], here: Any, change_finder: Path) -> None:
    with listening(models=(NAME,)) as url:
        (result,) = Client(url).predict(NAME, change_finder / "today.png", prior=change_finder / "before.png")
    assert found(result.record) == here


def test_the_page_has_a_place_for_each(here: Any, change_finder: Path) -> None:
    gr = pytest.importorskip("gradio")
    from zoo.serve.page.blocks import Page

    house = create_app(Settings(models=(NAME,), page=False, device="cpu")).state.house
    page = Page(house)
    card = page.cards[NAME]
    with gr.Blocks() as blocks:
        page._form(NAME, [gr.HTML(), gr.Image(), gr.Dataframe(), gr.Image(), gr.File(), gr.JSON()])
    labels = [str(one.label) for one in blocks.blocks.values() if isinstance(one, gr.File)]
    assert any(label.startswith("Your current: ") for label in labels)
    assert any(label.startswith("prior (needed): ") for label in labels)

    page.uploads.mkdir(parents=True)
    today, before = (str(shutil.copy(change_finder / f"{name}.png", page.uploads)) for name in ("today", "before"))
    prior, threshold = card.options
    *_, last = page._predict(card, today, "", [(prior, before), (threshold, 0.5)])
    assert found(last[-1]) == here
    *_, refused = page._predict(card, today, "", [(prior, None), (threshold, 0.5)])
    assert "needs prior" in refused[1]
    assert refused[-1] is None
