"""PROSTATEx: axial T2 MR of the prostate with masks of gland, transition and peripheral zone."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np

from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry, Layout, read_mask
from zoo.errors import DataError

PATIENT = re.compile(r"(?i)prostatex-(\d{4})")
LISTED = re.compile(r"(?i)(prostatex-\d{4})_.*_(\d+)")  # of image_list.csv: patient, sequence, number of the series
ZONES = {"tz": 1, "pz": 2}


def read(spec: str, root: Path) -> Dataset:
    """``prostatex:PATH``: G. Litjens et al. 2014, with the masks of R. Cuocolo et al. 2021 (``PROSTATEx_masks``).

    ``PATH`` holds, in any folder, the masks ``mask_prostate/ProstateX-0000.nii.gz``,
    ``mask_tz/ProstateX-0000_tz.nii.gz`` and ``mask_pz/ProstateX-0000_pz.nii.gz``, and the images: either
    ``ProstateX-0000_t2_tse_tra_4.nii.gz``, or the DICOM folders as TCIA gives them,
    ``ProstateX-0000/STUDY/4.000000-t2tsetra-00702/``; where a patient has several of these, ``image_list.csv`` beside
    the masks says which is meant. Masks are ``gland``, ``tz``, ``pz``, and ``mask``: 1 in the transition zone, 2 in
    the peripheral zone. Patients without image or zones are left out.

    Raises ``DataError`` where there is no such pair, or the image of a patient can't be told.
    """
    masks = {kind: _by_patient(root, f"mask_{kind}") for kind in ("prostate", *ZONES)}
    numbers = _numbers(root)
    files, series = _files(root), _series(root)
    entries = []
    for patient in sorted(masks["tz"].keys() & masks["pz"].keys()):
        found = files.get(patient) or series.get(patient, {})
        if not found:
            continue
        number = numbers.get(patient)
        image = found.get(number) if number in found else next(iter(found.values())) if len(found) == 1 else None
        if image is None:
            raise DataError(
                f"data {spec!r}: {patient} has {len(found)} axial T2 series and image_list.csv names none of them; "
                "keep one"
            )
        paths = {kind: str(masks[kind][patient]) for kind in masks if patient in masks[kind]}
        entries.append(Entry(patient, partial(_case, str(image), patient, paths), patient=patient))
    if not entries:
        raise DataError(
            f"data {spec!r}: {root} holds no mask_tz/ProstateX-*_tz.nii.gz with mask_pz/ beside it and an image "
            "(ProstateX-*_t2_tse_tra_*.nii.gz or TCIA's folders)"
        )
    return Dataset(spec, entries, ["image", "mask"], ("background", "tz", "pz"))


def _case(image: str, patient: str, paths: dict[str, str]) -> Case:
    zones = {kind: read_mask(Case(image, patient, masks={kind: paths[kind]}), kind) > 0 for kind in ZONES}
    if zones["tz"].shape != zones["pz"].shape:
        raise DataError(f"the zones of {patient} differ in size; download them again")
    mask = zones["pz"].astype(np.uint8) * 2
    mask[zones["tz"]] = 1
    gland = paths.get("prostate") or (mask > 0).astype(np.uint8)
    masks: dict[str, np.ndarray | str] = {"mask": mask, "gland": gland, "tz": paths["tz"], "pz": paths["pz"]}
    return Case(image, patient, masks=masks, attributes={"patient": patient})


def _by_patient(root: Path, folder: str) -> dict[str, Path]:
    found = {}
    for path in sorted(root.rglob(f"{folder}/*.nii.gz")):
        if match := PATIENT.match(path.name):
            found[f"ProstateX-{match[1]}"] = path
    return found


def _files(root: Path) -> dict[str, dict[int, Path]]:
    """Images as NIfTI, by patient and number of the series."""
    found: dict[str, dict[int, Path]] = {}
    for path in sorted(root.rglob("*_t2_tse_tra_*.nii.gz")):
        if match := LISTED.match(path.name.removesuffix(".nii.gz")):
            found.setdefault(_named(match[1]), {})[int(match[2])] = path
    return found


def _series(root: Path) -> dict[str, dict[int, Path]]:
    """Folders of DICOM files, by patient and number; also ``4-t2tsetra-00702`` of older exports."""
    found: dict[str, dict[int, Path]] = {}
    for path in sorted(root.rglob("*t2*tra*")):
        number = re.match(r"(\d+)(?:\.0+)?-", path.name)
        patient = next((part for part in path.parts[::-1] if PATIENT.fullmatch(part)), None)
        if path.is_dir() and number and patient:
            found.setdefault(_named(patient), {})[int(number[1])] = path
    return found


def _numbers(root: Path) -> dict[str, int]:
    lists = sorted(root.rglob("image_list.csv"))
    text = "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in lists)
    return {_named(m[1]): int(m[2]) for line in text.splitlines() if (m := LISTED.match(line.strip()))}


def _named(patient: str) -> str:
    return f"ProstateX-{patient[-4:]}"


layout = Layout(
    "PROSTATEx (axial T2) with the zones of PROSTATEx_masks (mask_tz/, mask_pz/)", read, "CC BY 3.0, masks CC BY 4.0"
)
