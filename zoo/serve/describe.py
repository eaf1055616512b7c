"""The card of a model as others read it: in lists, in the documentation of the API, on the door."""

from __future__ import annotations

import html
from typing import Any

from zoo import registry
from zoo.cards import input_row
from zoo.plugin import Input, Plugin
from zoo.serve.uploads import PATHS

PREDICT = (
    "Send the input as a file, or as the text `sample:NAME` or `phantom:NAME?seed=N`; a zip stands for the folder in "
    "it, such as a DICOM series. `format`: `json` for records, `figure`, `mask` or another file of the model, or "
    "`zip` for all files; `nifti`, `png`, `dicom-seg` or `dicom-sr` for mask or report in that form. `form`: that of "
    "those within a zip; by default the input's own, for DICOM an object that refers to it."
)
START = "Answers at once with the job's address: its state is there, and afterwards what came of it."

_ERROR = {
    "description": "",
    "content": {
        "application/json": {
            "schema": {"type": "object", "properties": {"error": {"type": "string"}, "detail": {"type": "string"}}}
        }
    },
}
_WORDS = {
    400: "No form, or one that can't be read", 401: "A token is needed", 413: "Too large", 422: "The sentence that the "
    "command line prints", 503: "Too many are waiting; Retry-After says when to come again", 504: "It took too long",
}  # fmt: skip
RESPONSES: dict[int | str, dict[str, Any]] = {code: {**_ERROR, "description": text} for code, text in _WORDS.items()}


def listed(entry: registry.Entry) -> dict[str, Any]:
    """A model as ``zoo list --json`` has it."""
    about = {"distribution": entry.distribution, "version": entry.version, "status": entry.status}
    if entry.plugin is None:
        return {"name": entry.name, **about, "error": entry.error}
    return {**entry.plugin.to_dict(), **about}


def samples() -> list[dict[str, str]]:
    """What ``zoo samples --json`` has."""
    from zoo.data.phantoms import PHANTOMS, summary
    from zoo.samples import SAMPLES

    rows = [(f"sample:{one.name}", one.title, f"ships with {one.library}") for one in SAMPLES.values()]
    rows += [(f"phantom:{name}", summary(name), "procedural") for name in PHANTOMS]
    return [{"input": name, "title": title, "origin": origin} for name, title, origin in rows]


def request_of(card: Plugin) -> dict[str, Any]:
    """The form that a model takes, for OpenAPI."""
    first = card.primary_input
    file = {"type": "string", "format": "binary"}
    properties: dict[str, Any] = {first.name: {"type": "array", "items": file, "description": first.help}}
    properties |= {item.name: _schema(item) for item in card.options}
    required = [first.name, *(item.name for item in card.options if item.required and not item.unless)]
    schema = {"type": "object", "properties": properties, "required": required}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def _schema(item: Input) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    if item.kind in PATHS:
        schema = {"type": "string", "format": "binary"}
    elif item.kind in ("number", "integer"):
        schema = {"type": item.kind}
        schema |= {"minimum": item.minimum} if item.minimum is not None else {}
        schema |= {"maximum": item.maximum} if item.maximum is not None else {}
    elif item.kind == "flag":
        schema = {"type": "boolean"}
    elif item.kind == "choice":
        schema = {"type": "string", "enum": list(item.choices)}
    elif item.kind in ("box", "point", "click"):
        example = {"box": "40,30,120,90", "point": "80,60", "click": "80,60,1"}[item.kind]
        schema = {"type": "string", "pattern": r"^[-+0-9.,eE ]+$", "description": f"such as {example}"}
    if item.many:
        schema = {"type": "array", "items": schema}
    _, kind, default, help = input_row(item)
    schema["description"] = f"{help} ({kind}; {default})"
    if item.default is not None:
        schema["default"] = item.default
    return schema


_TYPES = {
    "json": "application/json", "png": "image/png", "jpg": "image/jpeg", "gif": "image/gif", "zip": "application/zip",
    "dcm": "application/dicom", "csv": "text/csv", "ply": "application/octet-stream", "txt": "text/plain",
}  # fmt: skip


def media_type(name: str) -> str:
    return _TYPES.get(name.rpartition(".")[2].lower(), "application/octet-stream")


_LOGIN = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>zoo: token</title>
<meta name="viewport" content="width=device-width">
<style>body{font:1rem system-ui;max-width:26rem;margin:15vh auto;padding:0 1rem}input,button{font:inherit;padding:.5rem;
width:100%;box-sizing:border-box;margin:.25rem 0}p[role=alert]{color:#a00}</style></head><body>
<main><h1>zoo</h1><p>This server asks for its token; whoever started it saw it on the console.</p>SAID
<form method="post"><label for="token">Token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
<button>Enter</button></form></main></body></html>"""


def login_page(said: str = "") -> str:
    return _LOGIN.replace("SAID", f'<p role="alert">{html.escape(said)}</p>' if said else "")
