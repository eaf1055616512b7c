"""Skin Cancer Detection: photographs of lesions, Vision and Image Processing Lab of the University of Waterloo."""

from __future__ import annotations

from pathlib import Path

from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry, Layout
from zoo.data.tables import files_like
from zoo.errors import DataError

LABELS = ("melanoma", "notmelanoma")
SOURCES = ("dermis", "dermquest")


def read(spec: str, root: Path) -> Dataset:
    """``scd:PATH``: Waterloo's Skin Cancer Detection set, J. Glaister et al. 2014, as both parts are unpacked.

    Somewhere below ``PATH`` lie ``skin_data/LABEL/SOURCE/NAME_orig.jpg`` and ``NAME_contour.png``, where LABEL is
    ``melanoma`` or ``notmelanoma`` and SOURCE ``dermis`` or ``dermquest``.

    Raises ``DataError`` where there is none, and for a photograph without its mask.
    """
    entries = []
    for path in files_like(root, "**/*_orig.jpg"):
        label, source = path.parent.parent.name, path.parent.name
        if label not in LABELS or source not in SOURCES:
            continue
        name = path.name.removesuffix("_orig.jpg")
        mask = path.with_name(f"{name}_contour.png")
        if not mask.is_file():
            raise DataError(f"data {spec!r}: {path} has no mask {mask.name}")
        identity = f"{label}/{source}/{name}"
        case = Case(str(path), identity, masks={"mask": str(mask)}, label=label, attributes={"source": source})
        entries.append(Entry(identity, case))
    if not entries:
        raise DataError(f"data {spec!r}: there is no skin_data/melanoma/dermis/NAME_orig.jpg below {root}")
    return Dataset(spec, entries, ["image", "mask", "label", "source"])


layout = Layout(
    "Skin Cancer Detection (skin_data/LABEL/SOURCE/NAME_orig.jpg and NAME_contour.png)", read, licence="research"
)
