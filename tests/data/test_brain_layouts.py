"""MSSEG-16 as it unpacks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from zoo.data.phantoms.flair import flair
from zoo.data.sets import load_dataset, read_mask
from zoo.errors import DataError
from zoo.media import write_image, write_mask


def _patient(folder: Path, seed: int, consensus: bool = True) -> np.ndarray:
    case = flair(seed, size=32, slices=24)
    for name in ("Preprocessed_Data", "Masks", "Raw_Data"):
        (folder / name).mkdir(parents=True)
    for name in ("Preprocessed_Data/FLAIR_preprocessed", "Preprocessed_Data/T1_preprocessed", "Raw_Data/FLAIR"):
        write_image(folder / name, case.image.array, case.image)
    mask = np.asarray(case.masks["mask"])
    for name in ("ManualSegmentation_1", *(["Consensus"] if consensus else [])):
        write_mask(folder / "Masks" / name, mask, case.image)
    return mask


def test_msseg2016(tmp_path: Path) -> None:
    root = tmp_path / "MSSEG"
    first = _patient(root / "Training" / "Center_01" / "Patient_01", 0)
    _patient(root / "Testing" / "Center_01" / "Patient_01", 1)
    _patient(root / "Testing" / "Center_03" / "Patient_02", 2, consensus=False)
    found = load_dataset(f"msseg2016:{root}")
    assert found.ids == [
        "Testing/Center_01/Patient_01",
        "Testing/Center_03/Patient_02",
        "Training/Center_01/Patient_01",
    ]
    assert found.values("site") == ["Center_01", "Center_03", "Center_01"]
    assert [bool(case.masks) for case in found] == [True, False, True]  # unlabelled, as trainings can use it
    assert np.array_equal(read_mask(found[2]) > 0, first > 0)
    assert found[0].image.endswith("FLAIR_preprocessed.nii.gz")
    assert all(entry.split is None and entry.patient == entry.id for entry in found.entries)


def test_msseg2016_without_patients_or_consensus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no Center_NN/PATIENT"):
        load_dataset(f"msseg2016:{tmp_path}")
    _patient(tmp_path / "Training" / "Center_07" / "Patient_01", 0, consensus=False)
    with pytest.raises(DataError, match=r"none of the 1 patients .* has Masks/Consensus.nii.gz"):
        load_dataset(f"msseg2016:{tmp_path}")
