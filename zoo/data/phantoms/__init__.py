"""Procedural images with exact ground truth. A phantom is a pure function of its seed and options.

A specification reads ``phantom:NAME?seed=7&OPTION=VALUE``; a data set of them adds ``n``, and case i has seed + i.

A phantom is a function ``(seed, **options) -> Case`` that an entry point of the group ``zoo.phantoms`` names; the first
line of its docstring says what it draws. Ours are found like everybody's.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.config import parse
from zoo.data.case import Case
from zoo.data.finding import Found, found
from zoo.errors import DataError, MissingExtraError, OptionError
from zoo.spec import Spec
from zoo.text import nearest, printable

if TYPE_CHECKING:
    from zoo.media import Image  # imports Pillow, and `zoo samples` only lists

ENTRY_POINT_GROUP = "zoo.phantoms"

__all__ = ["ENTRY_POINT_GROUP", "PHANTOMS", "PhantomSpec", "image", "make", "parse_spec", "summary"]

PHANTOMS: dict[str, Found] = found(ENTRY_POINT_GROUP, "phantom")
"""All phantoms by name, none of them imported."""


def summary(name: str) -> str:
    """What a phantom draws, in a line, or why it can't. Its module is read, not imported: a list is light."""
    module, _, function = PHANTOMS[name].value.partition(":")
    try:
        for node in ast.parse(_source(module)).body:
            if isinstance(node, ast.FunctionDef) and node.name == function:
                return (ast.get_docstring(node) or name).splitlines()[0].rstrip(".")
        PHANTOMS[name].load()
    except Exception as error:  # a stranger's package may fail in any way at all
        return printable(error, 200) or type(error).__name__
    return name


def _source(module: str) -> str:
    """The text of a module, found without importing the packages that it lies in; empty where there is none."""
    top, *rest = module.split(".")
    where = find_spec(top)
    if where is None:
        return ""
    folders = [Path(folder, *rest) for folder in where.submodule_search_locations or ()]
    files = [path for folder in folders for path in (folder.with_suffix(".py"), folder / "__init__.py")]
    files = files if folders else [Path(where.origin or "")]
    return next((path.read_text(encoding="utf-8") for path in files if path.is_file()), "")


@dataclass(frozen=True)
class PhantomSpec:
    """``phantom:NAME?seed=..&n=..&OPTION=..`` in parts, checked against the phantom's signature."""

    name: str
    draw: Callable[..., Case]
    seed: int = 0
    n: int | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """The name with every option, so that a default is the same stated or not."""
        parameters = inspect.signature(self.draw).parameters.values()
        stated = {p.name: p.default for p in parameters if p.name != "seed"} | self.options
        return f"phantom:{self.name}?" + "&".join(f"{key}={stated[key]}" for key in sorted(stated))


def parse_spec(spec: str) -> PhantomSpec:
    """Take a specification apart. Raises ``DataError`` for an unknown phantom or option, or a value of wrong type."""
    stated = Spec.parse(spec)
    if stated.name not in PHANTOMS:
        raise DataError(f"there is no phantom {stated.name!r}; {nearest(stated.name, PHANTOMS)}")
    draw = PHANTOMS[stated.name].load()
    hints = inspect.get_annotations(draw, eval_str=True)
    known = ["seed", "n", *(name for name in inspect.signature(draw).parameters if name != "seed")]
    values: dict[str, Any] = {}
    for key, text in stated.options.items():
        if key not in known:
            raise DataError(f"the phantom {stated.name!r} has no option {key!r}; {nearest(key, known)}")
        try:
            values[key] = parse(text, int if key in ("seed", "n") else hints.get(key, str), key)
        except OptionError as error:
            raise DataError(f"{spec}: {error}") from error
    if values.get("seed", 0) < 0 or values.get("n", 1) < 1:
        raise DataError(f"{spec}: seed must be at least 0 and n at least 1")
    return PhantomSpec(stated.name, draw, values.pop("seed", 0), values.pop("n", None), values)


def make(spec: str) -> Case:
    """The one case of a specification. Raises ``DataError`` as ``parse_spec`` does, and for ``n`` above 1."""
    parsed = parse_spec(spec)
    if parsed.n not in (None, 1):
        raise DataError(f"{spec} names {parsed.n} images where one is needed; choose it with seed=...")
    try:
        return parsed.draw(parsed.seed, **parsed.options)
    except ImportError as error:
        raise MissingExtraError(f"the phantom {parsed.name!r}", error.name or str(error), "imaging") from error


def image(spec: str) -> Image:
    """The picture of a specification's one case: how ``zoo.media.read`` reads ``phantom:...``."""
    return picture(make(spec), spec)


def picture(made: Case, source: str) -> Image:
    """The picture of a case that was drawn, or whose image is an array; ``source`` is what it's called."""
    from zoo import media

    if made.images:
        stack = np.stack([one.image for one in made.images])
        return replace(media.read(stack), source=source, format="phantom")
    if not isinstance(made.image, np.ndarray):
        return replace(media.read(made.image), source=source)
    is_volume = made.image.ndim == 3 and made.image.shape[-1] not in (1, 3, 4)
    drawn = media.read(made.image, mode="volume" if is_volume else "auto")
    return replace(drawn, source=source, format="phantom", spacing=made.attributes.get("spacing"))
