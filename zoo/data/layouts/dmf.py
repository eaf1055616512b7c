"""Dermofit: clinical close-ups of ten kinds of lesion, with their outlines."""

from __future__ import annotations

from pathlib import Path

from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry, Layout
from zoo.data.tables import files_like
from zoo.errors import DataError

KINDS = ("AK", "BCC", "DF", "IEC", "MEL", "ML", "PYO", "SCC", "SK", "VASC")


def read(spec: str, root: Path) -> Dataset:
    """``dmf:PATH``: the Dermofit image library, L. Ballerini et al. 2013, as it is unpacked.

    ``PATH`` holds a folder for each image with ``NAME/NAME.png`` and ``NAME/NAMEmask.png``: itself, in ``images/``, or
    in folders of the ten kinds (``AK/``, ``BCC/``, ...), which are then the labels.

    Raises ``DataError`` where there is none, and for an image without its mask.
    """
    root = root / "images" if (root / "images").is_dir() else root
    entries = []
    for path in files_like(root, "**/*.png"):
        name = path.stem
        if path.parent.name != name:  # the mask, or a picture that belongs to the library itself
            continue
        mask = path.with_name(f"{name}mask.png")
        if not mask.is_file():
            raise DataError(f"data {spec!r}: {path.name} has no mask {mask}")
        kind = next((part for part in path.relative_to(root).parts if part in KINDS), None)
        entries.append(Entry(name, Case(str(path), name, masks={"mask": str(mask)}, label=kind)))
    if not entries:
        raise DataError(f"data {spec!r}: there is no NAME/NAME.png in {root}; unpack the library there")
    return Dataset(spec, entries, ["image", "mask", "label"])


layout = Layout("Dermofit (NAME/NAME.png and NAME/NAMEmask.png, by kind)", read, licence="by agreement with the owner")
