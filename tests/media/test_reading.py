from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from zoo.errors import OptionError
from zoo.media import Image, MediaError, read


def test_importing_media_loads_no_heavy_library() -> None:
    code = "import sys, zoo.media, zoo.samples; print([m for m in %r if m in sys.modules])"
    heavy = ["torch", "pydicom", "nibabel", "skimage", "tifffile", "scipy"]
    result = subprocess.run([sys.executable, "-c", code % heavy], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_image_is_returned_as_it_is() -> None:
    image = Image(np.zeros((2, 3), np.uint8))
    assert read(image) is image


@pytest.mark.parametrize(
    ("shape", "channels"), [((5, 6), 1), ((5, 6, 1), 1), ((5, 6, 2), 2), ((5, 6, 3), 3), ((5, 6, 4), 4)]
)
def test_arrays_are_images(shape: tuple[int, ...], channels: int) -> None:
    image = read(np.zeros(shape, np.uint8))
    assert (image.ndim_spatial, image.channels, image.size) == (2, channels, (5, 6))


@pytest.mark.parametrize("channels", [3, 4])
def test_stacks_of_photographs_are_volumes_in_colour(channels: int) -> None:
    image = read(np.zeros((5, 6, 7, channels), np.uint8))
    assert (image.ndim_spatial, image.channels, image.size) == (3, channels, (5, 6, 7))
    with pytest.raises(MediaError, match=r"\[5, 6, 7, 9\]"):
        read(np.zeros((5, 6, 7, 9), np.uint8))


def test_volume_array_needs_the_mode() -> None:
    array = np.zeros((7, 8, 9), np.float64)
    with pytest.raises(MediaError, match=r"\[7, 8, 9\].*mode='volume'"):
        read(array)
    image = read(array, mode="volume")
    assert (image.ndim_spatial, image.channels, image.array.dtype) == (3, 1, np.float32)
    assert read(np.zeros((7, 8, 3)), mode="volume").ndim_spatial == 3
    assert read(np.zeros((7, 8, 31)), mode="image").channels == 31


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((0, 4)), "empty"),
        (np.zeros((4, 4), complex), "complex128.*real numbers"),
        (np.full((4, 4), None), "object.*real numbers"),
        (np.full((4, 4), "x"), "real numbers"),
        (np.array([[np.nan, 1]]), "1 of its values are NaN"),
        (np.array([[1e300, 1]]), "NaN or infinite"),
        (np.zeros(5), r"shape \[5\]"),
    ],
)
def test_arrays_that_are_no_image(array: np.ndarray, reason: str) -> None:
    with pytest.raises(MediaError, match=reason):
        read(array)


def test_bool_and_half_arrays_are_widened() -> None:
    np.testing.assert_array_equal(read(np.array([[True, False]])).array, [[255, 0]])
    assert read(np.zeros((2, 2), np.float16)).array.dtype == np.float32
    assert read(np.zeros((2, 2), ">u2")).array.dtype == np.uint16


def test_pillow_image_by_the_rules_of_files() -> None:
    picture = PILImage.fromarray(np.array([[[9, 8, 7, 255], [9, 8, 7, 0]]], np.uint8))
    np.testing.assert_array_equal(read(picture).array, [[[9, 8, 7], [0, 0, 0]]])


def test_tensors_are_channels_first() -> None:
    torch = pytest.importorskip("torch")
    values = torch.rand(3, 5, 6, requires_grad=True)
    np.testing.assert_array_equal(read(values).array, values.detach().numpy().transpose(1, 2, 0))
    assert read(values[None]).array.shape == (5, 6, 3)
    assert read(values[:1]).array.shape == (5, 6)
    assert read(values[0].bfloat16()).array.dtype == np.float32
    assert read(torch.zeros(1, 1, 7, 8, 9), mode="volume").array.shape == (7, 8, 9)
    for bad in (torch.zeros(2, 3, 5, 6), torch.zeros(7, 8, 9)):
        with pytest.raises(MediaError, match="give it as"):
            read(bad)
    with pytest.raises(MediaError, match="complex"):
        read(torch.zeros(4, 4, dtype=torch.complex64))


@pytest.mark.wrong_types
def test_wrong_mode_and_wrong_type() -> None:
    with pytest.raises(OptionError, match="mode must be"):
        read(np.zeros((2, 2)), mode="3d")  # type: ignore[arg-type]
    with pytest.raises(MediaError, match="can't read a dict"):
        read({})
    with pytest.raises(MediaError, match="is a 2-D image"):
        read(Image(np.zeros((2, 2), np.uint8)), mode="volume")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.png", b"", r"empty\.png: the file is empty \(0 bytes\)"),
        ("note.png", b"not a picture\n", r"named \.png but holds plain text; give a PNG, JPEG"),
        ("umlaut.jpg", "Größe".encode() * 200, r"named \.jpg but holds plain text"),
        ("cut.gif", b"GIF89a" + b"\0" * 20, "GIF data is truncated or damaged"),
        ("web.png", b"RIFF0000WAVE", r"named \.png but holds a RIFF file"),
        ("data.bin", bytes(range(256)), "data of an unknown kind"),
        ("array.npy", b"\x93NUMPY\x01\0", "NumPy array"),
        ("broken.nii.gz", b"\x1f\x8b\x08\0\0", "gzip data is truncated"),
        ("text.nii.gz", gzip.compress(b"hello", mtime=0), "gzip archive of something that is not NIfTI; unpack it"),
        ("head.nii", b"\x5c\x01\0\0" + b"\0" * 40, "NIfTI header is truncated"),
        ("cut.png", b"\x89PNG\r\n\x1a\n", "PNG data is truncated or damaged"),
        ("cut.jpg", b"\xff\xd8\xff\xe0", "JPEG data is truncated or damaged"),
    ],
)
def test_files_that_are_no_image(name: str, content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MediaError, match=reason) as caught:
        read(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_content_counts_not_the_suffix(tmp_path: Path) -> None:
    PILImage.new("RGB", (8, 4)).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").rename(tmp_path / "a.png")
    assert read(tmp_path / "a.png").format == "jpeg"


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"nowhere\.png: there is no such file; check the path"):
        read(tmp_path / "nowhere.png")
    with pytest.raises(MediaError, match="folder without a DICOM series"):
        read(tmp_path)
    with pytest.raises(MediaError, match="web address; download"):
        read("https://example.org/a.png")
    with pytest.raises(MediaError, match="zero byte in its name; check it"):
        read("a\0b.png")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(MediaError, match="neither a file nor a folder"):
        read(tmp_path / "pipe.png")


def test_unreadable_file_names_the_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    PILImage.new("L", (2, 2)).save(tmp_path / "a.png")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(builtins, "open", refuse)
    with pytest.raises(MediaError, match=r"a\.png: Permission denied; check its permissions"):
        read(tmp_path / "a.png")


def test_too_little_memory_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo.media import raster

    def fail(*_: object) -> None:
        raise MemoryError

    PILImage.new("L", (2, 2)).save(tmp_path / "a.png")
    monkeypatch.setattr(raster, "_pixels", fail)
    with pytest.raises(MediaError, match=r"a\.png: it needs more memory than there is; downsample"):
        read(tmp_path / "a.png")


def test_phantom_specs_go_to_their_maker(monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo.data import phantoms
    from zoo.data.case import Case

    def make(spec: str) -> Case:
        seed = int(spec.rsplit("=", 1)[1])
        shape = (4, 5, 3) if "fundus" in spec else (6, 7, 8)
        return Case(np.full(shape, seed, np.uint8), id=spec)

    monkeypatch.setattr(phantoms, "make", make, raising=False)
    image = read("phantom:fundus?seed=3")
    assert (image.source, image.format, image.ndim_spatial) == ("phantom:fundus?seed=3", "phantom", 2)
    assert image.stem == "fundus-seed-3"
    np.testing.assert_array_equal(image.array, np.full((4, 5, 3), 3))
    volume = read("phantom:abdomen?seed=2")
    assert (volume.ndim_spatial, volume.size) == (3, (6, 7, 8))
