"""DICOM files whose data set is deflated: unpacked no further than its header says, whatever it unpacks to."""

from __future__ import annotations

import io
import math
import zlib
from pathlib import Path
from typing import Any

from zoo.media import limits
from zoo.media.files import refusal

SYNTAX = "1.2.840.10008.1.2.1.99"
_HEADER = 2**22  # bytes in which the elements before the pixels must come
_ROOM = 2**20  # for what stands beside the pixels
_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_BLOCK = 2**20


def read_deflated(path: Path, header_only: bool = False) -> Any:
    """The data set of a deflated file, without its pixels where only the header is asked for.

    Raises ``MediaError`` for one that unpacks to more than its header says, and what pydicom and zlib raise.
    """
    from pydicom.dataset import FileDataset
    from pydicom.filereader import read_dataset, read_file_meta_info

    meta = read_file_meta_info(path)
    with open(path, "rb") as file:
        file.seek(128 + 4 + 12 + int(meta.FileMetaInformationGroupLength))
        packed = file.read()

    def parsed(unpacked: bytes, before_pixels: bool) -> Any:
        def stop(tag: Any, vr: Any, length: int) -> bool:
            return before_pixels and int(tag) in _PIXELS

        return read_dataset(io.BytesIO(unpacked), False, True, stop_when=stop)

    dataset = parsed(_unpacked(packed, _HEADER)[0], before_pixels=True)
    if not header_only:
        needed = _pixel_bytes(path, dataset)
        if needed > limits.MAX_INFLATED_BYTES:
            raise refusal(path, "it is a deflated DICOM file too large to unpack safely", "export it uncompressed")
        unpacked, whole = _unpacked(packed, 2 * needed + _HEADER + _ROOM)
        if not whole:
            raise refusal(path, "it unpacks to far more than its header says, or not to its end", "export it again")
        dataset = parsed(unpacked, before_pixels=False)
    return FileDataset(str(path), dataset, b"\0" * 128, meta, False, True)


def _pixel_bytes(path: Path, dataset: Any) -> int:
    rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    frames, samples = int(dataset.get("NumberOfFrames") or 1), int(dataset.get("SamplesPerPixel") or 1)
    limits.check_size(str(path), (rows, columns) if frames == 1 else (frames, rows, columns))
    return math.ceil(rows * columns * frames * max(samples, 1) * int(dataset.get("BitsAllocated") or 16) / 8)


def _unpacked(packed: bytes, most: int) -> tuple[bytes, bool]:
    """At most ``most`` bytes, and whether that is all there is."""
    stream, found = zlib.decompressobj(-zlib.MAX_WBITS), bytearray()
    while not stream.eof and len(found) <= most:
        block = stream.decompress(packed, _BLOCK)
        packed = stream.unconsumed_tail
        if not block and not packed:
            break
        found += block
    return bytes(found[:most]), stream.eof and len(found) <= most
