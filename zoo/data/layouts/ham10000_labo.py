"""HAM10000 with the split that the authors of LaBo released."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from zoo.data.layouts import ham10000
from zoo.data.sets import Dataset, Entry, Layout
from zoo.data.tables import stem_of
from zoo.errors import DataError
from zoo.text import strict_json

SPLITS = {"train": "train", "val": "validation", "test": "test"}


def read(spec: str, root: Path) -> Dataset:
    """``ham10000-labo:PATH``: HAM10000 as ``ham10000:PATH`` reads it, divided as github.com/YueYANG1996/LaBo has it.

    ``PATH`` also holds ``splits/class2images_train.json``, ``_val.json`` and ``_test.json``: for each class its image
    files. They were released as pickles, which can run code and are not read; the refusal has the command that makes
    JSON of them. Cases come in the order of these lists, class by class. The split isn't grouped by lesion, so that
    other pictures of a test lesion are trained on; cases have no patient here, for the division could not stand with
    one.

    Raises ``DataError`` for files that are missing or don't fit each other.
    """
    whole = {entry.id: entry for entry in ham10000.read(spec, root).entries}
    entries: dict[str, Entry] = {}
    for part, split in SPLITS.items():
        for name in _names(root / "splits" / f"class2images_{part}.json"):
            stem = stem_of(Path(name))
            if stem not in whole:
                raise DataError(f"data {spec!r}: the split names {name!r}, which HAM10000_metadata.csv doesn't have")
            if stem in entries:
                raise DataError(f"data {spec!r}: {name!r} is in two parts of the split; each image is in one")
            entries[stem] = Entry(stem, whole[stem].case, split=split)
    return Dataset(spec, entries.values(), ["image", "label", "split"])


def _names(path: Path) -> Iterator[str]:
    """The image files that a list names, class by class."""
    if not path.is_file():
        code = f"import json, pickle; d = pickle.load(open({str(path.with_suffix('.p'))!r}, 'rb')); "
        code += f"json.dump({{k: list(v) for k, v in d.items()}}, open({str(path)!r}, 'w'))"
        raise DataError(
            f"there is no {path}; the authors' {path.with_suffix('.p').name} is a pickle, which can run code and isn't "
            f"read here; if you trust it, run: python -c {shlex.quote(code)}"
        )
    try:
        table = strict_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no JSON: {error}") from error
    if not isinstance(table, Mapping) or not all(
        isinstance(names, list) and all(isinstance(name, str) for name in names) for names in table.values()
    ):
        raise DataError(f'{path} must hold a list of image files for each class: {{"melanoma": ["ISIC_0.jpg"]}}')
    for names in table.values():
        yield from names


layout = Layout(
    "HAM10000 divided as LaBo's authors did (as ham10000, with splits/class2images_*.json)",
    read,
    licence="CC BY-NC 4.0",
)
