"""KiTS19: abdominal CT of kidneys and their tumours."""

from __future__ import annotations

from pathlib import Path

from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry, Layout
from zoo.errors import DataError

LABELS = ("kidney", "kidney tumour")
"""Values 1 and 2 of the masks."""


def read(spec: str, root: Path) -> Dataset:
    """``kits:PATH``: KiTS19, N. Heller et al. 2019.

    ``PATH`` holds ``case_00000/imaging.nii.gz`` and ``segmentation.nii.gz`` beside it, in any folder (``data/`` as
    unpacked). The cases of the test (from 210 on) come without a segmentation and are left out.

    Raises ``DataError`` where there is no such pair, or a segmentation without its image.
    """
    entries = []
    for mask in sorted(root.rglob("case_*/segmentation.nii*")):
        image = next(iter(sorted(mask.parent.glob("imaging.nii*"))), None)
        if image is None:
            raise DataError(f"data {spec!r}: {mask.parent} has no imaging.nii.gz; KiTS19 loads the images separately")
        name = mask.parent.name
        case = Case(str(image), name, masks={"mask": str(mask)}, attributes={"labels": LABELS})
        entries.append(Entry(name, case, patient=name))
    if not entries:
        raise DataError(f"data {spec!r}: {root} holds no case_NNNNN/imaging.nii.gz with segmentation.nii.gz beside it")
    return Dataset(spec, entries, ["image", "mask"], ("background", *LABELS))


layout = Layout("KiTS19 (case_NNNNN/imaging.nii.gz, segmentation.nii.gz)", read, licence="CC BY-NC-SA 4.0")
