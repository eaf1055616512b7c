"""What a user meant who typed a command wrong: the command that would have worked, as the end of the sentence."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from zoo.text import close_to

EXAMPLES = {
    "predict": "zoo predict map-vessel sample:retina",
    "train": "zoo train {model} --data pairs:FOLDER --preset demo",
    "evaluate": "zoo evaluate {model} --data pairs:FOLDER",
    "robustness": "zoo robustness {model} --data pairs:FOLDER",
    "export": "zoo export {model} --out FILE",
    "push": "zoo push {model} ORG/REPO",
    "pull": "zoo pull hf://ORG/REPO",
    "new": "zoo new my-model",
    "info": "zoo info map-vessel",
    "check": "zoo check map-vessel",
    "data check": "zoo data check pairs:FOLDER",
}
"""What a command looks like. ``{model}``: the one that was named, else one that is there."""


def explained(error: Any, arguments: Sequence[str] | None = None) -> str:
    """A usage error as one sentence that ends with what to type."""
    typed = list(sys.argv[1:] if arguments is None else arguments)
    message = " ".join(error.format_message().split())
    context = getattr(error, "ctx", None)
    command = _path(context)
    kind = type(error).__name__
    if kind == "NoSuchCommand" or message.startswith("No such command"):
        return _no_command(error, command, context)
    if kind == "NoSuchOption" or message.startswith("No such option"):
        return _no_option(getattr(error, "option_name", ""), typed, message)
    if kind == "MissingParameter" or message.startswith("Missing"):
        return _missing(command, typed, message)
    return message


def _path(context: Any) -> str:
    """The command that was being read, without the program's own name: ``data check``."""
    names: list[str] = []
    while context is not None and context.parent is not None:
        names.insert(0, str(context.info_name))
        context = context.parent
    return " ".join(names)


def _no_command(error: Any, command: str, context: Any) -> str:
    wrong = str(getattr(error, "command_name", "") or " ".join(error.format_message().split()).split("'")[1])
    known = list(getattr(getattr(context, "command", None), "commands", {}) or ())
    near = close_to(wrong, known, cutoff=0.6)
    path = f"zoo {command}".strip()
    remedy = f"did you mean {path} {near[0]}?" if near else f"{path} --help lists them"
    return f"there is no command {wrong!r}; {remedy}"


def _no_option(option: str, typed: Sequence[str], message: str) -> str:
    """An option of a model, given as if it were one of the command."""
    name = option.lstrip("-").replace("-", "_")
    given = f"--with {name}={_value_of(option, typed)}"
    if _declares(_model_in(typed), name):
        return f"{option} is an option of the model; write {given}"
    command = " ".join(["zoo", *typed[:1]])
    return f"{message.rstrip('.')}; {command} --help lists the options"


def _value_of(option: str, typed: Sequence[str]) -> str:
    for place, word in enumerate(typed):
        if word == option:
            return typed[place + 1] if place + 1 < len(typed) else "VALUE"
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return "VALUE"


def _missing(command: str, typed: Sequence[str], message: str) -> str:
    words = [word for word in typed if not word.startswith("-")][len(command.split()) :]
    file = next((word for word in words if os.path.exists(word) and not _is_model(word)), None)
    if command == "predict" and file is not None:
        command = f"zoo predict MODEL {shlex.quote(file)}"
        return f"{file} is a file, and a model comes first: {command}; zoo list shows the models"
    if command not in EXAMPLES:
        return message
    model = next((word for word in words if _is_model(word)), None)
    if command == "predict" and model is not None:
        sample = _tried(model)
        return f"{model} needs an image to predict on: zoo predict {model} {sample}"
    return f"{message.rstrip('.')}; write {EXAMPLES[command].format(model=model or 'map-vessel')}"


def _plugin(name: str | None) -> Any:
    from zoo import registry
    from zoo.errors import ZooError

    try:
        return registry.find(name).plugin if name else None
    except ZooError:
        return None


def _is_model(name: str) -> bool:
    return _plugin(name) is not None


def _model_in(typed: Sequence[str]) -> str | None:
    return next((word for word in typed[1:] if not word.startswith("-") and _is_model(word)), None)


def _declares(model: str | None, option: str) -> bool:
    plugin = _plugin(model)
    return plugin is not None and any(item.name == option for item in plugin.options)


def _tried(model: str) -> str:
    plugin = _plugin(model)
    return shlex.quote(plugin.sample or plugin.phantom or "IMAGE")
