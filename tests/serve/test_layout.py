"""How the page is made from cards, without a browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.serve.toy import png
from zoo import registry
from zoo.errors import OptionError
from zoo.plugin import Input

gr = pytest.importorskip("gradio")

from zoo.serve.page import words  # noqa: E402
from zoo.serve.page.blocks import Page  # noqa: E402
from zoo.serve.page.canvas import marks_of, text_of, tools_of  # noqa: E402
from zoo.serve.page.controls import control, put  # noqa: E402
from zoo.serve.settings import Settings  # noqa: E402
from zoo.serve.uploads import Budget, Intake  # noqa: E402


@pytest.fixture
def page(toy: None, tmp_path: Path) -> Page:
    """Of all installed models, somebody else's among them."""
    house = SimpleNamespace(
        entries=registry.entries, settings=Settings(), temporary=SimpleNamespace(folder=tmp_path), entry=registry.find
    )
    return Page(house)


def test_every_installed_model_has_its_page(page: Page) -> None:
    page.blocks()
    assert {"toy-model", "map-vessel", "meldd", "pointcloud-recon3d"} <= set(page.cards)
    for card in page.cards.values():
        with gr.Blocks() as blocks:
            page._form(card.name, [gr.HTML(), gr.Image(), gr.Dataframe(), gr.Image(), gr.File(), gr.JSON()])
        labels = {getattr(one, "label", None) for one in blocks.blocks.values()}
        for item in card.options:
            name = item.name.replace("_", " ") + (" (needed)" if item.required else "")
            assert any(str(label).startswith(name) for label in labels), (card.name, item.name)
        about = "\n".join(page._about(card.name))
        assert "@inproceedings{" in about
        assert "### The weights" in about
        assert "### The paper's claim" in about


def test_models_are_narrowed_by_task_and_modality(page: Page) -> None:
    assert {name for _, name in page._names("reconstruction", "")} == {"fedautomri", "pointcloud-recon3d"}
    assert {name for _, name in page._names("segmentation", " ultrasound ")} == {"cemb-sam"}
    assert page._names("report", "nothing") == []
    assert page._about(None)[0].startswith("No model matches")


def test_weights_are_described_plainly() -> None:
    card = registry.info("map-vessel")
    assert "only ever seen images that a program draws" in words.weights(card, None)
    assert "Whoever runs this server chose these weights: `runs/mine`" in words.weights(card, "runs/mine")


VALUES: list[tuple[Input, Any, list[tuple[str, str]]]] = [
    (Input("a", "number", "h", default=0.5), 0.25, [("a", "0.25")]),
    (Input("a", "integer", "h"), 3.0, [("a", "3")]),
    (Input("a", "integer", "h"), None, []),
    (Input("a", "flag", "h", default=True), False, [("a", "false")]),
    (Input("a", "flag", "h"), "as the model decides", []),
    (Input("a", "choice", "h", choices=("x", "y")), "y", [("a", "y")]),
    (Input("a", "choice", "h", choices=("x", "y"), many=True), ["x", "y"], [("a", "x"), ("a", "y")]),
    (Input("a", "box", "h", many=True), "1,2,3,4; 5,6,7,8;", [("a", "1,2,3,4"), ("a", "5,6,7,8")]),
    (Input("a", "text", "h"), "", []),
]


@pytest.mark.parametrize(("item", "value", "fields"), VALUES)
def test_a_control_becomes_the_fields_of_a_request(item: Input, value: Any, fields: Any, tmp_path: Path) -> None:
    made = control(item)
    assert made.label == "a"
    assert made.interactive
    intake = Intake(registry.info("map-vessel"), tmp_path, Budget(1, 1))
    put(intake, item, value, tmp_path)
    assert intake.texts == fields


def test_no_file_but_a_visitors_is_taken(tmp_path: Path) -> None:
    (tmp_path / "page").mkdir()
    (tmp_path / "request").mkdir()
    (tmp_path / "page" / "eye.png").write_bytes(png())
    (tmp_path / "secret.png").write_bytes(png())
    (tmp_path / "page" / "link.png").symlink_to(tmp_path / "secret.png")
    intake = Intake(registry.info("map-vessel"), tmp_path / "request", Budget(1 << 20, 10))
    for path in ("secret.png", "page/../secret.png", "page/link.png"):
        with pytest.raises(OptionError, match="must be uploaded as a file"):
            put(intake, intake.plugin.primary_input, str(tmp_path / path), tmp_path / "page")
    put(intake, intake.plugin.primary_input, [str(tmp_path / "page" / "eye.png")], tmp_path / "page")
    assert [Path(one).name for one in intake.inputs] == ["eye.png"]


def test_marks_are_texts_and_back() -> None:
    marks = [{"option": "box", "value": [1, 2.5, 3, 4]}, {"option": "point", "value": [7, 8]}]
    assert text_of(marks, "box") == "1,2.5,3,4"
    assert marks_of({"box": "1,2.5,3,4", "point": "7,8"}) == marks
    for nonsense in (None, "x", [None], [{"option": "box"}], [{"option": "box", "value": ["1;rm", True]}], {}):
        assert text_of(nonsense, "box") == ""
    assert marks_of({"box": "from here to there"}) == []
    tools = tools_of(registry.info("sam-histo-interactive"))
    assert [(tool["label"], tool["mark"]) for tool in tools] == [("click inside", [1]), ("click outside", [0])]


def test_words_from_outside_are_no_markup() -> None:
    told = words.told([{"source": "<img src=x onerror=alert(1)>", "summary": "<b>", "notes": ["<script>"]}])
    assert "<img" not in told
    assert "<script>" not in told
    assert "&lt;script&gt;" in words.refusal("<script>")


def test_pictures_are_shown_to_who_knows_their_address(serving: Callable[..., Any]) -> None:
    with serving(page=True) as client:
        assert client.get("/", follow_redirects=False).headers["location"] == "/page"
        assert client.get("/pictures/guess").status_code == 404
        page = client.get("/page/")
        assert page.status_code == 200
        assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
        outside = client.get("/page/gradio_api/file=/etc/passwd")
        assert outside.status_code in (403, 404)
    with serving(page=True, token="correct-horse-battery") as client:
        assert client.get("/page/", follow_redirects=False).status_code == 401
        assert client.get("/pictures/guess").status_code == 401


def test_without_gradio_there_is_the_api_alone(serving: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo import extras
    from zoo.errors import MissingExtraError
    from zoo.serve import create_app

    missing = {"gradio"}
    monkeypatch.setattr(extras, "libraries", lambda _=None: {"serve": ["fastapi"], "ui": ["gradio"]})
    monkeypatch.setattr(extras, "_installed", lambda name: name not in missing)
    with serving(page=True) as client:
        assert client.get("/", follow_redirects=False).headers["location"] == "/docs"
        assert client.get("/page/").status_code == 404
    missing.add("fastapi")
    with pytest.raises(MissingExtraError, match=r"zoo serve needs the library fastapi, .*medimg-zoo\[serve\]"):
        create_app(Settings())
