"""The picture of the input, on which boxes and points are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from zoo.plugin import Input, Plugin

_HERE = Path(__file__).parent
DRAWN = ("box", "point", "click")
"""Kinds of options that are drawn."""

_HTML = """<div class="bar" role="toolbar" aria-label="What the mouse draws"></div>
<div class="stage"><img class="picture" alt="The input"><img class="overlay" alt="What was found so far" hidden>
<canvas role="application" aria-label="Drawing on the input: arrow keys move, Enter marks, Backspace undoes"></canvas>
</div><p class="said" role="status"></p>"""


def canvas(tools: Sequence[dict[str, Any]] = (), **more: Any) -> gr.HTML:
    """A picture and the marks on it: ``{picture, overlay, width, height, serial, marks: [{option, value}]}``."""
    # No subclass: gradio writes a file of types beside the module of each.
    return gr.HTML(
        value={}, html_template=_HTML, css_template=(_HERE / "canvas.css").read_text(encoding="utf-8"),
        js_on_load=(_HERE / "canvas.js").read_text(encoding="utf-8"), tools=list(tools), **more,
    )  # fmt: skip


def tools_of(card: Plugin) -> list[dict[str, Any]]:
    """What can be drawn for a model: its options of these kinds; a click is inside or outside of the object."""
    return [tool for item in card.options if item.kind in DRAWN for tool in _tools(item)]


def _tools(item: Input) -> list[dict[str, Any]]:
    tool = {"option": item.name, "kind": item.kind, "many": item.many, "mark": []}
    name = item.name.replace("_", " ")
    if item.kind == "click":
        return [{**tool, "label": f"{name} {where}", "mark": [sign]} for where, sign in (("inside", 1), ("outside", 0))]
    return [{**tool, "label": name}]


def text_of(marks: Any, option: str) -> str:
    """The marks of an option as its control shows them: ``40,30,120,90; 5,5,20,20``."""
    listed = marks if isinstance(marks, list) else []
    found: list[Any] = [one.get("value") for one in listed if isinstance(one, dict) and one.get("option") == option]
    return "; ".join(",".join(f"{number:g}" for number in value) for value in found if _numbers(value))


def marks_of(texts: dict[str, str]) -> list[dict[str, Any]]:
    """The marks that texts stand for; what is no list of numbers is left to the check of the options."""
    marks = []
    for option, text in texts.items():
        for part in (text or "").split(";"):
            try:
                value = [float(number) for number in part.split(",")]
            except ValueError:
                continue
            marks.append({"option": option, "value": value})
    return marks


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, int | float) and not isinstance(one, bool) for one in value)
