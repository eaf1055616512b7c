"""PH2: dermoscopic images of the Hospital Pedro Hispano."""

from __future__ import annotations

from pathlib import Path

from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry, Layout
from zoo.data.tables import files_like
from zoo.errors import DataError


def read(spec: str, root: Path) -> Dataset:
    """``ph2:PATH``: PH2, T. Mendonça et al. 2013, as it is unpacked.

    ``PATH`` holds (itself, or in ``PH2Dataset/`` or ``PH2Dataset/PH2_Dataset_images/``) a folder for each image:
    ``IMD003/IMD003_Dermoscopic_Image/IMD003.bmp`` and ``IMD003/IMD003_lesion/IMD003_lesion.bmp``.

    Raises ``DataError`` where there is none, and for an image without its mask.
    """
    for inner in ("PH2Dataset", "PH2 Dataset", "PH2_Dataset_images", "PH2 Dataset images"):
        root = root / inner if (root / inner).is_dir() else root
    images = files_like(root, "IMD*/IMD*_Dermoscopic_Image/IMD*.bmp")
    if not images:
        raise DataError(f"data {spec!r}: there is no IMD003/IMD003_Dermoscopic_Image/ ... in {root}; unpack PH2 there")
    entries = []
    for path in images:
        name = path.stem
        mask = path.parents[1] / f"{name}_lesion" / f"{name}_lesion.bmp"
        if not mask.is_file():
            raise DataError(f"data {spec!r}: {path.name} has no mask {mask}")
        entries.append(Entry(name, Case(str(path), name, masks={"mask": str(mask)})))
    return Dataset(spec, entries, ["image", "mask"])


layout = Layout("PH2 (IMD003/IMD003_Dermoscopic_Image/ and IMD003_lesion/, ...)", read, licence="research and teaching")
