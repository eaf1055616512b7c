"""``expand``: from what a user typed to a list of inputs, one per prediction."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable
from pathlib import Path

from zoo.errors import MediaError
from zoo.media.sniff import FORMATS, is_image


def expand(inputs: Iterable[str | os.PathLike[str]]) -> list[str]:
    """Files, folders, glob patterns and specs as a list of strings that :func:`zoo.media.read` takes.

    A folder that holds a DICOM series is one input; any other folder stands for the images directly in it. A pattern
    (``*``, ``?``, ``[...]``, ``**``) is expanded here, so quoted patterns work; of what it matches, files that are no
    images are left out and folders count when they hold a series. ``sample:`` and ``phantom:`` pass through. Folders
    and patterns come in natural order (``2.png`` before ``10.png``); what is named twice comes once.

    Raises ``MediaError`` for a missing file, a folder or pattern without images, an unknown sample, or no input.
    """
    found: dict[str, None] = {}
    for item in inputs:
        found.update(dict.fromkeys(_expand_one(os.fspath(item))))
    if not found:
        raise MediaError(f"no input was given; name a {FORMATS} file, a folder, or sample:retina")
    return list(found)


def natural_key(path: str | os.PathLike[str]) -> list[tuple[int, int, str]]:
    """Sorts digits by value: ``slice2`` before ``slice10``."""
    parts = re.split(r"(\d+)", os.fspath(path).lower())
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts]


def _expand_one(item: str) -> list[str]:
    if item.startswith("phantom:"):
        return [item]
    if item.startswith("sample:"):
        from zoo import samples

        samples.find(item)
        return [item]
    path = Path(item).expanduser()
    if path.is_dir():
        return _folder(path)
    if path.exists():
        return [str(path)]
    if glob.has_magic(item):
        return _pattern(str(path))
    raise MediaError(f"can't read {item}: there is no such file or folder; check the path")


def _folder(folder: Path) -> list[str]:
    from zoo.media.series import find_series

    try:
        entries = sorted((p for p in folder.iterdir() if not p.name.startswith(".")), key=natural_key)
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


def _pattern(pattern: str) -> list[str]:
    from zoo.media.series import find_series

    found = []
    for match in sorted(glob.glob(pattern, recursive=True), key=natural_key):
        path = Path(match)
        if path.is_dir():
            found += [match] if find_series(path) else []
        elif is_image(path):
            found.append(match)
    if not found:
        raise MediaError(f"can't read {pattern}: the pattern matches no {FORMATS} file; check it")
    return found
