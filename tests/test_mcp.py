"""``zoo mcp`` over standard input and output, by the client of the ``mcp`` package."""

from __future__ import annotations

import base64
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

import zoo
from zoo import registry
from zoo.extras import missing

if missing("mcp"):
    pytest.skip("needs the extra mcp", allow_module_level=True)

import anyio
from mcp import Client, StdioServerParameters

PNG = b"\x89PNG\r\n\x1a\n"


def talk(out: Path, *calls: tuple[str, dict[str, Any]], plugins: str = "") -> tuple[list[str], list[Any]]:
    """The names of the tools, and the answer to each call, from one server that was started for it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ZOO_PLUGINS": plugins}
    command = StdioServerParameters(
        command=sys.executable, args=["-m", "zoo", "mcp", "--out", str(out), "--device", "cpu"], env=environment
    )

    async def session() -> tuple[list[str], list[Any]]:
        async with Client(command) as client:
            tools = await client.list_tools()
            return [tool.name for tool in tools.tools], [await client.call_tool(name, given) for name, given in calls]

    return anyio.run(session)


def test_an_agent_lists_reads_and_predicts(tmp_path: Path) -> None:
    out = tmp_path / "out"
    once = ("predict", {"model": "map-vessel", "inputs": ["phantom:fundus?seed=3"], "options": {"threshold": 0.4}})
    tools, answers = talk(
        out, ("list", {"task": "segmentation"}), ("info", {"model": "map_vessel"}), ("samples", {}), once, once
    )
    assert sorted(tools) == ["info", "list", "predict", "samples"]
    listed, info, samples, predicted, again = answers
    assert not any(answer.is_error for answer in answers)
    assert {one["name"] for one in listed.structured_content["result"]} == set(
        registry.list_models(task="segmentation")
    )
    assert info.structured_content["name"] == "map-vessel"
    assert info.structured_content["example"].startswith("zoo predict map-vessel")
    assert {"sample:retina", "phantom:fundus"} <= {one["input"] for one in samples.structured_content["result"]}

    text, picture = predicted.content
    record = json.loads(text.text)
    assert record["options"]["threshold"] == 0.4
    assert "not for clinical use" in record["disclaimer"]
    assert {Path(name).suffix for name in record["files"]} == {".png", ".json"}
    assert all(Path(name).is_file() and Path(name).parent == out for name in record["files"])
    assert picture.mime_type == "image/png"
    assert base64.b64decode(picture.data).startswith(PNG)
    assert set(json.loads(again.content[0].text)["files"]).isdisjoint(record["files"])  # nothing is overwritten


def test_what_can_not_be_done_is_told_in_one_sentence_and_the_server_goes_on(tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    phantom = "phantom:fundus?seed=1"
    _, answers = talk(
        tmp_path / "out",
        ("info", {"model": "map-vessell"}),
        ("predict", {"model": "nope", "inputs": [phantom]}),
        ("predict", {"model": "map-vessel", "inputs": [phantom], "options": {"threshold": 7}}),
        ("predict", {"model": "map-vessel", "inputs": [str(broken)]}),
        ("predict", {"model": "map-vessel", "inputs": []}),
        ("predict", {"model": "map-vessel", "inputs": [f"phantom:fundus?seed={i}" for i in range(17)]}),
        ("predict", {"model": "map-vessel", "inputs": [str(broken), phantom]}),
    )
    *refused, mixed = answers
    said = ["did you mean map-vessel", "there is no model 'nope'", "threshold", "broken.png"]
    said += ["no input was given", "give 1 to 16"]
    for answer, words in zip(refused, said, strict=True):
        assert answer.is_error
        [text] = answer.content
        assert words in text.text
        assert "Traceback" not in text.text
        assert "\n" not in text.text
    assert not mixed.is_error
    assert "broken.png" in json.loads(mixed.content[0].text)["error"]
    assert json.loads(mixed.content[1].text)["kind"] == "segmentation"


def test_a_model_of_two_named_images_gets_both(change_finder: Path, tmp_path: Path) -> None:
    today, before = (str(change_finder / f"{name}.png") for name in ("today", "before"))
    (here,) = zoo.predict("change-finder", today, prior=before, device="cpu")
    calls = [
        {"inputs": [today], "options": {"prior": before}},
        {"inputs": [str(change_finder / "cases.csv")]},
        {"inputs": [today]},
    ]
    asked = [("predict", {"model": "change-finder", **call}) for call in calls]
    _, (by_name, by_table, lacking) = talk(tmp_path / "out", *asked, plugins="change-finder")
    for answer in (by_name, by_table):
        assert not answer.is_error, answer.content
        record = json.loads(answer.content[0].text)
        assert record["boxes"] == json.loads(json.dumps(here.to_dict()["boxes"]))
        assert {name: one["source"] for name, one in record["inputs"].items()} == {"current": today, "prior": before}
    assert lacking.is_error
    assert "change-finder needs prior" in lacking.content[0].text


def test_without_the_package_it_names_the_extra(zoo_cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp.server.mcpserver", None)
    refused = zoo_cli("mcp").refused
    assert refused == (
        "zoo: zoo mcp needs the library mcp, which is not installed; install it with: pip install 'medimg-zoo[mcp]'"
    )
