"""``expand`` and ``group``: from what a user typed to a list of inputs, one per prediction."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from zoo import samples
from zoo.errors import MediaError
from zoo.media.files import user_path
from zoo.media.sniff import FORMATS, is_image, is_litter
from zoo.spec import is_kind


def expand(inputs: Iterable[str | os.PathLike[str]]) -> list[str]:
    """Files, folders, glob patterns and specs as a list of strings that :func:`zoo.media.read` takes.

    A folder that holds a DICOM series is one input; any other folder stands for the images directly in it. A pattern
    (``*``, ``?``, ``[...]``, ``**``) is expanded here, so quoted patterns work; of what it matches, files that are no
    images are left out and folders count when they hold a series. ``sample:`` and ``phantom:`` pass through. Folders
    and patterns come in natural order (``2.png`` before ``10.png``); what is named twice comes once.

    Raises ``MediaError`` for a missing file, a folder or pattern without images, an unknown sample, or no input.
    """
    found: dict[str, str] = {}
    for item in inputs:
        for one in _expand_one(os.fspath(item)):
            found.setdefault(one if is_kind(one, "phantom", "sample") else os.path.abspath(one), one)
    if not found:
        raise MediaError(f"no input was given; name a {FORMATS} file, a folder, or sample:retina")
    return list(found.values())


def group(inputs: Iterable[Any]) -> list[Any]:
    """One item per prediction, for a model whose input is several images: those of a patient, or an ordered stack.

    A folder and a phantom are an item each; all that is named singly beside them, patterns included, is one list, in
    the order given. What an item stands for is told by :func:`members`.
    """
    items: list[Any] = []
    singly: list[Any] | None = None
    named: set[str] = set()  # what is named twice comes once
    for one in inputs:
        name = os.fspath(one) if isinstance(one, (str, os.PathLike)) else None
        if name and (is_kind(name, "phantom") or user_path(name).is_dir()):
            items += [name] if name not in named else []
            named.add(name)
        else:
            if singly is None:
                items.append(singly := [])
            new = [one] if name is None else [path for path in expand([name]) if path not in named]
            singly += new
            named.update(path for path in new if isinstance(path, str))
    if not items:
        raise MediaError(f"no input was given; name {FORMATS} files or a folder of them")
    return [item[0] if isinstance(item, list) and len(item) == 1 else item for item in items]


def members(item: Any) -> list[Any]:
    """The images that one item stands for: a folder's in natural order, a list's in its own, anything else itself.

    Raises ``MediaError`` as :func:`expand` does, and for an empty list.
    """
    if isinstance(item, (list, tuple)):
        if not item:
            raise MediaError("an empty list of images was given; give at least one image")
        return [member for one in item for member in members(one)]
    return [*expand([item])] if isinstance(item, (str, os.PathLike)) else [item]


def natural_key(path: str | os.PathLike[str]) -> list[tuple[int, int, str]]:
    """Sorts digits by value: ``slice2`` before ``slice10``."""
    parts = re.split(r"(\d+)", os.fspath(path).lower())
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts]


def _expand_one(item: str) -> list[str]:
    if is_kind(item, "phantom"):
        return [item]
    if is_kind(item, "sample"):
        samples.find(item)
        return [item]
    if not item.strip():
        raise MediaError(f"an input is empty; name a {FORMATS} file or a folder (. is the current one)")
    path = user_path(item)
    if path.is_dir():
        return _folder(path)
    if path.exists():
        return [str(path)]
    if glob.has_magic(item):
        return _pattern(str(path))
    quoted = (
        "; the quotes hold options too, put them around the path alone" if " --" in str(item) else "; check the path"
    )
    raise MediaError(f"can't read {item}: there is no such file or folder{quoted}")


def _folder(folder: Path) -> list[str]:
    from zoo.media.series import find_series

    try:
        entries = sorted((p for p in folder.iterdir() if not is_litter(p.name)), key=natural_key)
    except OSError as error:
        raise MediaError(f"can't read the folder {folder}: {error.strerror}; check its permissions") from error
    if find_series(folder):
        return [str(folder)]
    images = [str(p) for p in entries if p.is_file() and not p.name.upper().startswith("DICOMDIR") and is_image(p)]
    if not images:
        folders = sum(p.is_dir() for p in entries)
        hint = f"; it has {folders} sub-folders, which '{folder}/*/*' reaches" if folders else ""
        raise MediaError(f"can't read the folder {folder}: it holds no {FORMATS} file{hint or '; check the path'}")
    return images


def _literal(pattern: str) -> str:
    """The pattern with the folders that are called so taken by name: ``[2023] scans/*.png``."""
    parts, there = Path(pattern).parts, Path()
    for count, part in enumerate(parts):
        there = there / part
        if not there.exists():
            return os.path.join(glob.escape(os.path.join("", *parts[:count])), *parts[count:])
    return pattern


def _pattern(pattern: str) -> list[str]:
    from zoo.media.series import find_series

    found = []
    for match in sorted(glob.glob(_literal(pattern), recursive=True), key=natural_key):
        path = Path(match)
        if path.is_dir():
            found += [match] if find_series(path) else []
        elif is_image(path):
            found.append(match)
    if not found:
        raise MediaError(f"can't read {pattern}: the pattern matches no {FORMATS} file; check it")
    return found
