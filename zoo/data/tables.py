"""Tables and folders, as the generic layouts and those of public sets read them."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

from zoo.errors import DataError
from zoo.media.sniff import SUFFIXES, is_litter
from zoo.text import strict_json

SPLITS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
IMAGE_SUFFIXES = tuple(SUFFIXES)


def table_rows(table: Path) -> list[dict[str, Any]]:
    """The rows of a CSV, TSV or JSON-lines table; empty cells are left out.

    Raises ``DataError`` for a file that is no such table.
    """
    try:
        if table.suffix == ".jsonl":
            lines = table.read_text(encoding="utf-8").splitlines()
            rows = [strict_json(line) for line in lines if line.strip()]
        else:
            with open(table, newline="", encoding="utf-8-sig") as file:
                rows = list(csv.DictReader(file, delimiter="\t" if table.suffix == ".tsv" else ",", strict=True))
    except (ValueError, csv.Error) as error:
        raise DataError(f"{table} can't be read as a table: {error}") from error
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or None in row:
            raise DataError(f"row {number} of {table} doesn't fit its columns")
    return [{name: value for name, value in row.items() if value not in (None, "")} for row in rows]


def inside(folder: Path, relative: str, table: Path) -> Path:
    """``relative`` as a path below ``folder``. Raises ``DataError`` if it leads out of it."""
    path = Path(os.path.normpath(folder / relative))
    if not path.is_relative_to(os.path.normpath(folder)):
        raise DataError(f"{table} names {relative!r}, which lies outside its folder; only files below it are read")
    return path


def images_in(folder: Path, recursive: bool = False) -> list[Path]:
    """The image files of a folder, sorted; none where there is no folder."""
    if not folder.is_dir():
        return []
    paths = folder.rglob("*") if recursive else folder.iterdir()
    images = (path for path in paths if path.name.lower().endswith(IMAGE_SUFFIXES) and path.is_file())
    return sorted(path for path in images if not is_litter(path.relative_to(folder)))


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
    return path.name[: -len(".nii.gz")] if path.name.endswith(".nii.gz") else path.stem
