"""Damaged files of every kind that is read, and of some that are not: what disks, mails and attackers leave of them."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 48


@dataclass(frozen=True)
class Kind:
    """A sound file. ``checked``: its format holds a checksum of the pixels, so that a result must be of these."""

    name: str
    suffix: str
    content: bytes
    checked: bool = False


def picture() -> np.ndarray:
    """Something with structure, ``[h w 3]`` uint8."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    waves = [np.sin(9 * x + 3 * y), np.sin(7 * y - 2 * x), np.sin(12 * x * y)]
    noise = np.random.default_rng(0).normal(0, 8, (SIDE, SIDE, 3))
    return np.clip(120 + 70 * np.stack(waves, -1) + noise, 0, 255).astype(np.uint8)


def kinds(folder: Path) -> list[Kind]:
    """Sound files of every kind; ``folder`` is for libraries that write to a path alone."""
    colour = picture()
    grey = colour[..., 1]
    deep = grey.astype(np.uint16) * 250
    with_palette = Image.fromarray(colour).quantize(64)
    found = [
        Kind("rgb", ".png", _pillow(colour, "png"), True),
        Kind("grey", ".png", _pillow(grey, "png"), True),
        Kind("deep", ".png", _pillow(deep, "png"), True),
        Kind("palette", ".png", _saved(with_palette, "png"), True),
        Kind("photo", ".jpg", _pillow(colour, "jpeg", quality=90)),
        Kind("progressive", ".jpg", _pillow(colour, "jpeg", progressive=True)),
        Kind("plain", ".tif", _pillow(colour, "tiff")),
        Kind("lzw", ".tif", _pillow(colour, "tiff", compression="tiff_lzw")),
        Kind("packed", ".tif", _pillow(grey, "tiff", compression="packbits")),
        Kind("deflated", ".tiff", _pillow(colour, "tiff", compression="tiff_adobe_deflate"), True),
        Kind("still", ".gif", _saved(with_palette, "gif")),
        Kind("flat", ".bmp", _pillow(colour, "bmp")),
        Kind("web", ".webp", _pillow(colour, "webp", lossless=True)),
        Kind("text", ".ppm", _pillow(colour, "ppm")),
        Kind("array", ".npy", _array(grey)),
        Kind("table", ".csv", b"image,patient\na.png,p1\nb.png,p2\n"),
        Kind("drawing", ".svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    ]
    return found + _dicom(folder, grey) + _nifti(folder, grey)


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """``content`` with one kind of damage, drawn at random."""
    return _DAMAGE[rng.integers(len(_DAMAGE))](content, rng) if content else content


def _flip(content: bytes, rng: np.random.Generator, first: int = 0) -> bytes:
    changed = bytearray(content)
    for bit in rng.integers(8 * first, 8 * len(content), rng.integers(1, 9)):
        changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def _span(content: bytes, rng: np.random.Generator) -> tuple[int, int]:
    start = int(rng.integers(len(content)))
    return start, min(len(content), start + int(rng.integers(1, 65)))


def _overwrite(content: bytes, rng: np.random.Generator) -> bytes:
    start, end = _span(content, rng)
    filler = (bytes(end - start), b"\xff" * (end - start), rng.bytes(end - start))[rng.integers(3)]
    return content[:start] + filler + content[end:]


def _remove(content: bytes, rng: np.random.Generator) -> bytes:
    start, end = _span(content, rng)
    return content[:start] + content[end:]


def _insert(content: bytes, rng: np.random.Generator) -> bytes:
    start, end = _span(content, rng)
    return content[:start] + rng.bytes(end - start) + content[start:]


def _extreme(content: bytes, rng: np.random.Generator) -> bytes:
    """A number in the header becomes the largest, a negative one, or zero."""
    start = int(rng.integers(min(len(content), 600)))
    value = (b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x7f\xff\xff\xff", b"\0\0\0\x80", bytes(4))[rng.integers(5)]
    return content[:start] + value + content[start + 4 :]


def _cut(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: rng.integers(len(content))]


def _repeat(content: bytes, rng: np.random.Generator) -> bytes:
    start, end = _span(content, rng)
    return content[:end] + content[start:end] * int(rng.integers(1, 2000)) + content[end:]


_DAMAGE: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (
    _flip, _flip, _flip, _overwrite, _remove, _insert, _extreme, _extreme, _cut, _repeat,
)  # fmt: skip


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _pillow(array: np.ndarray, kind: str, **options: object) -> bytes:
    return _saved(Image.fromarray(array), kind, **options)


def _array(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def _dicom(folder: Path, grey: np.ndarray) -> list[Kind]:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import (
        DeflatedExplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        JPEG2000Lossless,
        JPEGBaseline8Bit,
        JPEGLSLossless,
        RLELossless,
        SecondaryCaptureImageStorage,
    )

    found = []
    for name, syntax in (
        ("explicit", ExplicitVRLittleEndian), ("implicit", ImplicitVRLittleEndian),
        ("deflated", DeflatedExplicitVRLittleEndian), ("rle", RLELossless), ("baseline", JPEGBaseline8Bit),
        ("jpeg-ls", JPEGLSLossless), ("jpeg-2000", JPEG2000Lossless),
    ):  # fmt: skip
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        packed = syntax.is_encapsulated
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if packed else syntax
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = SecondaryCaptureImageStorage
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = "1.2.3.4"
        ds.Modality, ds.WindowCenter, ds.WindowWidth, ds.RescaleSlope, ds.RescaleIntercept = "OT", 128, 256, 1, 0
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
        ds.Rows, ds.Columns = grey.shape
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
        ds.PixelData = grey.tobytes()
        if name == "baseline":
            ds.file_meta.TransferSyntaxUID = syntax
            ds.PixelData = encapsulate([_pillow(grey, "jpeg", quality=90)])
            ds["PixelData"].is_undefined_length = True
        elif packed:
            ds.compress(syntax)
        path = folder / f"{name}.dcm"
        ds.save_as(path, enforce_file_format=True)
        found.append(Kind(name, ".dcm", path.read_bytes()))
        path.unlink()
    return found


def _nifti(folder: Path, grey: np.ndarray) -> list[Kind]:
    import nibabel

    found = []
    for suffix in (".nii", ".nii.gz"):
        path = folder / f"slice{suffix}"
        nibabel.save(nibabel.Nifti1Image(grey.T[..., None].copy(), np.eye(4)), path)
        found.append(Kind("slice", suffix, path.read_bytes(), suffix == ".nii.gz"))
        path.unlink()
    return found
