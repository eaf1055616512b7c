"""A zip of a DICOM series is one volume, with a mask on its grid."""

from __future__ import annotations

import importlib
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.serve.toy import CARD, NETWORK
from zoo import media

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("nibabel")


def series(folder: Path, count: int, uid: str) -> None:
    """Slices of 2 mm, written in another order than they lie."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder.mkdir(parents=True, exist_ok=True)
    for number in reversed(range(count)):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CTImageStorage
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
        ds.SeriesInstanceUID, ds.Modality, ds.SeriesDescription = uid, "CT", f"series {uid}"
        ds.StudyInstanceUID, ds.FrameOfReferenceUID, ds.StudyID, ds.AccessionNumber = "1.2.5", "1.2.6", "S", "A"
        ds.StudyDate, ds.StudyTime, ds.PatientName, ds.PatientBirthDate = "20200101", "101010", "A^B", "19700101"
        ds.PatientSex, ds.ReferringPhysicianName, ds.SeriesNumber, ds.InstanceNumber = "O", "", 1, number + 1
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 20, 16, 16, 15
        ds.PixelRepresentation, ds.RescaleSlope, ds.RescaleIntercept = 0, 1, -1000
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 2.0 * number], [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, ds.SliceThickness, ds.PatientID = [1.5, 1.5], 2.0, "P1"
        ds.PixelData = (np.arange(320).reshape(16, 20) * 5 + number).astype(np.uint16).tobytes()
        ds.save_as(folder / f"{uid}-{count - number:03d}.dcm", enforce_file_format=True)


def packed(folder: Path) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for path in folder.rglob("*.dcm"):
            archive.write(path, path.relative_to(folder))
    return stream.getvalue()


@pytest.fixture
def toy(install_plugin: Any) -> None:
    """The small model, for volumes."""
    card = CARD.replace('"image", "image"', '"image", "volume"').replace("toy_network", "toy_volume_network")
    site = install_plugin("toy-zoo", card, module="toy_served")
    (site / "toy_volume_network.py").write_text(NETWORK.replace("one.grey()", "one.unit()"))
    importlib.invalidate_caches()


def test_a_zip_of_a_series_is_one_volume(serving: Any, tmp_path: Path) -> None:
    series(tmp_path / "ct" / "patient" / "study", 5, "1.2.3")
    with serving() as client:
        ask = {"url": "/models/toy-model/predict", "files": {"image": ("scan.zip", packed(tmp_path / "ct"))}}
        answer = client.post(**ask)
        assert answer.status_code == 200, answer.text
        (record,) = answer.json()["results"]
        assert record["source"] == "scan/patient/study"
        assert record["shape"] == [5, 16, 20]
        assert record["spacing_mm"] == [2.0, 1.5, 1.5]
        mask = client.post(**ask, params={"format": "nifti"})
        assert 'filename="study_mask.nii.gz"' in mask.headers["content-disposition"]
        (tmp_path / "mask.nii.gz").write_bytes(mask.content)
        found = media.read(str(tmp_path / "mask.nii.gz"))
        whole = media.read(str(tmp_path / "ct" / "patient" / "study"))
        assert np.allclose(np.abs(found.affine), np.abs(whole.affine))


def test_two_series_in_a_zip_are_refused(serving: Any, tmp_path: Path) -> None:
    for uid in ("1.2.3", "1.2.4"):
        series(tmp_path / "ct", 3, uid)
    with serving() as client:
        answer = client.post("/models/toy-model/predict", files={"image": ("ct.zip", packed(tmp_path / "ct"))})
        assert answer.status_code == 422
        with pytest.raises(media.MediaError) as refused:
            media.expand([str(tmp_path / "ct")])
        assert answer.json()["detail"] == str(refused.value).replace(f"{tmp_path}/", "")


def test_results_come_back_as_dicom(serving: Any, tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    series(tmp_path / "ct", 5, "1.2.3")
    with serving() as client:
        ask = {"url": "/models/toy-model/predict", "files": {"image": ("scan.zip", packed(tmp_path / "ct"))}}
        for params in ({"format": "dicom-seg"}, {"format": "mask"}):  # asked for, and as the input's own form
            answer = client.post(**ask, params=params)
            assert answer.headers["content-type"] == "application/dicom", answer.text
            found = pydicom.dcmread(io.BytesIO(answer.content))
            assert found.Modality == "SEG"
            assert found.PatientID == "P1"
        report = client.post(**ask, params={"format": "dicom-sr"})
        assert pydicom.dcmread(io.BytesIO(report.content)).Modality == "SR"
        packed_all = client.post(**ask, params={"format": "zip", "form": "nifti"})
        with zipfile.ZipFile(io.BytesIO(packed_all.content)) as archive:
            assert any(name.endswith("_mask.nii.gz") for name in archive.namelist())
        refused = client.post(**ask, params={"format": "zip", "form": "hologram"})
        assert refused.status_code == 422
        assert "form must be one of auto," in refused.json()["detail"]
