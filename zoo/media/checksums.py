"""Checksums that Pillow leaves unread: a PNG's chunks and the deflated strips and tiles of a TIFF.

LZW, PackBits, JPEG, GIF and WebP carry none: there a flipped bit that still decodes can't be told from an image.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from zoo.media.files import refusal

_DEFLATE = (8, 32946)
_COMPRESSION, _OFFSETS, _LENGTHS, _TILE_OFFSETS, _TILE_LENGTHS = 259, 273, 279, 324, 325
_BLOCK = 2**20
_DAMAGED = "copy or export it again"


def check_png(path: Path, file: BinaryIO) -> None:
    """Raises ``MediaError`` if a chunk differs from its checksum. What is cut off is left to the decoder."""
    position = file.tell()
    file.seek(8)
    while len(head := file.read(8)) == 8:
        left, kind = struct.unpack(">I4s", head)
        found = zlib.crc32(kind)
        while left and (block := file.read(min(left, _BLOCK))):
            found, left = zlib.crc32(block, found), left - len(block)
        stored = file.read(4)
        if len(stored) < 4 or kind == b"IEND":
            break
        if struct.unpack(">I", stored)[0] != found:
            raise refusal(path, "its PNG data is damaged (a checksum differs)", _DAMAGED)
    file.seek(position)


def check_tiff(path: Path, file: BinaryIO, tags: Any, pixel_bytes: int) -> None:
    """The same for the strips and tiles of a TIFF's page; nothing is kept of what they unpack to."""
    if tags.get(_COMPRESSION) not in _DEFLATE:
        return
    position = file.tell()
    for offsets, lengths in ((_OFFSETS, _LENGTHS), (_TILE_OFFSETS, _TILE_LENGTHS)):
        for offset, length in zip(_all(tags.get(offsets)), _all(tags.get(lengths)), strict=False):
            file.seek(offset)
            try:
                whole = _is_whole(file.read(length), pixel_bytes + 2**24)  # tiles reach over the edge
            except zlib.error as error:
                raise refusal(path, "its TIFF data is damaged (a checksum differs)", _DAMAGED) from error
            if not whole:
                raise refusal(path, "its TIFF data is truncated or damaged (a part of it has no end)", _DAMAGED)
    file.seek(position)


def _all(value: Any) -> Iterable[int]:
    return value if isinstance(value, tuple) else () if value is None else (value,)


def _is_whole(packed: bytes, most: int) -> bool:
    stream = zlib.decompressobj()
    while not stream.eof and most > 0:
        block = stream.decompress(packed, _BLOCK)
        packed, most = stream.unconsumed_tail, most - len(block)
        if not block and not packed:
            break
    return stream.eof
