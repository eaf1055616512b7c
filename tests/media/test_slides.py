"""Slides are reduced while they are read: every pixel of the result is the mean of what it covers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from zoo.errors import MediaError
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
