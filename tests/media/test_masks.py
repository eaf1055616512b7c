from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image as PILImage

from zoo.media import Image, MediaError, masks, read, read_labels, replacing, write_mask


@given(
    mask=st.sampled_from([(np.uint8, 255), (np.uint16, 65534)]).flatmap(
        lambda kind: arrays(kind[0], (5, 6), elements=st.integers(0, kind[1]))
    )
)
def test_png_mask_comes_back(mask: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("mask")
    path = write_mask(folder / "a.b", mask.astype(np.int64), Image(np.zeros((5, 6, 3), np.uint8)))
    assert path == folder / "a.b.png"
    back = read_labels(path)
    np.testing.assert_array_equal(back.array, mask)
    assert back.array.dtype == (np.uint16 if mask.max() > 255 else np.uint8)
    assert back.notes == ()
    assert read(path).grey().max() > 0.2 or mask.max() in (0, *range(256, 16384))
    assert [p.name for p in folder.iterdir()] == ["a.b.png"]


def test_volume_array_is_written_as_nifti(tmp_path: Path) -> None:
    nib = pytest.importorskip("nibabel")
    image = Image(np.zeros((7, 8, 9), np.uint8), spacing=(3.0, 1.0, 2.0))
    written = nib.load(write_mask(tmp_path / "m", np.ones((7, 8, 9), bool), image))
    assert written.shape == (9, 8, 7)
    np.testing.assert_allclose(written.header.get_zooms(), [2, 1, 3])


@pytest.mark.parametrize("mask", [np.zeros((5, 7), int), np.zeros((5, 6)), np.full((5, 6), -1), np.full((5, 6), 65536)])
def test_what_is_no_mask_is_a_bug(mask: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mask"):
        write_mask(tmp_path / "m", mask, Image(np.zeros((5, 6), np.uint8)))
    assert list(tmp_path.iterdir()) == []


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")

    def write() -> None:
        with replacing(tmp_path / "a.txt") as temporary:
            temporary.write_text("new")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_failed_mask_leaves_no_partial_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: PILImage.Image, path: Path) -> None:
        Path(path).write_bytes(b"\x89PNG")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(masks.PILImage.Image, "save", fail)
    with pytest.raises(MediaError, match=r"can't write .*m\.png: No space left on device"):
        write_mask(tmp_path / "m", np.zeros((5, 6), int), Image(np.zeros((5, 6), np.uint8)))
    assert list(tmp_path.iterdir()) == []


def test_folder_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(MediaError, match=r"can't write .*m\.png: .*; choose another folder"):
        write_mask(tmp_path / "out" / "m", np.zeros((5, 6), int), Image(np.zeros((5, 6), np.uint8)))


@pytest.fixture(scope="module")
def blobs() -> np.ndarray:
    """A mask with round edges."""
    y, x = np.mgrid[:96, :96]
    return ((y - 30) ** 2 + (x - 40) ** 2 < 400) | ((y - 70) ** 2 + (x - 70) ** 2 < 150)


@pytest.mark.parametrize("quality", [40, 75, 95])
def test_a_jpeg_mask_is_cut_at_half_and_said(quality: int, blobs: np.ndarray, tmp_path: Path) -> None:
    PILImage.fromarray(blobs).convert("L").save(path := tmp_path / "m.jpg", quality=quality)
    assert (read(path).array > 0).mean() > 1.05 * blobs.mean()
    labels = read_labels(path)
    np.testing.assert_array_equal(labels.array, blobs)
    assert labels.notes == (f"mask {path} has grey edges; it was cut at half",)


def test_a_resized_mask_is_cut_at_half(blobs: np.ndarray, tmp_path: Path) -> None:
    small = PILImage.fromarray(blobs).convert("L").resize((70, 70), PILImage.Resampling.BICUBIC)
    small.save(tmp_path / "m.png")
    labels = read_labels(tmp_path / "m.png")
    assert labels.array.mean() == pytest.approx(blobs.mean(), rel=0.03)
    assert "cut at half" in labels.notes[0]
    np.testing.assert_array_equal(read_labels(np.asarray(small)).array, labels.array)


@pytest.mark.parametrize("side", [96, 100, 128, 40])
def test_few_shades_of_an_edge_are_an_edge_too(side: int, tmp_path: Path) -> None:
    """A square, resized, has three to a dozen shades, in lines; a class that fills an area is none."""
    square = np.zeros((64, 64), np.uint8)
    square[15:40, 17:41] = 255
    small = np.asarray(PILImage.fromarray(square).resize((side, side), PILImage.Resampling.BILINEAR))
    PILImage.fromarray(small).save(tmp_path / "m.png")
    labels = read_labels(tmp_path / "m.png")
    assert set(np.unique(labels.array)) == {0, 1}
    assert labels.array.mean() == pytest.approx((square > 0).mean(), rel=0.05)
    assert "cut at half" in labels.notes[0]
    classes = np.repeat(np.repeat(np.array([[0, 60, 255], [120, 180, 255]], np.uint8), 9, 0), 9, 1)
    np.testing.assert_array_equal(read_labels(classes).array, classes)


@pytest.mark.parametrize("values", [[0, 1, 2], [0, 85, 170, 255], [0, 7, 20, 255], list(range(256)), [3, 255]])
def test_label_numbers_stay_what_they_are(values: list[int], tmp_path: Path) -> None:
    labels = np.resize(np.array(values, np.uint8), (17, 19))
    PILImage.fromarray(labels).save(tmp_path / "m.png")
    found = read_labels(tmp_path / "m.png")
    np.testing.assert_array_equal(found.array, labels)
    assert found.notes == ()


def test_label_numbers_in_a_jpeg_are_refused(tmp_path: Path) -> None:
    labels = np.repeat(np.arange(4, dtype=np.uint8) * 40, 32)[None].repeat(64, 0)
    PILImage.fromarray(labels).save(tmp_path / "m.jpg")
    with pytest.raises(MediaError, match=r"m\.jpg is a JPEG, which doesn't keep label numbers; store it as PNG"):
        read_labels(tmp_path / "m.jpg")


@pytest.mark.parametrize("ending", ["png", "gif", "bmp"])
def test_a_palette_in_colour_gives_its_numbers(ending: str, tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 4, (9, 8), dtype=np.uint8)
    picture = PILImage.fromarray(labels)
    picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 0, 0, 128])
    picture.save(tmp_path / f"m.{ending}")
    if ending == "bmp":
        np.testing.assert_array_equal(read_labels(tmp_path / f"m.{ending}").array, labels)
    else:
        np.testing.assert_array_equal(read_labels(picture).array, labels)
        np.testing.assert_array_equal(read_labels(tmp_path / f"m.{ending}").array, labels)
    white = PILImage.fromarray(labels > 1).convert("P")
    white.save(tmp_path / f"w.{ending}")
    np.testing.assert_array_equal(read_labels(tmp_path / f"w.{ending}").array, labels > 1)


def test_colours_and_fractions_are_no_labels(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="is in colour; store label numbers"):
        read_labels(np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8))
    with pytest.raises(MediaError, match="holds fractions; store label numbers"):
        read_labels(np.full((4, 4), 0.5, np.float32))
