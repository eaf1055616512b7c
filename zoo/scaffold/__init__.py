"""``zoo new``: a package with a plugin that works, for its author to make their own.

The templates are such packages themselves, called ``my-model``; only the name changes. A folder or file called
``dot-NAME`` becomes ``.NAME``, for packaging leaves hidden files behind, and ``NAME.in`` becomes ``NAME``, for tools
would take it for theirs.
"""

from __future__ import annotations

import keyword
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from zoo import registry
from zoo.errors import OptionError
from zoo.storage import making, user_path
from zoo.text import kebab, nearest

__all__ = ["TASKS", "Created", "new"]

TEMPLATES = Path(__file__).with_name("templates")
_IMAGE = ("kinds", "image")
_ROOTS: dict[str, tuple[str, ...]] = {
    "segmentation": (),
    "classification": (),
    "volume-segmentation": ("kinds",),
    **dict.fromkeys(("detection", "measurement", "multi-task", "report", "reconstruction", "embedding"), _IMAGE),
}
"""What a template shares with others beside ``common``; of files of one name the last counts."""
TASKS = tuple(_ROOTS)
BACKBONES = ("timm", "hf")
WRAPPING = tuple(task for task, roots in _ROOTS.items() if roots == _IMAGE)
"""Tasks whose network can stand on a pretrained one."""
_BACKBONE = re.compile(r"(timm|hf):[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_BINARY = (".safetensors",)
_LONGEST = 60


@dataclass(frozen=True)
class Created:
    """A package that was written: its folder, its files in it, and what its author should know."""

    folder: Path
    files: tuple[Path, ...]
    warnings: tuple[str, ...] = ()


def new(
    name: str, task: str = "segmentation", parent: str | os.PathLike[str] = ".", *, backbone: str | None = None
) -> Created:
    """Write the package ``parent/name`` with a small plugin that predicts, trains and passes ``zoo check``.

    ``backbone``: ``timm:NAME`` or ``hf:ORG/NAME``, a pretrained network that its preset ``paper`` starts from; the demo
    weights and the claim have a small one.

    Raises ``OptionError`` for a name that can't be a plugin's, an unknown task, a backbone that isn't written so or
    that the task's template has no place for, or a folder that exists or can't be written to.
    """
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        raise OptionError(
            f"{name!r} can't be the name of a plugin; write lower-case letters, digits and single hyphens, "
            f"such as {_usable(name)}"
        )
    if task not in TASKS:
        raise OptionError(f"there is no template for the task {task!r}; {nearest(task, TASKS)}")
    if backbone is not None:
        _check_backbone(backbone, task)
    package = name.replace("-", "_")
    if keyword.iskeyword(package) or package in sys.stdlib_module_names or package in ("zoo", "torch", "test", "tests"):
        raise OptionError(f"{name} would hide a package of Python or the zoo called {package}; choose another name")
    target = user_path(parent, OptionError) / name
    if target.exists() or target.is_symlink():
        raise OptionError(f"{target} exists and nothing is overwritten; choose another name or another --folder")
    names = {"my_model": package, "my-model": name, "MyModel": _camel(name), "My model": _sentence(name)}
    if backbone is not None:
        extra = "backbones" if backbone.startswith("timm:") else "text"
        imported = f"from .model import {_camel(name)}, {_camel(name)}Config\n"
        names |= {
            "timm:resnet18": backbone,
            '"paper": {}': '"paper": {"network": {"backbone": BACKBONE}}',
            "from .model import MyModel, MyModelConfig\n\n\n": f"from .encoder import BACKBONE\n{imported}\n\n",
            "medimg-zoo[train]": f"medimg-zoo[train,{extra}]",
        }
    try:
        with making(target) as draft:
            files = tuple(
                _write(source, relative, draft, names) for source, relative in _sources(task, backbone is not None)
            )
    except OSError as error:
        raise OptionError(
            f"can't write {target}: {error.strerror or error}; choose another folder with --folder"
        ) from error
    return Created(target, tuple(sorted(files)), tuple(_warnings(name, package)))


def _check_backbone(backbone: str, task: str) -> None:
    if task not in WRAPPING:
        raise OptionError(f"the template of {task} has no place for a backbone; choose the task {', '.join(WRAPPING)}")
    if not _BACKBONE.fullmatch(backbone):
        raise OptionError(f"{backbone!r} is no backbone; write timm:NAME, such as timm:resnet18, or hf:ORG/NAME")


def _sources(task: str, wrapping: bool) -> Iterator[tuple[Path, Path]]:
    """Every file of a template, and where it goes."""
    found: dict[Path, Path] = {}
    for name in ("common", *_ROOTS[task], task, *(["pretrained"] if wrapping else [])):
        root = TEMPLATES / name
        for path in sorted(root.rglob("*")):
            relative = path.relative_to(root)
            # Leave what tools keep beside the sources; nothing of a template is hidden or compiled.
            if path.is_file() and not any(part.startswith((".", "__pycache__")) for part in relative.parts):
                found[relative] = path
    yield from ((path, relative) for relative, path in found.items())


def _write(source: Path, relative: Path, folder: Path, names: dict[str, str]) -> Path:
    """Put one file into ``folder`` under its new name; returns that name."""
    parts = [re.sub(r"^dot-", ".", part).removesuffix(".in") for part in relative.parts]
    place = Path(*(part.replace("my_model", names["my_model"]) for part in parts))
    path = folder / place
    path.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix in _BINARY:
        shutil.copyfile(source, path)
    else:
        text = source.read_text(encoding="utf-8")
        pattern = "|".join(map(re.escape, names))
        path.write_text(re.sub(pattern, lambda match: names[match[0]], text), encoding="utf-8")
    return place


def _warnings(name: str, package: str) -> Iterator[str]:
    owners = [entry.distribution for entry in registry.entries() if entry.name == name]
    if owners:
        yield (
            f"{owners[0]} already has a model called {name}; with both installed, "
            f"each must be named with its distribution, such as {owners[0]}:{name}"
        )
    elif find_spec(package) is not None:
        yield f"a package called {package} is installed, and this one would hide it; another name avoids that"


def _usable(name: str) -> str:
    """The nearest name that would do."""
    return (kebab(name).lstrip("0123456789-") or "my-model")[:_LONGEST].strip("-")


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("-"))


def _sentence(name: str) -> str:
    return name.replace("-", " ").capitalize()
