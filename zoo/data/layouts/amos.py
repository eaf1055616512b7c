"""AMOS22: abdominal CT (and MR) with fifteen organs."""

from __future__ import annotations

import re
from pathlib import Path

from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry, Layout
from zoo.errors import DataError

LABELS = (
    *("spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta"),
    *("inferior vena cava", "pancreas", "right adrenal gland", "left adrenal gland", "duodenum", "bladder"),
    "prostate or uterus",
)
"""Values 1 to 15 of the masks. A tumour of an organ is of the organ."""
LAST_CT = 500  # higher numbers are MR
PARTS = {"Tr": "train", "Va": "validation"}


def read(spec: str, root: Path) -> Dataset:
    """``amos:PATH``: the labelled CT of AMOS22, Y. Ji et al. 2022.

    ``PATH`` holds ``imagesTr/amos_0001.nii.gz``, ``labelsTr/amos_0001.nii.gz`` and the same with ``Va``, in any folder
    (``amos22/`` as unpacked). MR (numbers above 500) and the test without masks are left out.

    Raises ``DataError`` where there is no such pair or a CT of these parts has no mask.
    """
    entries = []
    for part, split in PARTS.items():
        for image in sorted(root.rglob(f"images{part}/amos_*.nii*")):
            number = re.fullmatch(r"amos_(\d+)\.nii(\.gz)?", image.name)
            if number is None or int(number[1]) > LAST_CT:
                continue
            mask = image.parent.parent / f"labels{part}" / image.name
            if not mask.is_file():
                raise DataError(f"data {spec!r}: {image} has no mask {mask}; unpack it again")
            name = image.name.partition(".")[0]
            case = Case(str(image), name, masks={"mask": str(mask)}, attributes={"labels": LABELS})
            entries.append(Entry(name, case, patient=name, split=split))
    if not entries:
        raise DataError(f"data {spec!r}: {root} holds no imagesTr/amos_NNNN.nii.gz of a CT with labelsTr/ beside it")
    return Dataset(spec, entries, ["image", "mask", "split"], ("background", *LABELS))


layout = Layout("AMOS22 abdominal CT, 15 organs (imagesTr/, labelsTr/)", read, licence="CC BY 4.0")
