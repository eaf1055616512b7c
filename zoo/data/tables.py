"""Tables and folders, as the generic layouts and those of public sets read them."""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from zoo.errors import DataError
from zoo.media.sniff import SUFFIXES, is_litter, suffix
from zoo.text import strict_json

SPLITS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip


_DELIMITERS = ",;\t|"
_ENCODINGS = (
    (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip


def table_rows(table: Path) -> list[dict[str, Any]]:
    """The rows of a table: CSV in any of its dialects, TSV or JSON lines; empty cells and rows are left out.

    Commas, semicolons, tabs or bars between the cells, as the line of the columns has them; UTF-8, or UTF-16 with its
    mark. Spaces around names and cells don't count, and columns without a name are left out.
    Raises ``DataError`` for a file that is no such table.
    """
    try:
        text = _text(table)
        if table.suffix.lower() == ".jsonl":
            return _filled([strict_json(line) for line in text.splitlines() if line.strip()], table)
        return _cells(text, table)
    except UnicodeDecodeError as error:
        how = "save it as CSV in UTF-8 (in spreadsheets: Save as, CSV UTF-8)"
        raise DataError(f"{table} is not in UTF-8 (byte {error.start:,}); {how}") from error
    except OSError as error:
        raise DataError(f"{table} can't be read: {error.strerror or error}") from error
    except (ValueError, csv.Error) as error:
        raise DataError(f"{table} can't be read as a table: {error}") from error


def _text(table: Path) -> str:
    stored = table.read_bytes()
    return stored.decode(next((name for mark, name in _ENCODINGS if stored.startswith(mark)), "utf-8"))


def _cells(text: str, table: Path) -> list[dict[str, Any]]:
    said = re.match(r"sep=(.)\r?\n", text)  # what some spreadsheets write before the columns
    text = text[said.end() :] if said else text
    header = next((line for line in re.split(r"[\r\n]+", text) if line.strip(f" {_DELIMITERS}")), "")
    bare = re.sub(r'"[^"]*"', "", header)
    delimiter = said[1] if said else max("\t" if table.suffix.lower() == ".tsv" else ",", *_DELIMITERS, key=bare.count)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    rows = [row for row in ([cell.strip() for cell in line] for line in lines) if any(row)]
    if not rows:
        return []
    columns, *rows = rows
    named = [name for name in columns if name]
    if twice := sorted({name for name in named if named.count(name) > 1}):
        raise DataError(f"{table} has two columns called {twice[0]!r}; give each a name of its own")
    for number, row in enumerate(rows, start=1):
        if any(row[len(columns) :]):
            raise DataError(f"row {number} of {table} doesn't fit its columns")
        if any("\0" in cell for cell in row):
            raise DataError(f"row {number} of {table} holds a zero byte; save the table again")
    return _filled([dict(zip(columns, row, strict=False)) for row in rows], table)


def _filled(rows: list[Any], table: Path) -> list[dict[str, Any]]:
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(f"row {number} of {table} doesn't fit its columns")
    return [{name: value for name, value in row.items() if name and value not in (None, "")} for row in rows]


def known_columns(row: dict[str, Any], known: Iterable[str], table: Path) -> dict[str, Any]:
    """``row`` with its near misses of ``known`` names spelt right: ``Patient ID`` is ``patient_id``.

    Case, spaces, hyphens and dots don't count. Raises ``DataError`` where two columns come to one name.
    """
    by_key = {_key(name): name for name in known}
    found: dict[str, Any] = {}
    for name, value in row.items():
        right = by_key.get(_key(name), name)
        if right in found:
            raise DataError(f"{table} has two columns that mean {right!r}; keep one of them")
        found[right] = value
    return found


def _key(name: str) -> str:
    return re.sub(r"[\s_.-]+", "", name).casefold()


def inside(folder: Path, relative: str, table: Path) -> Path:
    """``relative`` as a path below ``folder``. Raises ``DataError`` if it leads out of it.

    An absolute path that lies in the folder is one below it too.
    """
    if os.path.isabs(relative):
        folder = Path(os.path.abspath(folder))
    path = Path(os.path.normpath(folder / relative))
    if not path.is_relative_to(os.path.normpath(folder)):
        raise DataError(f"{table} names {relative!r}, which lies outside its folder; only files below it are read")
    return path


def images_in(folder: Path, recursive: bool = False) -> list[Path]:
    """The image files of a folder, sorted; none where there is no folder."""
    if not folder.is_dir():
        return []
    paths = folder.rglob("*") if recursive else folder.iterdir()
    images = (path for path in paths if is_image_name(path.name) and path.is_file())
    return sorted(path for path in images if not is_litter(path.relative_to(folder)))


def files_like(folder: Path, pattern: str) -> list[Path]:
    """The files of a folder whose path below it is like ``pattern``, sorted, without what is never data."""
    return sorted(path for path in folder.glob(pattern) if path.is_file() and not is_litter(path.relative_to(folder)))


def is_image_name(name: str) -> bool:
    """Whether a file's name ends like that of an image that can be read."""
    return suffix(name) in SUFFIXES


def split_folders(root: Path) -> list[tuple[Path, str]]:
    """The folders of ``root`` that are called like a split, with its name."""
    if not root.is_dir():
        raise DataError(f"{root} is not a folder")
    return [(path, SPLITS[path.name.lower()]) for path in sorted(root.iterdir())
            if path.is_dir() and path.name.lower() in SPLITS]  # fmt: skip


def by_stem(folder: Path) -> dict[str, Path]:
    """The images of a folder by their names without suffix. Raises ``DataError`` where two have the same."""
    found: dict[str, Path] = {}
    for path in images_in(folder):
        if stem_of(path) in found:
            raise DataError(f"{folder} has two files with the stem {stem_of(path)!r}")
        found[stem_of(path)] = path
    return found


def stem_of(path: Path) -> str:
    ending = suffix(path)
    return path.name[: -len(ending)] if ending in SUFFIXES else path.stem


_ROLES = re.compile(
    r"[_-](masks?|seg|segmentation|labels?|gt|(1st_)?manual\d*|image|img|training|test)$", re.IGNORECASE
)


def matched(images: dict[str, Path], masks: dict[str, Path]) -> dict[str, str]:
    """For each mask that has one, its image, both by their stems.

    Equal stems belong together; else those that are equal once words such as ``_mask``, ``_manual1`` or ``_test`` are
    taken from their ends, where that leaves one of each.
    """
    found = {name: name for name in masks if name in images}
    rest = {kind: [name for name in names if name not in found] for kind, names in (("i", images), ("m", masks))}
    cores = {kind: [_core(name) for name in names] for kind, names in rest.items()}
    for name, core in zip(rest["m"], cores["m"], strict=True):
        if cores["i"].count(core) == 1 == cores["m"].count(core):
            found[name] = rest["i"][cores["i"].index(core)]
    return found


def _core(stem: str) -> str:
    while (shorter := _ROLES.sub("", stem)) != stem:
        stem = shorter
    return stem.casefold()
