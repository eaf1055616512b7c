"""Data sets from a specification such as ``pairs:retina/`` or ``phantom:fundus?n=40&seed=7``.

==============  =====================================================================================================
``folder:PATH``  images with ``metadata.csv`` or ``metadata.jsonl`` (column ``file_name``), or one folder per class,
                 in the Hugging Face ``imagefolder`` convention; ``train/``, ``validation/``, ``test/`` are splits
``pairs:PATH``   ``images/`` and ``masks/`` whose files share their stems; may lie inside split folders
``csv:FILE``     a table with the column ``image`` and any of ``id``, ``mask``, ``mask_<name>``, ``label``,
                 ``patient``, ``site``, ``split``; further columns become attributes
``msd:PATH``     ``dataset.json`` of the Medical Segmentation Decathlon or of nnU-Net
``phantom:NAME`` procedural cases; ``n`` and ``seed`` (case i has seed + i), and the phantom's own options
``NAME:PATH``    the layout of a public set, one of ``LAYOUTS``
==============  =====================================================================================================

Nothing is read but the tables: images and masks stay paths until somebody needs them. Paths in a table are relative
to the table's folder and may not leave it, so that a downloaded set can't point at other files of its user.
"""

from __future__ import annotations

import csv
import inspect
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload
from urllib.parse import parse_qsl

from zoo.config import nearest, parse
from zoo.data.case import Case
from zoo.errors import DataError, OptionError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Integer

SPLITS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
IMAGE_SUFFIXES = (".nii.gz", ".nii", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm", ".gif", ".ppm", ".webp")
PHANTOM_CASES = 40
PHANTOMS_IN_MEMORY = 64  # the latest are kept, for making one takes longer than reading a file


@dataclass(frozen=True)
class Entry:
    """What is known of a case before it's read or made."""

    id: str
    case: Case | Callable[[], Case]
    patient: str | None = None
    split: str | None = None  # train, validation or test, where the set says so


class Dataset(Sequence[Case]):
    """A list of cases. ``spec`` says where it comes from, ``columns`` what its tables state."""

    def __init__(
        self,
        spec: str,
        entries: Iterable[Entry],
        columns: Iterable[str] = (),
        labels: Sequence[str] = (),
    ) -> None:
        self.spec = spec
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

    def subset(self, indices: Iterable[int]) -> Dataset:
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
        path = Path(name).expanduser()
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
    """How a public set lies on disk once unpacked. ``reader``: ``"module:function"``, taking spec and folder."""

    title: str
    reader: str
    licence: str = ""


LAYOUTS: dict[str, Layout] = {
    "breakhis": Layout(
        "BreaKHis histology at 400x (benign/ and malignant/ with SOB_*-400-*.png in any folders below)",
        "zoo.data.sets:_breakhis",
        licence="CC BY 4.0",
    ),
    "busi": Layout(
        "BUSI: Breast Ultrasound Images (benign/, malignant/, normal/, masks beside the images)",
        "zoo.data.ultrasound:busi",
        licence="CC BY 4.0",
    ),
    "chexpert": Layout(
        "CheXpert-v1.0-small, frontal views (train.csv, valid.csv and the folders that they name)",
        "zoo.data.sets:_chexpert",
        licence="Stanford University dataset research use agreement",
    ),
    "drive": Layout(
        "DRIVE: Digital Retinal Images for Vessel Extraction (training/ and test/, 1st_manual/, mask/)",
        "zoo.data.sets:_drive",
        licence="research use, registration with its authors",
    ),
    "ham10000": Layout(
        "HAM10000 (HAM10000_metadata.csv and the images of both parts)",
        "zoo.data.dermoscopy:ham10000",
        licence="CC BY-NC 4.0",
    ),
    "hyperkvasir": Layout(
        "HyperKvasir, labelled images (labeled-images/TRACT/CATEGORY/FINDING/*.jpg)",
        "zoo.data.endoscopy:hyperkvasir",
        licence="CC BY 4.0",
    ),
    "isic2019": Layout(
        "ISIC 2019 challenge, training part (ISIC_2019_Training_Input/ and ISIC_2019_Training_GroundTruth.csv)",
        "zoo.data.dermoscopy:isic2019",
        licence="CC BY-NC 4.0",
    ),
    "nerve": Layout(
        "Peripheral nerve ultrasound (FH/, FN/, FN+1/ to FN+4/, ulnar/, masks beside the images)",
        "zoo.data.ultrasound:nerve",
        licence="as its owner grants it",
    ),
    "pneumonia": Layout(
        "Paediatric pneumonia radiographs, Kermany et al. 2018 (train/ and test/, each NORMAL/ and PNEUMONIA/)",
        "zoo.data.sets:_pneumonia",
        licence="CC BY 4.0",
    ),
    "siim2020": Layout(
        "SIIM-ISIC 2020 melanoma classification, training part (train.csv, and jpeg/train/ or train/ with DICOM files)",
        "zoo.data.dermoscopy:siim2020",
        licence="CC BY-NC 4.0",
    ),
}


def load_dataset(spec: str, *, plugin: Any = None) -> Dataset:
    """The data set that ``spec`` names; see the head of this module for its forms.

    ``plugin`` is the model it's meant for: a phantom without a name (``phantom:``) is then the plugin's own.
    Raises ``DataError`` for a set that is missing, malformed or empty, ``OptionError`` for a wrong specification.
    """
    kind, colon, rest = spec.partition(":")
    known = [*_READERS, "phantom", *LAYOUTS]
    if not colon or kind not in known:
        raise OptionError(f"data {spec!r} must read KIND:PATH; {nearest(kind, known)}")
    if kind == "phantom":
        dataset = _phantom(spec, rest, plugin)
    else:
        if not rest:
            raise OptionError(f"data {spec!r} names no path")
        path = Path(rest).expanduser()
        if not path.exists():
            raise DataError(f"data {spec!r}: there is no {path}")
        dataset = _reader(kind)(spec, path)
    if not len(dataset):
        raise DataError(f"data {spec!r} is empty")
    return dataset


def read_mask(case: Case, name: str = "mask") -> Integer[np.ndarray, "*grid"]:
    """A mask of ``case`` as integer labels ``[h w]`` or ``[z h w]``.

    A mask stored in black and white (0 and the largest value of its type) counts as 0 and 1. Raises ``DataError``
    when there is none, or when it holds fractions or colours.
    """
    import numpy as np

    if name not in case.masks:
        raise DataError(f"case {case.id} has no mask {name!r}")
    mask = case.masks[name]
    if isinstance(mask, str) and mask.lower().endswith(".gif"):
        mask = _gif(mask)
    if isinstance(mask, str):
        from zoo import media

        image = media.read(mask)
        mask = image.array
        if mask.ndim == image.ndim_spatial + 1:
            colours = mask[..., :3]
            if not np.array_equal(colours.min(-1), colours.max(-1)):
                raise DataError(f"mask {image.source} is in colour; store label numbers")
            mask = mask[..., 0]
    if mask.dtype == bool:
        return mask.astype(np.uint8)
    if not np.issubdtype(mask.dtype, np.integer):
        whole = np.round(mask)
        if not np.array_equal(whole, mask):
            raise DataError(f"mask {name!r} of case {case.id} holds fractions; store label numbers")
        mask = whole.astype(np.int64)
    for white in (255, 65535):
        if mask.size and mask.max() == white and np.isin(mask, (0, white)).all():
            return (mask > 0).astype(np.uint8)
    return mask


def _gif(path: str) -> np.ndarray:
    """DRIVE's masks are GIF, which is no format for images of a patient and so nothing ``zoo.media`` reads."""
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path, formats=["GIF"]) as picture:
            return np.array(picture.convert("L"))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"can't read the mask {path}: {error}") from error


def inside(folder: Path, relative: str, table: Path) -> Path:
    """``relative`` as a path below ``folder``. Raises ``DataError`` if it leads out of it."""
    path = Path(os.path.normpath(folder / relative))
    if not path.is_relative_to(os.path.normpath(folder)):
        raise DataError(f"{table} names {relative!r}, which lies outside its folder; only files below it are read")
    return path


# ---- readers -----------------------------------------------------------------------------------------------------


def _folder(spec: str, root: Path) -> Dataset:
    entries: list[Entry] = []
    columns: dict[str, None] = {}
    parts: list[tuple[Path, str | None]] = [*_split_folders(root)]
    for folder, split in parts or [(root, None)]:
        table = next((folder / name for name in ("metadata.csv", "metadata.jsonl") if (folder / name).is_file()), None)
        prefix = f"{split}/" if parts else ""
        if table is not None:
            for row in table_rows(table):
                row["image"] = row.pop("file_name", "")
                for name in [name for name in row if name.endswith("_file_name")]:
                    stem = name.removesuffix("_file_name")
                    row["mask" if stem == "mask" else f"mask_{stem}"] = row.pop(name)
                columns.update(dict.fromkeys(row))
                entries.append(_entry(row, folder, table, split, prefix))
            continue
        for path in _images(folder, recursive=True):
            relative = path.relative_to(folder)
            label = relative.parts[0] if len(relative.parts) > 1 else None
            columns.update({"image": None} if label is None else {"image": None, "label": None})
            identity = prefix + relative.as_posix()
            entries.append(Entry(identity, Case(str(path), identity, label=label), split=split))
    return Dataset(spec, entries, [*columns, "split"] if parts else columns)


def _pairs(spec: str, root: Path) -> Dataset:
    entries = []
    parts: list[tuple[Path, str | None]] = [*_split_folders(root)]
    parts = [part for part in parts if (part[0] / "images").is_dir()]
    for folder, split in parts or [(root, None)]:
        for name in ("images", "masks"):
            if not (folder / name).is_dir():
                raise DataError(f"data {spec!r}: there is no folder {folder / name}; pairs need images/ and masks/")
        masks = _by_stem(folder / "masks")
        images = _by_stem(folder / "images")
        if orphans := sorted(masks.keys() - images.keys()):
            raise DataError(f"data {spec!r}: {_some(orphans)} in {folder / 'masks'} belong to no image")
        for stem, path in images.items():
            identity = f"{split}/{stem}" if split else stem
            case = Case(str(path), identity, masks={"mask": str(masks[stem])} if stem in masks else {})
            entries.append(Entry(identity, case, split=split))
    return Dataset(spec, entries, ["image", "mask", "split"] if parts else ["image", "mask"])


def _csv(spec: str, table: Path) -> Dataset:
    if not table.is_file():
        raise DataError(f"data {spec!r}: {table} is not a file")
    rows = table_rows(table)
    entries = [_entry(row, table.parent, table, None, "") for row in rows]
    return Dataset(spec, entries, rows[0] if rows else ())


def _msd(spec: str, root: Path) -> Dataset:
    table = root / "dataset.json" if root.is_dir() else root
    if not table.is_file():
        raise DataError(f"data {spec!r}: there is no {table}")
    root = table.parent
    try:
        document = json.loads(table.read_text(encoding="utf-8"))
        labels = _msd_labels(document["labels"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{table} is no Decathlon or nnU-Net description: {error!r}") from error
    entries = []
    if isinstance(document.get("training"), list):
        for item in document["training"]:
            image = inside(root, item["image"], table)
            mask = inside(root, item["label"], table)
            entries.append(_volume(image, {"mask": str(mask)}, "train"))
        for item in document.get("test", []):
            image = inside(root, item["image"] if isinstance(item, dict) else item, table)
            entries.append(_volume(image, {}, "test"))
        # The test part comes without masks, so it can't serve for evaluation.
        entries = [entry for entry in entries if entry.split == "train"] or entries
    else:  # nnU-Net: CASE_0000.nii.gz, CASE_0001.nii.gz, ... are the channels of CASE
        ending = str(document.get("file_ending", ".nii.gz"))
        channels: dict[str, list[str]] = {}
        for path in sorted((root / "imagesTr").glob(f"*{ending}")):
            if match := re.fullmatch(r"(.+)_(\d{4})", path.name.removesuffix(ending)):
                channels.setdefault(match[1], []).append(str(path))
        for name, paths in channels.items():
            mask = root / "labelsTr" / f"{name}{ending}"
            masks: dict[str, np.ndarray | str] = {"mask": str(mask)} if mask.is_file() else {}
            extra = {"channels": paths} if len(paths) > 1 else {}
            entries.append(Entry(name, Case(paths[0], name, masks=masks, attributes=extra)))
    return Dataset(spec, [Entry(e.id, e.case, e.patient) for e in entries], ["image", "mask"], labels)


def _phantom(spec: str, rest: str, plugin: Any) -> Dataset:
    from zoo.data.phantoms import PHANTOMS

    name, _, query = rest.partition("?")
    if not name and plugin is not None and plugin.phantom:
        name = plugin.phantom.removeprefix("phantom:").partition("?")[0]
    if name not in PHANTOMS:
        raise OptionError(f"there is no phantom {name!r}; {nearest(name, PHANTOMS)}")
    module, _, function = PHANTOMS[name].make.partition(":")
    make = getattr(import_module(module), function)
    options: dict[str, Any] = {}
    numbers = {"n": PHANTOM_CASES, "seed": 0}
    parameters = {k: v for k, v in inspect.signature(make).parameters.items() if k != "seed"}
    hints = inspect.get_annotations(make, eval_str=True)
    for key, text in parse_qsl(query, keep_blank_values=True):
        if key in numbers:
            if not re.fullmatch(r"\d{1,9}", text):
                raise OptionError(f"{key} of {spec!r} must be a whole number, not {text!r}")
            numbers[key] = int(text)
        elif key in parameters:
            options[key] = parse(text, hints.get(key, str), key)
        else:
            raise OptionError(f"the phantom {name!r} has no option {key!r}; {nearest(key, [*numbers, *parameters])}")

    make_cached = lru_cache(PHANTOMS_IN_MEMORY)(partial(make, **options))
    entries = [
        Entry(f"{name}-{seed}", partial(make_cached, seed), patient=f"{name}-{seed}")
        for seed in range(numbers["seed"], numbers["seed"] + numbers["n"])
    ]
    return Dataset(spec, entries, ["image", "mask"])


def _drive(spec: str, root: Path) -> Dataset:
    entries = []
    for part in ("training", "test"):
        manual = {path.name[:2]: path for path in _images(root / part / "1st_manual")}
        views = {path.name[:2]: path for path in _images(root / part / "mask")}
        for path in _images(root / part / "images"):
            number = path.name[:2]
            masks: dict[str, np.ndarray | str] = {}
            if number in manual:
                masks["mask"] = str(manual[number])
            if number in views:
                masks["fov"] = str(views[number])
            entries.append(Entry(number, Case(str(path), number, masks=masks), split=SPLITS[part]))
    return Dataset(spec, entries, ["image", "mask", "split"])


def _pneumonia(spec: str, root: Path) -> Dataset:
    """Finding and patient are in the paths: ``train/PNEUMONIA/person23_bacteria_78.jpeg``, ``IM-0115-0001.jpeg``.

    Patients are numbered anew in each split and finding, so that equal numbers there are different patients.
    """
    if (root / "chest_xray" / "train").is_dir():  # the archive's outer folder
        root = root / "chest_xray"
    parts = _split_folders(root)
    if "train" not in [split for _, split in parts]:
        raise DataError(f"data {spec!r}: there is no folder {root / 'train'}; give the folder with train/ and test/")
    entries: list[Entry] = []
    for folder, split in parts:
        for finding in ("NORMAL", "PNEUMONIA"):
            if not (folder / finding).is_dir():
                raise DataError(f"data {spec!r}: there is no folder {folder / finding}")
            for path in _images(folder / finding):
                if match := re.match(r"(?i)(person\d+)_(bacteria|virus)_", path.name):
                    label, person = {"bacteria": "bacterial", "virus": "viral"}[match[2].lower()], match[1]
                elif finding == "NORMAL":
                    label, person = "normal", re.sub(r"(IM-\d+)-.*", r"\1", path.stem)
                else:
                    raise DataError(
                        f"{path} doesn't say whether the pneumonia is bacterial or viral; its name must read like "
                        "person1_bacteria_2.jpeg or person1_virus_2.jpeg"
                    )
                case = Case(str(path), path.relative_to(root).as_posix(), label=label)
                entries.append(Entry(case.id, case, f"{split} {label} {person}", split))
    return Dataset(spec, entries, ["image", "label", "patient", "split"])


def _breakhis(spec: str, root: Path) -> Dataset:
    """Diagnosis, patient and magnification are in the names: ``SOB_M_DC-14-2523-400-001.png``. 400x alone is read."""
    entries: list[Entry] = []
    for path in _images(root, recursive=True):
        match = re.match(r"SOB_([BM])_[A-Z]+-(\d+-[0-9A-Z]+)-400-", path.name)
        if match is None:
            continue
        label = {"B": "benign", "M": "malignant"}[match[1]]
        entries.append(Entry(path.stem, Case(str(path), path.stem, label=label), f"{match[1]} {match[2]}"))
    if not entries:
        raise DataError(f"data {spec!r}: there is no image SOB_*-400-*.png below {root}; unpack BreaKHis there")
    return Dataset(spec, entries, ["image", "label", "patient"])


def _chexpert(spec: str, root: Path) -> Dataset:
    """Labels joined by ``|``; uncertain ones (-1) count as absent, and lateral views are left out.

    The column ``Path`` begins with the archive's own folder, whatever it's called here.
    """
    entries: list[Entry] = []
    for name, split in (("train.csv", "train"), ("valid.csv", "test")):
        table = root / name
        if not table.is_file():
            raise DataError(f"data {spec!r}: there is no {table}; give the folder of CheXpert-v1.0-small")
        for row in table_rows(table):
            stated = str(row.get("Path", ""))
            if "frontal" not in stated:
                continue
            path = inside(root, stated.partition("/")[2], table)
            patient = re.search(r"patient\d+", stated)
            about = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", "No Finding")
            found = [key for key, value in row.items() if key not in about and value in ("1.0", "1")]
            label = "|".join(found) or "No Finding"
            case = Case(str(path), path.relative_to(root).with_suffix("").as_posix(), label=label)
            entries.append(Entry(case.id, case, None if patient is None else patient[0], split))
    return Dataset(spec, entries, ["image", "label", "patient", "split"])


_READERS: dict[str, Callable[[str, Path], Dataset]] = {"folder": _folder, "pairs": _pairs, "csv": _csv, "msd": _msd}


def _reader(kind: str) -> Callable[[str, Path], Dataset]:
    if kind in _READERS:
        return _READERS[kind]
    module, _, function = LAYOUTS[kind].reader.partition(":")
    return getattr(import_module(module), function)


# ---- parts of readers --------------------------------------------------------------------------------------------


def table_rows(table: Path) -> list[dict[str, Any]]:
    """The rows of a CSV, TSV or JSON-lines table; empty cells are left out.

    Raises ``DataError`` for a file that is no such table.
    """
    try:
        if table.suffix == ".jsonl":
            lines = table.read_text(encoding="utf-8").splitlines()
            rows = [json.loads(line) for line in lines if line.strip()]
        else:
            with open(table, newline="", encoding="utf-8-sig") as file:
                rows = list(csv.DictReader(file, delimiter="\t" if table.suffix == ".tsv" else ",", strict=True))
    except (ValueError, csv.Error) as error:
        raise DataError(f"{table} can't be read as a table: {error}") from error
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or None in row:
            raise DataError(f"row {number} of {table} doesn't fit its columns")
    return [{name: value for name, value in row.items() if value not in (None, "")} for row in rows]


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


def _volume(image: Path, masks: Mapping[str, Any], split: str) -> Entry:
    name = _stem(image)
    return Entry(name, Case(str(image), name, masks=dict(masks)), split=split)


def _msd_labels(labels: Mapping[str, Any]) -> tuple[str, ...]:
    """Names by value. The Decathlon writes ``{"0": "background"}``, nnU-Net ``{"background": 0}``."""
    if all(key.isdigit() for key in labels):
        return tuple(str(labels[key]) for key in sorted(labels, key=int))
    return tuple(sorted((name for name in labels if isinstance(labels[name], int)), key=lambda name: labels[name]))


def _split_folders(root: Path) -> list[tuple[Path, str]]:
    if not root.is_dir():
        raise DataError(f"{root} is not a folder")
    return [(path, SPLITS[path.name.lower()]) for path in sorted(root.iterdir())
            if path.is_dir() and path.name.lower() in SPLITS]  # fmt: skip


def _images(folder: Path, recursive: bool = False) -> list[Path]:
    if not folder.is_dir():
        return []
    paths = folder.rglob("*") if recursive else folder.iterdir()
    return sorted(path for path in paths if path.name.lower().endswith(IMAGE_SUFFIXES) and path.is_file())


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in _images(folder):
        if _stem(path) in found:
            raise DataError(f"{folder} has two files with the stem {_stem(path)!r}")
        found[_stem(path)] = path
    return found


def _stem(path: Path) -> str:
    return path.name[: -len(".nii.gz")] if path.name.endswith(".nii.gz") else path.stem


def _some(names: Sequence[str]) -> str:
    """A few of ``names`` in words."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
