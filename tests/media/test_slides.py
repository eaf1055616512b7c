"""Slides are reduced while they are read: every pixel of the result is the mean of what it covers."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from zoo import media
from zoo.data.stacks import open_stack
from zoo.errors import MediaError, MissingExtraError
from zoo.media import slides
from zoo.media.slides import open_slide

tifffile = pytest.importorskip("tifffile")


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    monkeypatch.setattr(slides, "LARGE", 1000)
    return np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)


def enlarged(base: np.ndarray, by: int) -> np.ndarray:
    return np.kron(base, np.ones((by, by, 1), np.uint8))


@pytest.mark.parametrize("library", ["tifffile", "openslide"])
@pytest.mark.parametrize("layout", [{"tile": (64, 64)}, {"tile": (64, 64), "compression": "zlib"}, {}])
def test_reduction_is_the_mean(base: np.ndarray, tmp_path: Path, layout: dict, library: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, enlarged(base, 32), photometric="rgb", **layout)
    slide = open_slide(path)
    assert slide is not None
    assert slide.size == (13 * 32, 17 * 32)
    if library == "openslide" and slide.library != library:
        pytest.skip("no format that OpenSlide knows, or it is not installed")
    assert np.array_equal(replace(slide, library=library).reduced(32), base)


def test_a_factor_that_does_not_divide_keeps_the_mean(base: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, enlarged(base, 10), photometric="rgb", tile=(32, 32))
    slide = open_slide(path)
    small = slide.reduced(7)
    assert small.shape == (19, 25, 3)
    exact = enlarged(base, 10)[:7, :7].mean((0, 1))
    assert np.abs(small[0, 0] - exact).max() <= 0.5


@pytest.mark.parametrize("library", ["tifffile", "openslide"])
def test_a_pyramid_is_read_at_the_level_that_fits(base: np.ndarray, tmp_path: Path, library: str) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(enlarged(base, 16), tile=(64, 64), photometric="rgb")
        writer.write(255 - enlarged(base, 4), tile=(64, 64), photometric="rgb", subfiletype=1)  # told apart by colour
    slide = open_slide(path)
    if slide.library != library:
        pytest.skip("the other library opens it")
    assert np.array_equal(slide.reduced(2)[::8, ::8], base)
    if library == "openslide":
        assert np.array_equal(slide.reduced(4)[::4, ::4], 255 - base)


def test_reduction_fits_a_side(base: np.ndarray) -> None:
    slide = slides.Slide(Path("x.tif"), (20_000, 15_000))
    assert slide.reduction(2048) == 10
    assert slide.reduction(20_000) == slide.reduction(30_000) == 1


def test_small_files_pages_and_others_are_no_slides(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "small.tif", np.zeros((64, 64, 3), np.uint8), photometric="rgb", tile=(32, 32))
    assert open_slide(tmp_path / "small.tif") is None
    (tmp_path / "text.tif").write_text("no picture")
    assert open_slide(tmp_path / "text.tif") is None


def test_stacks_of_pages_are_left_to_read(base: np.ndarray, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "stack.tif", np.zeros((3, 64, 64), np.uint8), photometric="minisblack")
    assert open_slide(tmp_path / "stack.tif") is None


def test_damaged_tiles_are_refused_in_one_sentence(base: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, enlarged(base, 32), photometric="rgb", compression="zlib", rowsperstrip=16)
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        start = file.pages[0].dataoffsets[3]
    data[start : start + 40] = b"\xff" * 40
    path.write_bytes(data)
    with pytest.raises(MediaError, match="truncated or damaged"):
        open_slide(path).reduced(8)


# ---- a scanner's own files, small ----


def svs(path: Path, pixels: np.ndarray, *, jpeg2000: bool = False, mpp: str = "0.499") -> Path:
    """A small file as Aperio's scanners write it: tiled, with the size of a pixel in its description."""
    said = f"Aperio Image Library v11.2.1\r\n{pixels.shape[1]}x{pixels.shape[0]} -> test |AppMag = 20|MPP = {mpp}"
    how: dict = {"tile": (64, 64), "description": said, "metadata": None, "photometric": "rgb"}
    if not jpeg2000:
        tifffile.imwrite(path, pixels, compression="zlib", **how)
        return path

    def tiles():
        for top in range(0, pixels.shape[0], 64):
            for left in range(0, pixels.shape[1], 64):
                tile = io.BytesIO()
                PILImage.fromarray(pixels[top : top + 64, left : left + 64]).save(tile, "JPEG2000", no_jp2=True)
                yield tile.getvalue()

    tifffile.imwrite(path, tiles(), shape=pixels.shape, dtype=np.uint8, compression="zlib", **how)  # as they come
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags["Compression"].overwrite(33005)
    return path


@pytest.fixture
def section() -> np.ndarray:
    y, x = np.mgrid[:128, :192]
    return np.stack([200 - x, 60 + y, 128 + (x + y) % 64], axis=2).astype(np.uint8)


@pytest.mark.parametrize("jpeg2000", [False, True])
def test_a_small_slide_of_a_scanner_keeps_its_pixels_and_their_size(
    section: np.ndarray, tmp_path: Path, jpeg2000: bool
) -> None:
    pytest.importorskip("openslide")
    path = svs(tmp_path / "small.svs", section, jpeg2000=jpeg2000)
    image = media.read(path)
    assert np.array_equal(image.array, section)
    assert image.spacing == pytest.approx((0.000499, 0.000499))
    slide = open_slide(path)
    assert slide is not None
    assert slide.spacing_um == pytest.approx((0.499, 0.499))
    stack = open_stack(str(path), "test")
    assert stack.unit == "µm"
    assert stack.spacing == pytest.approx((0.499, 0.499, None))
    assert np.array_equal(stack.sections[0].load(1), section)


def test_without_openslide_jpeg_2000_is_not_called_damaged(
    section: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = svs(tmp_path / "small.svs", section, jpeg2000=True)
    monkeypatch.setitem(sys.modules, "openslide", None)
    with pytest.raises(MissingExtraError, match=r"JPEG 2000.*openslide-python"):
        media.read(path)
