"""A damaged file is refused wherever its format lets that be known."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.media import MediaError, read

PIXELS = np.random.default_rng(0).integers(0, 255, (60, 40, 3), dtype=np.uint8)


def save(path: Path, **options) -> bytes:
    Image.fromarray(PIXELS).save(path, **options)
    return path.read_bytes()


def chunks(content: bytes) -> list[tuple[bytes, int, int]]:
    """Kind, start and length of a PNG's chunks' data."""
    found, at = [], 8
    while at < len(content):
        length, kind = struct.unpack(">I4s", content[at : at + 8])
        found.append((kind, at + 8, length))
        at += length + 12
    return found


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_every_flipped_bit_of_a_png_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    content = save(path)
    first = next(start for kind, start, _ in chunks(content) if kind == b"IDAT")
    for bit in np.random.default_rng(1).integers(8 * first, 8 * (len(content) - 12), 100):
        path.write_bytes(flipped(content, int(bit)))
        with pytest.raises(MediaError, match=r"PNG data is (damaged \(a checksum differs\)|truncated or damaged)"):
            read(path)


@pytest.mark.parametrize("layout", [{}, {"tile": (16, 16)}, {"predictor": 2}, {"pages": 3}])
def test_flipped_bits_of_a_deflated_tiff_are_noticed(tmp_path: Path, layout: dict) -> None:
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "a.tif"
    options = {key: value for key, value in layout.items() if key != "pages"}
    stored = np.stack([PIXELS] * layout["pages"]) if "pages" in layout else PIXELS
    with tifffile.TiffWriter(path) as writer:
        writer.write(stored, photometric="rgb", compression="zlib", **options)
    np.testing.assert_array_equal(read(path).array, stored)
    content = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        parts = [pair for page in file.pages for pair in zip(page.dataoffsets, page.databytecounts, strict=True)]
    rng = np.random.default_rng(2)
    for offset, length in [*parts, *parts, *parts][:60]:
        path.write_bytes(flipped(content, int(rng.integers(8 * offset, 8 * (offset + length)))))
        with pytest.raises(MediaError, match=r"TIFF data is (damaged \(a checksum differs\)|truncated or damaged)"):
            read(path)


def test_a_strip_that_unpacks_to_anything_takes_neither_time_nor_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.tif"
    content = save(path, compression="tiff_adobe_deflate")
    with Image.open(path) as picture:
        (offset,), (length,) = picture.tag_v2[273], picture.tag_v2[279]
    bomb = zlib.compress(bytes(2**28), 9)
    assert len(bomb) > length
    path.write_bytes(content[:offset] + bomb[:length] + content[offset + length :])
    with pytest.raises(MediaError):
        read(path)
