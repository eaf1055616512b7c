"""Data sets from a specification such as ``pairs:retina/`` or ``phantom:fundus?n=40&seed=7``.

==============  =====================================================================================================
``folder:PATH``  images with ``metadata.csv`` or ``metadata.jsonl`` (column ``file_name``), or one folder per class,
                 in the Hugging Face ``imagefolder`` convention; ``train/``, ``validation/``, ``test/`` are splits
``pairs:PATH``   ``images/`` and ``masks/`` whose files share their stems, but for words such as ``_mask`` at their
                 ends; may lie inside split folders
``csv:FILE``     a table with the column ``image`` and any of ``id``, ``mask``, ``mask_<name>``, ``label``,
                 ``patient``, ``site``, ``split``; further columns become attributes, and those called as named
                 images, volumes, tables and texts of the model's card its ``inputs``
``msd:PATH``     ``dataset.json`` of the Medical Segmentation Decathlon or of nnU-Net; where a file holds several
                 sequences (``"tensorImageSize": "4D"``), the first of them
``phantom:NAME`` procedural cases; ``n`` and ``seed`` (case i has seed + i), and the phantom's own options
``NAME:PATH``    the layout of a public set, one of ``layouts()``
==============  =====================================================================================================

Nothing is read but the tables: images and masks stay paths until somebody needs them. Paths in a table are relative
to the table's folder and may not leave it, so that a downloaded set can't point at other files of its user.
"""

from __future__ import annotations

import glob
import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

import numpy as np
from jaxtyping import Integer

from zoo.data import phantoms
from zoo.data.case import Case
from zoo.data.finding import Found, found
from zoo.data.tables import (
    SPLITS,
    by_stem,
    files_like,
    images_in,
    inside,
    known_columns,
    matched,
    split_folders,
    stem_of,
    table_rows,
)
from zoo.errors import DataError, DataWarning, MediaError, OptionError
from zoo.spec import Spec
from zoo.storage import user_path
from zoo.text import nearest, strict_json

ENTRY_POINT_GROUP = "zoo.layouts"
INPUTS = ("image", "volume", "table", "text")
"""Kinds of named inputs that a table of cases may state."""
PHANTOM_CASES = 40
PHANTOMS_IN_MEMORY = 64  # the latest are kept, for making one takes longer than reading a file


if TYPE_CHECKING:
    _Cases = Sequence[Case]
else:  # whoever checks a data set by its type would make an item to look at it
    _Cases = Sequence


@dataclass(frozen=True)
class Entry:
    """What is known of a case before it's read or made."""

    id: str
    case: Case | Callable[[], Case]
    patient: str | None = None
    split: str | None = None  # train, validation or test, where the set says so
    drawn: str = ""  # of a phantom: its name, all of its options and its seed, which are all that makes it


class Dataset(_Cases):
    """A list of cases. ``spec`` says where it comes from, ``columns`` what its tables state.

    ``whole``: the splits that it states are all there is; no validation part is taken from the training cases.
    """

    def __init__(
        self,
        spec: str,
        entries: Iterable[Entry],
        columns: Iterable[str] = (),
        labels: Sequence[str] = (),
        whole: bool = False,
    ) -> None:
        self.spec = spec
        self.whole = whole
        self.entries = list(entries)
        self.columns = tuple(columns)
        self.labels = tuple(labels)  # names of the mask values, where the set states them
        seen: set[str] = set()
        for entry in self.entries:
            if entry.id in seen:
                raise DataError(f"{spec} has two cases with the id {entry.id!r}; ids must differ")
            seen.add(entry.id)

    def __len__(self) -> int:
        return len(self.entries)

    @overload
    def __getitem__(self, index: int) -> Case: ...
    @overload
    def __getitem__(self, index: slice) -> Dataset: ...
    def __getitem__(self, index: int | slice) -> Case | Dataset:
        if isinstance(index, slice):
            return self.subset(range(len(self))[index])
        case = self.entries[index].case
        return case if isinstance(case, Case) else case()

    def __iter__(self) -> Iterator[Case]:
        return (self[i] for i in range(len(self)))

    @property
    def ids(self) -> list[str]:
        return [entry.id for entry in self.entries]

    def subset(self, indices: Iterable[SupportsIndex]) -> Dataset:
        """The cases at ``indices``, in that order."""
        return Dataset(self.spec, [self.entries[int(i)] for i in indices], self.columns, self.labels)

    def in_memory(self) -> Dataset:
        """With every made case made once, instead of each time that it's looked at; files stay files."""
        entries = [replace(e, case=e.case() if callable(e.case) else e.case) for e in self.entries]
        return Dataset(self.spec, entries, self.columns, self.labels)

    def values(self, where: str) -> list[str]:
        """An attribute of every case, from a column or from ``file:PATH``; ``unknown`` where it isn't stated.

        Raises ``DataError`` for a file that isn't there or lacks the columns ``id`` and ``value``.
        """
        kind, _, name = where.partition(":")
        if kind != "file":
            return [str(case.attributes.get(where, "unknown")) for case in self]
        path = user_path(name)
        if not path.is_file():
            raise DataError(f"there is no file {path} that states the attribute of the cases")
        rows = table_rows(path)
        if not rows or not {"id", "value"} <= rows[0].keys():
            raise DataError(f"{path} needs the columns id and value")
        stated = {str(row.get("id")): str(row.get("value", "unknown")) for row in rows}
        return [stated.get(name, "unknown") for name in self.ids]

    def __repr__(self) -> str:
        return f"Dataset({self.spec!r}, {len(self)} cases)"


@dataclass(frozen=True)
class Layout:
    """How a public set lies on disk once unpacked; an entry point of the group ``zoo.layouts`` names an instance.

    ``read``: ``(spec, path) -> Dataset``.
    """

    title: str
    read: Callable[[str, Path], Dataset]
    licence: str = ""


@cache
def layouts() -> dict[str, Found]:
    """The layouts of public sets by name, none of them imported."""
    return found(ENTRY_POINT_GROUP, "layout")


def load_dataset(spec: str, *, plugin: Any = None) -> Dataset:
    """The data set that ``spec`` names; see the head of this module for its forms.

    ``plugin`` is the model it's meant for: a phantom without a name (``phantom:``) is then the plugin's own.
    Raises ``DataError`` for a set that is missing, malformed or empty, ``OptionError`` for a wrong specification.
    """
    stated = Spec.parse(spec)
    known = [*_READERS, "phantom", *layouts()]
    if stated.kind not in known:
        raise OptionError(f"data {spec!r} must read KIND:PATH; {_meant(spec, stated.kind, known)}")
    if stated.kind == "phantom":
        dataset = _phantoms(spec, stated, plugin)
    else:
        if not stated.rest:
            raise OptionError(f"data {spec!r} names no path")
        path = user_path(stated.rest)
        if not path.exists():
            raise DataError(f"data {spec!r}: there is no file or folder {path}; check the path")
        dataset = _csv(spec, path, plugin) if stated.kind == "csv" else _reader(stated.kind)(spec, path)
        _require_inputs(dataset, plugin)
    if not len(dataset):
        raise DataError(f"data {spec!r} is empty")
    return dataset


def _meant(spec: str, kind: str, known: Sequence[str]) -> str:
    """What somebody meant who named a path alone, or a kind that isn't there."""
    path = user_path(spec)
    if kind or not path.exists():
        return nearest(kind or spec, known)
    if path.is_file():
        return f"for a table with one case a line write csv:{spec}"
    if (path / "masks").is_dir():
        return f"for images with their masks write pairs:{spec}"
    return f"for images in a folder for each label write folder:{spec}, for images/ and masks/ pairs:{spec}"


def read_mask(case: Case, name: str = "mask") -> Integer[np.ndarray, "*grid"]:
    """A mask of ``case`` as integer labels ``[h w]`` or ``[z h w]``; one slice, across any axis, is ``[h w]``.

    What counts as a label is :func:`zoo.media.read_labels`' affair: black and white are 0 and 1, soft edges are cut at
    half, with a ``DataWarning`` for the folder. Raises ``DataError`` when there is no such mask, or when it holds
    fractions or colours.
    """
    from zoo import media

    if name not in case.masks:
        raise DataError(f"case {case.id} has no mask {name!r}")
    stored = case.masks[name]
    mask: str | media.Image = (
        stored
        if isinstance(stored, str)
        else media.Image(stored, f"{name!r} of case {case.id}", ndim_spatial=stored.ndim)
    )
    try:
        labels = media.read_labels(mask)
    except MediaError as error:
        raise DataError(str(error).replace("can't read", "can't read the mask", 1)) from error
    if labels.ndim_spatial == 3 and 1 in labels.size:
        labels = labels.require_2d()  # as the image beside it is taken
    if labels.notes:  # by folder, so that a set of thousands says it once
        where = f"in {Path(stored).parent}" if isinstance(stored, str) else "in memory"
        warnings.warn(f"masks {where} have grey edges; they were cut at half", DataWarning, stacklevel=2)
    return labels.array


# ---- readers -----------------------------------------------------------------------------------------------------


def _folder(spec: str, root: Path) -> Dataset:
    entries: list[Entry] = []
    columns: dict[str, None] = {}
    parts: list[tuple[Path, str | None]] = [*split_folders(root)]
    for folder, split in parts or [(root, None)]:
        table = next((folder / name for name in ("metadata.csv", "metadata.jsonl") if (folder / name).is_file()), None)
        prefix = f"{split}/" if parts else ""
        if table is not None:
            for row in table_rows(table):
                row = _spelt(row, table, "file_name")
                row["image"] = row.pop("file_name", "")
                for name in [name for name in row if name.endswith("_file_name")]:
                    stem = name.removesuffix("_file_name")
                    row["mask" if stem == "mask" else f"mask_{stem}"] = row.pop(name)
                columns.update(dict.fromkeys(row))
                entries.append(_entry(row, folder, table, split, prefix))
            continue
        for path in images_in(folder, recursive=True):
            relative = path.relative_to(folder)
            label = relative.parts[0] if len(relative.parts) > 1 else None
            columns.update({"image": None} if label is None else {"image": None, "label": None})
            identity = prefix + relative.as_posix()
            entries.append(Entry(identity, Case(str(path), identity, label=label), split=split))
    return Dataset(spec, entries, [*columns, "split"] if parts else columns)


def _pairs(spec: str, root: Path) -> Dataset:
    entries = []
    parts: list[tuple[Path, str | None]] = [*split_folders(root)]
    parts = [part for part in parts if (part[0] / "images").is_dir()]
    for folder, split in parts or [(root, None)]:
        for name in ("images", "masks"):
            if not (folder / name).is_dir():
                raise DataError(f"data {spec!r}: there is no folder {folder / name}; pairs need images/ and masks/")
        masks = by_stem(folder / "masks")
        images = by_stem(folder / "images")
        image_of = matched(images, masks)
        if orphans := sorted(masks.keys() - image_of.keys()):
            raise DataError(f"data {spec!r}: {_some(orphans)} in {folder / 'masks'} belong to no image")
        mask_of = {image: str(masks[mask]) for mask, image in image_of.items()}
        for stem, path in images.items():
            identity = f"{split}/{stem}" if split else stem
            case = Case(str(path), identity, masks={"mask": mask_of[stem]} if stem in mask_of else {})
            entries.append(Entry(identity, case, split=split))
    return Dataset(spec, entries, ["image", "mask", "split"] if parts else ["image", "mask"])


def _csv(spec: str, table: Path, plugin: Any = None) -> Dataset:
    if not table.is_file():
        raise DataError(f"data {spec!r}: {table} is not a file")
    rows = [_spelt(row, table) for row in table_rows(table)]
    if plugin is not None:  # its first input may have a name of its own, and others beside it
        first = plugin.primary_input.name
        rows = [{"image": row[first], **row} if first in row and "image" not in row else row for row in rows]
    entries = [_entry(row, table.parent, table, None, "") for row in rows]
    entries = [_with_inputs(entry, row, table, plugin) for entry, row in zip(entries, rows, strict=True)]
    return Dataset(spec, entries, dict.fromkeys(name for row in rows for name in row))


def _with_inputs(entry: Entry, row: Mapping[str, Any], table: Path, plugin: Any) -> Entry:
    """The case of a line with those of its columns that are named inputs of the model."""
    named = [
        item for item in (plugin.options if plugin is not None else ()) if item.kind in INPUTS and item.name in row
    ]
    if not named or not isinstance(entry.case, Case):
        return entry
    texts = {item.name: str(row[item.name]) for item in named}
    paths = {item.name: str(inside(table.parent, texts[item.name], table)) for item in named if item.kind != "text"}
    return replace(entry, case=replace(entry.case, inputs={**texts, **paths}))


def _require_inputs(dataset: Dataset, plugin: Any) -> None:
    """Refuse a set whose cases lack an image, a table or a text that the model can't do without."""
    for item in plugin.options if plugin is not None else ():
        if item.kind not in INPUTS or not item.required or item.unless:
            continue
        for entry in dataset.entries:
            if isinstance(entry.case, Case) and item.name not in entry.case.inputs:
                raise DataError(
                    f"case {entry.id} of {dataset.spec} has no {item.name} ({item.help}), which {plugin.name} needs; "
                    f"write a table csv:FILE with the column {item.name}"
                )


def _msd(spec: str, root: Path) -> Dataset:
    table = root / "dataset.json" if root.is_dir() else root
    if not table.is_file():
        raise DataError(f"data {spec!r}: there is no {table}")
    root = table.parent
    try:
        document = strict_json(table.read_text(encoding="utf-8"))
        labels = _msd_labels(document["labels"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{table} is no Decathlon or nnU-Net description: {error!r}") from error
    entries = []
    several = str(document.get("tensorImageSize", "")).upper() == "4D"
    if isinstance(document.get("training"), list):
        for item in document["training"]:
            image = inside(root, item["image"], table)
            mask = inside(root, item["label"], table)
            entries.append(_volume(image, {"mask": str(mask)}, "train", several))
        for item in document.get("test") or []:
            image = inside(root, item["image"] if isinstance(item, dict) else item, table)
            entries.append(_volume(image, {}, "test", several))
        # The test part comes without masks, so it can't serve for evaluation.
        entries = [entry for entry in entries if entry.split == "train"] or entries
    else:  # nnU-Net: CASE_0000.nii.gz, CASE_0001.nii.gz, ... are the channels of CASE
        ending = str(document.get("file_ending", ".nii.gz"))
        channels: dict[str, list[str]] = {}
        for path in files_like(root / "imagesTr", f"*{ending}"):
            if match := re.fullmatch(r"(.+)_(\d{4})", path.name.removesuffix(ending)):
                channels.setdefault(match[1], []).append(str(path))
        for name, paths in channels.items():
            mask = root / "labelsTr" / f"{name}{ending}"
            masks: dict[str, np.ndarray | str] = {"mask": str(mask)} if mask.is_file() else {}
            extra = {"channels": paths} if len(paths) > 1 else {}
            entries.append(Entry(name, Case(paths[0], name, masks=masks, attributes=extra)))
    return Dataset(spec, [Entry(e.id, e.case, e.patient) for e in entries], ["image", "mask"], labels)


_READERS: dict[str, Callable[[str, Path], Dataset]] = {"folder": _folder, "pairs": _pairs, "csv": _csv, "msd": _msd}


def _reader(kind: str) -> Callable[[str, Path], Dataset]:
    if kind in _READERS:
        return _READERS[kind]
    layout = layouts()[kind].load()
    if not isinstance(layout, Layout):
        raise DataError(f"the layout {kind!r} is a {type(layout).__name__}, not a zoo.data.sets.Layout")
    return layout.read


@dataclass(frozen=True)
class _Drawn:
    """Phantoms by their seeds, the latest kept in memory; another process gets it without them."""

    draw: Callable[[int], Case]

    def __call__(self, seed: int) -> Case:
        return self._kept(seed)

    @cached_property
    def _kept(self) -> Callable[[int], Case]:
        return lru_cache(PHANTOMS_IN_MEMORY)(self.draw)

    def __getstate__(self) -> dict[str, Any]:
        return {"draw": self.draw}


def _phantoms(spec: str, stated: Spec, plugin: Any) -> Dataset:
    if not stated.name and plugin is not None and plugin.phantom:
        stated = Spec("phantom", Spec.parse(plugin.phantom).name + stated.rest)
    try:
        parsed = phantoms.parse_spec(str(stated))
    except DataError as error:
        raise OptionError(str(error)) from error
    name, draw = parsed.name, _Drawn(partial(parsed.draw, **parsed.options))
    seeds = range(parsed.seed, parsed.seed + (parsed.n or PHANTOM_CASES))
    whole = parsed.identity
    entries = [Entry(f"{name}-{s}", partial(draw, s), patient=f"{name}-{s}", drawn=f"{whole}#{s}") for s in seeds]
    return Dataset(spec, entries, ["image", "mask"])


# ---- parts of readers --------------------------------------------------------------------------------------------


_COLUMNS = ("image", "id", "mask", "label", "patient", "site", "split")


def _spelt(row: dict[str, Any], table: Path, *more: str) -> dict[str, Any]:
    """``row`` with the names of columns as they stand here: ``Patient`` and ``patient ID`` are ``patient``."""
    row = known_columns(row, [*_COLUMNS, *more, "patient_id"], table)
    if "patient_id" in row and "patient" not in row:
        row["patient"] = row.pop("patient_id")
    return {name.lower() if name.lower().startswith("mask_") else name: value for name, value in row.items()}


def _entry(row: dict[str, Any], folder: Path, table: Path, split: str | None, prefix: str) -> Entry:
    row = dict(row)
    image = row.pop("image", None)
    if not image:
        column = "file_name" if table.name.startswith("metadata.") else "image"
        raise DataError(f"a row of {table} has no {column!r}: {json.dumps(row)[:80]}")
    masks: dict[str, np.ndarray | str] = {}
    for name in [name for name in row if name == "mask" or name.startswith("mask_")]:
        masks[name.removeprefix("mask_")] = str(inside(folder, str(row.pop(name)), table))
    identity = prefix + str(row.pop("id", image))
    stated = row.pop("split", None)
    if stated is not None:
        if str(stated).lower() not in SPLITS:
            raise DataError(f"{table} has the split {stated!r}; use train, validation or test")
        split = SPLITS[str(stated).lower()]
    patient = row.get("patient")
    label = row.pop("label", None)
    path = inside(folder, str(image), table)
    case = Case(str(path), identity, masks=masks, label=label, attributes=row)
    return Entry(identity, case, None if patient is None else str(patient), split)


def _volume(image: Path, masks: Mapping[str, Any], split: str, several: bool = False) -> Entry:
    """A case of the Decathlon, or of nnU-Net's first version, whose tables name CASE for CASE_0000, CASE_0001, ..."""
    name, ending = stem_of(image), image.name[len(stem_of(image)) :]
    paths = [str(image)]
    if not image.exists():
        channels = image.parent.glob(f"{glob.escape(name)}_*{glob.escape(ending)}")
        number = re.compile(rf"{re.escape(name)}_\d{{4}}{re.escape(ending)}")
        paths = sorted(str(path) for path in channels if number.fullmatch(path.name)) or paths
    extra = {"channels": paths} if len(paths) > 1 else {}
    case = Case(paths[0], name, masks=dict(masks), attributes=extra)
    return Entry(name, partial(_first_sequence, case) if several and image.exists() else case, split=split)


def _first_sequence(case: Case) -> Case:
    """The case with the first of the volumes that its file holds, such as T2 of T2 and ADC."""
    from zoo.media.nifti import read_nifti

    return replace(case, image=read_nifti(Path(str(case.image)), 0))


def _msd_labels(labels: Mapping[str, Any]) -> tuple[str, ...]:
    """Names by value. The Decathlon writes ``{"0": "background"}``, nnU-Net ``{"background": 0}``."""
    if all(key.isdigit() for key in labels):
        return tuple(str(labels[key]) for key in sorted(labels, key=int))
    return tuple(sorted((name for name in labels if isinstance(labels[name], int)), key=lambda name: labels[name]))


def _some(names: Sequence[str]) -> str:
    """A few of ``names`` in words."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
