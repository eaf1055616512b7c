"""BTCV: abdominal CT with thirteen organs, Multi-Atlas Labeling Beyond the Cranial Vault 2015."""

from __future__ import annotations

from pathlib import Path

from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry, Layout
from zoo.errors import DataError

LABELS = (
    *("spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta"),
    *("inferior vena cava", "portal and splenic veins", "pancreas", "right adrenal gland", "left adrenal gland"),
)
"""Values 1 to 13 of the masks."""


def read(spec: str, root: Path) -> Dataset:
    """``btcv:PATH``: the abdomen part of BTCV, B. Landman et al. 2015.

    ``PATH`` holds ``Training/img/img0001.nii.gz`` and ``Training/label/label0001.nii.gz``, in any folder
    (``RawData/Training`` as unpacked). The scans of ``Testing/`` have no masks and are left out.

    Raises ``DataError`` where there is no such folder or a scan of it has no mask.
    """
    folders = sorted(path.parent for path in root.rglob("label") if path.is_dir() and (path.parent / "img").is_dir())
    entries = []
    for folder in folders:
        for image in sorted((folder / "img").glob("img*.nii*")):
            mask = folder / "label" / image.name.replace("img", "label", 1)
            if not mask.is_file():
                raise DataError(f"data {spec!r}: {image} has no mask {mask}; unpack it again")
            name = image.name.partition(".")[0]
            case = Case(str(image), name, masks={"mask": str(mask)}, attributes={"labels": LABELS})
            entries.append(Entry(name, case, patient=name))
    if not entries:
        raise DataError(f"data {spec!r}: {root} holds no Training/img/img*.nii.gz with Training/label/ beside it")
    return Dataset(spec, entries, ["image", "mask"], ("background", *LABELS))


layout = Layout(
    "BTCV abdominal CT, 13 organs (Training/img/, Training/label/)", read, licence="for research, after registration"
)
