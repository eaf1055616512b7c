"""Four centres of prostate MR from three public sets, as the benchmark of federated unlearning joins them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from zoo.data.case import Case
from zoo.data.layouts import promise12, prostatex
from zoo.data.sets import Dataset, Entry, Layout, load_dataset, read_mask
from zoo.errors import DataError

COIL, DROPPED = "endorectal.txt", "triotim.txt"


def read(spec: str, root: Path) -> Dataset:
    """``prostate-centres:PATH``: Y. Fraboni et al. 2023, from the sets as they are unpacked.

    ``PATH`` holds, in any folders, ``Task05_Prostate/`` of the Medical Segmentation Decathlon, PROMISE12
    (``CaseNN.mhd``) and PROSTATEx with its masks. The attribute ``centre`` is C1 for the Decathlon; C2 for the cases of
    PROMISE12 with an endorectal coil and C3 for the others; C4 for PROSTATEx without the cases of the scanner TrioTim.
    The mask ``gland`` is whatever is labelled.

    No header says who had a coil: ``endorectal.txt`` in ``PATH`` names these cases (``Case04``), one a line, as
    PROMISE12's documentation tells. ``triotim.txt`` likewise names the patients of PROSTATEx that are left out. A set
    that isn't there leaves its centre out, as long as two centres remain.

    Raises ``DataError`` where fewer are there, a list is missing, or a list names what isn't there.
    """
    entries: list[Entry] = []
    for folder in sorted(path for path in root.rglob("Task05_Prostate*") if (path / "dataset.json").is_file()):
        entries += [_centred(entry, "C1") for entry in load_dataset(f"msd:{folder}").entries]
    if any(root.rglob("Case*_segmentation.mhd")):
        cases = promise12.read(spec, root).entries
        coil = _listed(spec, root, COIL, [entry.id for entry in cases], "PROMISE12's cases with an endorectal coil")
        entries += [_centred(entry, "C2" if entry.id in coil else "C3") for entry in cases]
    if any(path.is_dir() for path in root.rglob("mask_tz")):
        cases = prostatex.read(spec, root).entries
        out = _listed(spec, root, DROPPED, [entry.id for entry in cases], "PROSTATEx's patients of the scanner TrioTim")
        entries += [_centred(entry, "C4") for entry in cases if entry.id not in out]
    centres = {entry.id.partition("-")[0] for entry in entries}
    if len(centres) < 2:
        raise DataError(
            f"data {spec!r}: {root} holds {len(centres)} of the four centres; unpack Task05_Prostate, PROMISE12 and "
            "PROSTATEx with PROSTATEx_masks into it"
        )
    return Dataset(spec, entries, ["image", "gland", "centre"], ("background", "gland"))


def _listed(spec: str, root: Path, name: str, known: list[str], what: str) -> set[str]:
    path = root / name
    if not path.is_file():
        raise DataError(f"data {spec!r}: {path} is missing; it names {what}, one a line (an empty file: none)")
    lines = {line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()} - {""}
    if unknown := sorted(lines - set(known)):
        raise DataError(f"data {spec!r}: {name} names {unknown[0]}, which isn't there; names are like {known[0]}")
    return lines


def _centred(entry: Entry, centre: str) -> Entry:
    name = f"{centre}-{entry.id}"
    return replace(entry, id=name, case=partial(_case, entry, centre), patient=f"{centre}-{entry.patient or entry.id}",
                   split=None)  # fmt: skip


def _case(entry: Entry, centre: str) -> Case:
    case = entry.case if isinstance(entry.case, Case) else entry.case()
    masks = dict(case.masks)
    if "gland" not in masks:
        masks["gland"] = (read_mask(case) > 0).astype(np.uint8)
    return replace(case, id=f"{centre}-{case.id}", masks=masks, attributes={**case.attributes, "centre": centre})


layout = Layout(
    "prostate MR of four centres: Task05_Prostate, PROMISE12 with endorectal.txt, PROSTATEx with triotim.txt", read,
    "CC BY-SA 4.0; research use; CC BY 3.0",
)  # fmt: skip
