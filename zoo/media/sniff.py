"""What a file is, by its first bytes; its suffix is only used to explain."""

from __future__ import annotations

import gzip
import os
import re
import stat
import zlib
from pathlib import Path

from zoo.media.files import refusal

FORMATS = "PNG, JPEG, TIFF, BMP, GIF, WebP, PPM, DICOM, NIfTI, NRRD or MetaImage"

SUFFIXES = {
    **dict.fromkeys((".png",), "png"),
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "jpeg"),
    **dict.fromkeys((".tif", ".tiff"), "tiff"),
    **dict.fromkeys((".bmp", ".dib"), "bmp"),
    **dict.fromkeys((".gif",), "gif"),
    **dict.fromkeys((".webp",), "webp"),
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm"), "ppm"),
    **dict.fromkeys((".dcm", ".dicom", ".ima"), "dicom"),
    **dict.fromkeys((".nii", ".nii.gz"), "nifti"),
    **dict.fromkeys((".nrrd", ".nhdr"), "nrrd"),
    **dict.fromkeys((".mha", ".mhd"), "metaimage"),
}

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),
    (b"MM\0+", "tiff"),
    (b"BM", "bmp"),
    (b"GIF8", "gif"),
    (b"NRRD0", "nrrd"),
)
_FOREIGN = (
    (b"RIFF", "a RIFF file (sound or video)"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x93NUMPY", "a NumPy array (load it and pass the array)"),
    (b"\x89HDF", "an HDF5 file"),
    (b"<svg", "an SVG drawing"),
)
HEAD = 544  # bytes that hold the magic of every format and a whole NIfTI-2 header


_NEVER = ("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "$recycle.bin")


def is_litter(path: str | os.PathLike[str]) -> bool:
    """Whether a name is what systems leave in folders, and never data: hidden, ``Thumbs.db``, ``__MACOSX``, ..."""
    return any(part.startswith(".") or part.lower() in _NEVER for part in Path(path).parts)


def suffix(path: str | os.PathLike[str]) -> str:
    """The suffix in small letters; ``.nii.gz`` counts as one."""
    name = Path(path).name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def head(path: Path) -> tuple[bytes, bool]:
    """The first ``HEAD`` bytes of a regular file, unpacked when it is gzipped, and whether it is.

    Raises ``MediaError`` when the file is missing, no regular file, not readable, empty, or broken gzip.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise refusal(path, "there is no such file", "check the path") from None
    except (OSError, ValueError) as error:
        raise refusal(path, getattr(error, "strerror", None) or str(error), "check the path") from error
    if not stat.S_ISREG(mode):
        raise refusal(path, "it is neither a file nor a folder", f"give a {FORMATS} file")
    try:
        with open(path, "rb") as file:
            first = file.read(HEAD)
    except OSError as error:
        raise refusal(path, error.strerror or "it can't be opened", "check its permissions") from error
    if not first:
        raise refusal(path, "the file is empty (0 bytes)", "copy or export it again")
    if not first.startswith(b"\x1f\x8b"):
        return first, False
    try:
        with gzip.open(path, "rb") as packed:
            return packed.read(HEAD), True
    except (OSError, EOFError, zlib.error) as error:
        raise refusal(path, "its gzip data is truncated or damaged", "copy or export it again") from error


def identify(path: Path) -> str:
    """``png``, ``jpeg``, ``tiff``, ``bmp``, ``gif``, ``webp``, ``ppm``, ``dicom``, ``nifti``, ``nrrd`` or
    ``metaimage``.

    Raises ``MediaError`` for any other content, naming what it looks like and what the suffix promised.
    """
    first, packed = head(path)
    found = _format(first, path)
    if packed and found != "nifti":
        raise refusal(path, "it is a gzip archive of something that is not NIfTI", "unpack it first")
    if found is not None:
        return found
    looks = _looks_like(first)
    promised = SUFFIXES.get(suffix(path))
    if promised is None:
        raise refusal(path, f"it holds {looks}", f"give a {FORMATS} file")
    raise refusal(path, f"it is named {suffix(path)} but holds {looks}", f"give a {FORMATS} file")


def is_image(path: Path) -> bool:
    """Whether a file of a folder is meant as an image: by a known suffix, or by its content."""
    if is_litter(path.name):
        return False
    if suffix(path) in SUFFIXES:
        return True
    try:
        with open(path, "rb") as file:
            return _format(file.read(HEAD), path) is not None
    except OSError:
        return False


def _format(first: bytes, path: Path) -> str | None:
    # DICOM first: its free preamble may hold a TIFF header, for files that are both.
    if first[128:132] == b"DICM":
        return "dicom"
    for magic, name in _MAGIC:
        if first.startswith(magic):
            return name
    if first[:4] == b"RIFF" and first[8:12] == b"WEBP":
        return "webp"
    if re.match(rb"P[1-6]\s+(#|\d)", first):
        return "ppm"
    if re.match(rb"(ObjectType|ObjectSubType|NDims|Comment)\s*=", first, re.IGNORECASE) and b"NDims" in first:
        return "metaimage"
    # Files older than DICOM part 10 start with their first element, of group 0002 or 0008.
    if SUFFIXES.get(suffix(path)) == "dicom" and first[:2] in (b"\x02\0", b"\x08\0", b"\0\x08", b"\0\x02"):
        return "dicom"
    if _has_nifti_size(first):
        return "nifti"
    return None


def _has_nifti_size(first: bytes) -> bool:
    return first[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c", b"\x1c\x02\0\0", b"\0\0\x02\x1c")


def _looks_like(first: bytes) -> str:
    for magic, name in _FOREIGN:
        if first.startswith(magic):
            return name
    try:
        text = first.decode("utf-8")
    except UnicodeDecodeError as error:
        # A character that the end of the sample cut in two is still text.
        text = first[: error.start].decode("utf-8") if error.start >= len(first) - 3 and len(first) > 3 else "\0"
    return "plain text" if text and all(c.isprintable() or c in "\r\n\t\f" for c in text) else "data of an unknown kind"
