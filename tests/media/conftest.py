"""Builders of small files."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Any:
    """Nothing that a format library has to say may reach the user's terminal."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def png_header(tmp_path: Path) -> Callable[[int, int], Path]:
    """A PNG that declares a size and holds next to nothing."""

    def build(width: int, height: int) -> Path:
        def chunk(kind: bytes, body: bytes) -> bytes:
            return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        path = tmp_path / f"{width}x{height}.png"
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)))
        return path

    return build


@pytest.fixture
def dicom_file(tmp_path: Path) -> Callable[..., Path]:
    """A DICOM file of an array [h w], [frames h w] or [h w 3]; further elements by keyword."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    def build(name: str, array: np.ndarray, *, colour: bool = False, **elements: Any) -> Path:
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CTImageStorage
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
        ds.SeriesInstanceUID = elements.pop("SeriesInstanceUID", None) or generate_uid()
        ds.Modality = "CT"
        ds.SamplesPerPixel = 3 if colour else 1
        ds.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
        if colour:
            ds.PlanarConfiguration = 0
        elif array.ndim == 3:
            ds.NumberOfFrames = array.shape[0]
        ds.Rows, ds.Columns = array.shape[:2] if colour else array.shape[-2:]
        ds.BitsAllocated = ds.BitsStored = array.dtype.itemsize * 8
        ds.HighBit = ds.BitsStored - 1
        ds.PixelRepresentation = int(array.dtype.kind == "i")
        ds.PixelData = array.tobytes()
        for key, value in elements.items():
            setattr(ds, key, value)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        ds.save_as(path, enforce_file_format=True)
        return path

    return build


@pytest.fixture
def dicom_series(dicom_file: Callable[..., Path]) -> Callable[..., Path]:
    """A folder with one axial CT series of constant slices (value = slice index), file names out of order."""
    from pydicom.uid import generate_uid

    def build(folder: str, positions: list[float], **elements: Any) -> Path:
        uid = elements.pop("SeriesInstanceUID", None) or generate_uid()
        path = Path()
        for index, z in enumerate(positions):
            path = dicom_file(
                f"{folder}/{(index * 7) % 10}{index}.dcm",
                np.full((4, 6), index, np.int16),
                SeriesInstanceUID=uid,
                ImagePositionPatient=[-10, -20, z],
                ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
                PixelSpacing=[0.5, 0.75],
                RescaleSlope=2,
                RescaleIntercept=-1000,
                **elements,
            )
        return path.parent

    return build
