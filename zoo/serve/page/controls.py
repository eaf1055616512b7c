"""A control for every option of a card, and from what it holds to the fields of a request."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gradio as gr

from zoo.cards import input_row
from zoo.errors import OptionError
from zoo.plugin import Input
from zoo.serve.page.canvas import DRAWN
from zoo.serve.uploads import PATHS, Intake

UNSET = "as the model decides"


def control(item: Input) -> gr.components.Component:
    """The control of an option, labelled with its name and what the card says about it."""
    about = {
        "label": item.name.replace("_", " ") + (" (needed)" if item.required else ""),
        "key": item.name,
        "interactive": True,
    }
    told = {**about, "info": _told(item)}
    if item.kind in PATHS:
        several = item.kind in ("images", "folder") or item.many
        return gr.File(file_count="multiple" if several else "single", height=165, **_file_label(item, about))
    if item.kind == "flag" and item.default is not None:
        return gr.Checkbox(bool(item.default), **told)
    if item.kind == "flag":
        return gr.Radio([UNSET, "true", "false"], value=UNSET, **told)
    if item.kind == "choice" and item.many:
        return gr.Dropdown(list(item.choices), value=[], multiselect=True, **told)
    if item.kind == "choice":
        choices = list(item.choices) if item.default is not None else [UNSET, *item.choices]
        return gr.Dropdown(choices, value=item.default if item.default is not None else UNSET, **told)
    if item.kind in ("number", "integer") and not item.many:
        # Bounds are the check's, which says what is wrong in a sentence; a control would change the value in silence.
        step = 0.05 if item.kind == "number" and (item.maximum or 2) <= 1 else 1
        return gr.Number(item.default, precision=0 if item.kind == "integer" else None, step=step, **told)
    default = "" if item.default is None else str(item.default)
    return gr.Textbox(default, lines=1, **told)


def _told(item: Input) -> str:
    _, kind, default, help = input_row(item)
    if item.kind in DRAWN:
        form = {"box": "x0,y0,x1,y1", "point": "x,y", "click": "x,y,1 inside or x,y,0 outside"}[item.kind]
        return f"{help}; draw it on the picture or write {form}{', several with ; between' if item.many else ''}"
    more = "; several with commas" if item.many and item.kind != "choice" else ""
    return f"{help} ({kind}; {default}){more}"


def _file_label(item: Input, about: dict[str, Any]) -> dict[str, Any]:
    return {**about, "label": f"{about['label']}: {item.help}"}


def put(intake: Intake, item: Input, value: Any, uploads: Path) -> None:
    """Add what a control holds to a request, by the road that a form takes. Raises as :class:`Intake` does.

    ``uploads``: where files of visitors lie; none from elsewhere is taken.
    """
    if value is None or value == "" or value == [] or value == UNSET:
        return
    if item.kind in PATHS:
        for path in value if isinstance(value, list) else [value]:
            if not Path(path).resolve().is_relative_to(uploads.resolve()):
                raise OptionError(f"{item.name} must be uploaded as a file")
            with open(path, "rb") as file:
                intake.file(item.name, Path(path).name, file)
        return
    for text in _texts(item, value):
        intake.text(item.name, text)


def _texts(item: Input, value: Any) -> Iterable[str]:
    if isinstance(value, bool):
        return [str(value).lower()]
    if isinstance(value, list):
        return map(str, value)
    if item.kind in DRAWN:
        return [part.strip() for part in str(value).split(";") if part.strip()]
    if item.kind == "integer" and isinstance(value, float) and value.is_integer():
        return [str(int(value))]
    return [str(value)]
