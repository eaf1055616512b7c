from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image as PILImage

from zoo.media import Image, MediaError, masks, read, replacing, write_mask


@given(mask=st.sampled_from([np.uint8, np.uint16]).flatmap(lambda dtype: arrays(dtype, (5, 6))))
def test_png_mask_comes_back(mask: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("mask")
    path = write_mask(folder / "a.b", mask.astype(np.int64), Image(np.zeros((5, 6, 3), np.uint8)))
    assert path == folder / "a.b.png"
    back = read(path).array
    np.testing.assert_array_equal(back, mask)
    assert back.dtype == (np.uint16 if mask.max() > 255 else np.uint8)
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
