"""MSSEG-16: FLAIR of patients with multiple sclerosis from four scanners, with a consensus of seven experts."""

from __future__ import annotations

import re
from pathlib import Path

from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry, Layout
from zoo.errors import DataError

FLAIR, CONSENSUS = "FLAIR_preprocessed.nii.gz", "Consensus.nii.gz"
CENTRE = re.compile(r"Center_\d\d")


def read(spec: str, root: Path) -> Dataset:
    """``msseg2016:PATH``: O. Commowick et al. 2021, as unpacked.

    ``PATH`` holds, in any folders, ``Center_01/Patient_01/`` with ``Masks/Consensus.nii.gz`` and
    ``Preprocessed_Data/FLAIR_preprocessed.nii.gz``, whose skull is stripped. The attribute ``site`` is the centre,
    which is a scanner. A patient without a consensus has no mask: trainings with unlabelled cases can use it. The
    challenge's own parts are no splits here: patients of one scanner are in either of them.

    Raises ``DataError`` where there is no such patient.
    """
    entries, labelled = [], 0
    for image in sorted(root.rglob(f"Preprocessed_Data/{FLAIR}")):
        patient = image.parent.parent
        if not CENTRE.fullmatch(patient.parent.name):
            continue
        site, part = patient.parent.name, patient.parent.parent
        name = f"{site}/{patient.name}"
        if part.name.casefold() in ("training", "testing"):  # in which patients have the same numbers
            name = f"{part.name}/{name}"
        consensus = patient / "Masks" / CONSENSUS
        masks = {"mask": str(consensus)} if consensus.is_file() else {}
        labelled += bool(masks)
        case = Case(str(image), name, masks={**masks}, attributes={"site": site})
        entries.append(Entry(name, case, patient=name))
    if not entries:
        raise DataError(f"data {spec!r}: {root} holds no Center_NN/PATIENT/Preprocessed_Data/{FLAIR}")
    if not labelled:
        raise DataError(f"data {spec!r}: none of the {len(entries)} patients in {root} has Masks/{CONSENSUS}")
    return Dataset(spec, entries, ["image", "mask", "site"], ("background", "lesion"))


layout = Layout("MSSEG-16 (Center_01/Patient_01/ with Preprocessed_Data and Masks)", read, "research use, on request")
