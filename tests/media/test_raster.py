from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image as PILImage

from zoo.errors import MissingExtraError
from zoo.media import MediaError, limits, read
from zoo.media.raster import turn_upright

SIDES = st.integers(1, 9)


@st.composite
def pictures(draw: st.DrawFn) -> np.ndarray:
    height, width = draw(SIDES), draw(SIDES)
    shape, dtype = draw(st.sampled_from([((), np.uint8), ((3,), np.uint8), ((), np.uint16)]))
    return draw(arrays(dtype, (height, width, *shape)))


@given(picture=pictures(), suffix=st.sampled_from(["png", "tif"]))
def test_lossless_files_come_back_exactly(
    picture: np.ndarray, suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("raster") / f"a.{suffix}"
    PILImage.fromarray(picture).save(path)
    image = read(path)
    np.testing.assert_array_equal(image.array, picture)
    assert image.array.dtype == picture.dtype
    assert image.format == {"png": "png", "tif": "tiff"}[suffix]
    assert image.ndim_spatial == 2
    assert image.channels == (3 if picture.ndim == 3 else 1)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_bmp_modes_read_as_grey_or_rgb(mode: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    picture = PILImage.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)).convert(mode)
    picture.save(tmp_path / "a.bmp")
    wanted = np.asarray(picture.convert("L" if mode in "1L" else "RGB"))
    np.testing.assert_array_equal(read(tmp_path / "a.bmp").array, wanted)


def test_one_bit_png_is_black_and_white(tmp_path: Path) -> None:
    PILImage.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert("1").save(tmp_path / "a.png")
    image = read(tmp_path / "a.png")
    np.testing.assert_array_equal(image.array, [[0, 255], [255, 0]])
    assert image.meta["bit_depth"] == 1


def test_palette_is_looked_up(tmp_path: Path) -> None:
    picture = PILImage.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putdata([1, 0])
    picture.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png").array, [[[40, 50, 60], [10, 20, 30]]])


def test_transparent_palette_entry_is_black(tmp_path: Path) -> None:
    picture = PILImage.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putdata([1, 0])
    picture.save(tmp_path / "a.png", transparency=0)
    np.testing.assert_array_equal(read(tmp_path / "a.png").array, [[[40, 50, 60], [0, 0, 0]]])


def test_hidden_colours_of_an_rgba_image_are_gone(tmp_path: Path) -> None:
    PILImage.fromarray(np.array([[[200, 100, 50, 255], [200, 100, 50, 0]]], np.uint8)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png").array, [[[200, 100, 50], [0, 0, 0]]])


def test_grey_with_alpha_is_a_grey_image(tmp_path: Path) -> None:
    picture = PILImage.merge("LA", [PILImage.new("L", (3, 2), 90), PILImage.new("L", (3, 2), 255)])
    picture.save(tmp_path / "a.png")
    image = read(tmp_path / "a.png")
    np.testing.assert_array_equal(image.array, np.full((2, 3), 90))
    assert image.channels == 1


def test_cmyk_jpeg_becomes_rgb(tmp_path: Path) -> None:
    PILImage.new("CMYK", (16, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    image = read(tmp_path / "a.jpg")
    assert image.array.shape == (8, 16, 3)
    assert image.array[4, 8, 0] > 240
    assert image.array[4, 8, 1:].max() < 15


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_exif_orientation_is_applied(orientation: int, suffix: str, tmp_path: Path) -> None:
    stored = np.arange(6, dtype=np.uint8).reshape(2, 3)
    exif = PILImage.Exif()
    exif[274] = orientation
    PILImage.fromarray(stored).save(tmp_path / f"a.{suffix}", exif=exif)
    upright = {
        1: [[0, 1, 2], [3, 4, 5]],
        2: [[2, 1, 0], [5, 4, 3]],
        3: [[5, 4, 3], [2, 1, 0]],
        4: [[3, 4, 5], [0, 1, 2]],
        5: [[0, 3], [1, 4], [2, 5]],
        6: [[3, 0], [4, 1], [5, 2]],
        7: [[5, 2], [4, 1], [3, 0]],
        8: [[2, 5], [1, 4], [0, 3]],
    }[orientation]
    np.testing.assert_array_equal(read(tmp_path / f"a.{suffix}").array, upright)
    np.testing.assert_array_equal(turn_upright(stored, orientation), upright)


def test_exif_orientation_of_a_jpeg_is_applied(tmp_path: Path) -> None:
    exif = PILImage.Exif()
    exif[274] = 6
    PILImage.new("RGB", (30, 10)).save(tmp_path / "a.jpg", exif=exif)
    assert read(tmp_path / "a.jpg").array.shape == (30, 10, 3)


def test_sixteen_bit_colour_tiff_keeps_its_bits(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    picture = np.random.default_rng(0).integers(0, 65536, (6, 5, 3), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "chunky.tif", picture, photometric="rgb")
    tifffile.imwrite(tmp_path / "planar.tif", np.moveaxis(picture, -1, 0), photometric="rgb", planarconfig="separate")
    for name in ("chunky.tif", "planar.tif"):
        image = read(tmp_path / name)
        np.testing.assert_array_equal(image.array, picture)
        assert image.meta["bit_depth"] == 16


def test_sixteen_bit_colour_tiff_without_tifffile_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 4, 3), np.uint16), photometric="rgb")
    monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
    with pytest.raises(MissingExtraError, match=r"a\.tif.*tifffile.*medimg-zoo\[imaging\]"):
        read(tmp_path / "a.tif")


def test_white_is_zero_tiff_is_inverted_at_sixteen_bits(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "a.tif", np.array([[0, 65535]], np.uint16), photometric="miniswhite")
    np.testing.assert_array_equal(read(tmp_path / "a.tif").array, [[65535, 0]])


def test_equal_pages_of_a_tiff_are_a_volume(tmp_path: Path) -> None:
    pages = [PILImage.fromarray(np.full((4, 6), i, np.uint8)) for i in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    image = read(tmp_path / "a.tif")
    assert image.array.shape == (3, 4, 6)
    assert image.ndim_spatial == 3
    assert image.array[:, 0, 0].tolist() == [0, 1, 2]
    with pytest.raises(MediaError, match="volume of 3 slices"):
        read(tmp_path / "a.tif", mode="image")


def test_preview_page_of_a_tiff_is_ignored(tmp_path: Path) -> None:
    pages = [PILImage.new("L", (8, 8), 7), PILImage.new("L", (2, 2), 9)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    image = read(tmp_path / "a.tif")
    assert image.array.shape == (8, 8)
    assert image.meta["pages"] == 2


@pytest.mark.parametrize("size", [(40_000, 40_000), (2**31 - 1, 1), (1, 2**30)])
def test_absurd_header_is_refused_before_decoding(size: tuple[int, int], png_header) -> None:
    import tracemalloc

    path = png_header(*size)
    tracemalloc.start()
    with pytest.raises(MediaError, match=f"{size[1]:,} x {size[0]:,} pixels.*limit"):
        read(path)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


@pytest.mark.parametrize("suffix", ["jpg", "bmp", "tif"])
def test_absurd_header_is_refused_in_every_format(suffix: str, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    PILImage.new("L", (8, 8)).save(buffer, {"jpg": "JPEG", "bmp": "BMP", "tif": "TIFF"}[suffix])
    data = bytearray(buffer.getvalue())
    if suffix == "jpg":
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = (40_000).to_bytes(2, "big") * 2
    elif suffix == "bmp":
        data[18:26] = (40_000).to_bytes(4, "little") * 2
    else:
        for tag in (256, 257):
            at = data.index(tag.to_bytes(2, "little") + b"\x04\0" + b"\x01\0\0\0")
            data[at + 8 : at + 12] = (40_000).to_bytes(4, "little")
    (tmp_path / f"a.{suffix}").write_bytes(data)
    with pytest.raises(MediaError, match="40,000 x 40,000 pixels"):
        read(tmp_path / f"a.{suffix}")


def test_limit_is_configurable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    PILImage.new("L", (20, 10)).save(tmp_path / "a.png")
    monkeypatch.setattr(limits, "MAX_PIXELS", 199)
    with pytest.raises(MediaError, match=r"10 x 20 pixels.*limit of 199; .*zoo\.media\.limits\.MAX_PIXELS"):
        read(tmp_path / "a.png")
    monkeypatch.setattr(limits, "MAX_PIXELS", 200)
    assert read(tmp_path / "a.png").array.shape == (10, 20)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
@given(share=st.floats(0.02, 0.8))
def test_truncated_file_is_one_sentence(suffix: str, share: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("cut") / f"a.{suffix}"
    PILImage.fromarray(picture).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(MediaError, match=r"a\.\w+") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_damaged_tiff_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (64, 64), dtype=np.uint8)
    PILImage.fromarray(picture).save(tmp_path / "a.tif", compression="tiff_lzw")
    content = bytearray((tmp_path / "a.tif").read_bytes())
    content[500:900] = b"\xff" * 400
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(MediaError, match=r"a\.tif: its TIFF data is truncated or damaged"):
        read(tmp_path / "a.tif")
    assert capfd.readouterr() == ("", "")


@given(data=st.data())
def test_damaged_file_never_raises_anything_else(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    suffix = data.draw(st.sampled_from(["png", "jpg", "tif", "bmp"]))
    path = tmp_path_factory.mktemp("damage") / f"a.{suffix}"
    PILImage.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)).save(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, min(len(content), 400) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        image = read(path)
    except (MediaError, MissingExtraError):
        return
    assert image.array.size > 0


@pytest.mark.parametrize("ending", ["gif", "webp", "ppm", "pgm", "pbm", "pnm"])
def test_other_picture_files_are_read_by_content(ending: str, tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 2, (6, 5), dtype=np.uint8) * 255
    grey = PILImage.fromarray(picture)
    kind = {"pgm": "ppm", "pbm": "ppm", "pnm": "ppm"}.get(ending, ending)
    (grey.convert("1") if ending == "pbm" else grey).save(path := tmp_path / f"a.{ending}", format=kind, lossless=True)
    image = read(path)
    assert image.format == kind
    np.testing.assert_allclose(image.grey() * 255, picture, atol=1e-4)
    path.rename(tmp_path / "named.png")
    assert read(tmp_path / "named.png").format == kind


def test_a_16_bit_pgm_keeps_its_values(tmp_path: Path) -> None:
    picture = np.array([[0, 1000], [65535, 256]], np.uint16)
    (tmp_path / "a.pgm").write_bytes(b"P5\n2 2\n65535\n" + picture.astype(">u2").tobytes())
    image = read(tmp_path / "a.pgm")
    np.testing.assert_array_equal(image.array, picture)
    assert image.array.dtype == np.uint16


@pytest.mark.parametrize("ending", ["gif", "webp"])
def test_an_animation_is_refused(ending: str, tmp_path: Path) -> None:
    frames = [PILImage.new("RGB", (8, 8), (shade, 0, 0)) for shade in (0, 200, 90)]
    frames[0].save(path := tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:])
    with pytest.raises(MediaError, match=r"it is an animation of 3 pictures; save the one you mean"):
        read(path)


@pytest.mark.parametrize("options", [{}, {"photometric": "minisblack"}, {"photometric": "miniswhite"}])
def test_booleans_of_tifffile_are_what_they_were(options, tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    mask = np.random.default_rng(0).random((9, 11)) > 0.7
    tifffile.imwrite(tmp_path / "a.tif", mask, **options)
    np.testing.assert_array_equal(read(tmp_path / "a.tif").array > 0, mask)


def test_a_fax_is_white_where_it_says_so(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).random((9, 11)) > 0.7
    PILImage.fromarray(mask).save(tmp_path / "a.tif", tiffinfo={262: 0})
    stored = PILImage.open(tmp_path / "a.tif")
    if stored.tag_v2[262] == 0:
        np.testing.assert_array_equal(read(tmp_path / "a.tif").array > 0, np.asarray(stored))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("layout", ["contig", "separate"])
def test_a_second_channel_is_alpha_only_where_the_file_says_so(layout: str, dtype, tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    channels = np.random.default_rng(0).integers(1, 200, (7, 8, 2)).astype(dtype)
    stored = np.moveaxis(channels, -1, 0) if layout == "separate" else channels
    options = {"planarconfig": layout, "photometric": "minisblack"}
    tifffile.imwrite(tmp_path / "two.tif", stored, **options)
    np.testing.assert_array_equal(read(tmp_path / "two.tif").array, channels)
    with pytest.raises(MediaError, match="2 channels"):
        read(tmp_path / "two.tif").rgb()
    tifffile.imwrite(tmp_path / "alpha.tif", stored, extrasamples=["unassalpha"], **options)
    top = np.iinfo(dtype).max
    expected = channels[..., 0] * (channels[..., 1] / top)
    np.testing.assert_allclose(read(tmp_path / "alpha.tif").array, expected, atol=1)


def test_four_channels_that_are_no_colours_are_refused(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    stack = np.ones((4, 8, 9), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stack, planarconfig="separate", photometric="minisblack")
    with pytest.raises(MediaError, match="4 channels are not red, green, blue and alpha"):
        read(tmp_path / "a.tif")
