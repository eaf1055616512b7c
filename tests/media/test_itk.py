"""NRRD and MetaImage: the grid of a file comes back, and a header that lies is refused before anything is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from zoo.data.volumes import resample, voxels
from zoo.media import MediaError, read, read_labels, write_mask

sitk = pytest.importorskip("SimpleITK")

SUFFIXES = {".nrrd": ".nrrd", ".nhdr": ".nrrd", ".mha": ".mha", ".mhd": ".mha"}


def _volume(folder: Path, name: str, array: np.ndarray, angle: float = 0.0, flips=(1, 1, 1), packed: bool = True):
    image = sitk.GetImageFromArray(array)
    if array.ndim == 3:
        image.SetSpacing((0.9, 0.8, 4.0))
        image.SetOrigin((-80.0, 30.0, 512.0))
        turn = Rotation.from_euler("xz", (angle, angle / 2), degrees=True).as_matrix() * flips
        image.SetDirection(turn.ravel().tolist())
    sitk.WriteImage(image, str(folder / name), packed)
    return folder / name


@given(
    suffix=st.sampled_from([*SUFFIXES]),
    angle=st.floats(-60, 60),
    flips=st.tuples(*[st.sampled_from([1, -1])] * 3),
    dtype=st.sampled_from([np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64]),
    packed=st.booleans(),
)
@settings(max_examples=15)
def test_a_mask_has_grid_kind_and_name_of_its_volume(suffix, angle, flips, dtype, packed, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("itk")
    data = np.arange(7 * 6 * 5, dtype=dtype).reshape(7, 6, 5)
    path = _volume(folder, f"scan{suffix}", data, angle, flips, packed)
    image = read(path)
    np.testing.assert_array_equal(image.array, data)
    assert image.array.dtype == (np.float32 if dtype == np.float64 else dtype)
    stored = sitk.ReadImage(str(path))
    for index in ((0, 0, 0), (4, 2, 6)):  # w, h, z
        lps = stored.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(image.affine @ (*index, 1), (-lps[0], -lps[1], lps[2], 1), atol=1e-3)
    assert image.spacing == pytest.approx((4.0, 0.8, 0.9))

    _, native = voxels(image)  # there and back: other directions, a finer grid
    grid = native.oriented("RAS")
    grid = grid.spaced(tuple(mm / 2 for mm in grid.spacing))
    moved = resample((image.array % 3).astype(np.uint8), native, grid, mode="nearest")
    mask = resample(moved, grid, native, mode="nearest")
    written = write_mask(folder / f"{image.stem}_mask", mask, image)
    assert written.name == f"scan_mask{SUFFIXES[suffix]}"
    back = sitk.ReadImage(str(written))
    np.testing.assert_allclose(back.GetDirection(), stored.GetDirection(), atol=1e-6)
    np.testing.assert_allclose(back.GetOrigin(), stored.GetOrigin(), atol=1e-3)
    np.testing.assert_allclose(back.GetSpacing(), stored.GetSpacing(), rtol=1e-6)
    assert back.GetPixelIDValue() == sitk.sitkUInt8
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), data.astype(np.int64) % 3)
    np.testing.assert_array_equal(read_labels(written).array, mask)


@pytest.mark.parametrize(
    "axes",
    ["(0.9,0,0) (0,0.8,0) (0,0,4) none", "none (0.9,0,0) (0,0.8,0) (0,0,4)"],
    ids=["as the last axis", "as the first axis"],
)
def test_one_frame_as_a_fourth_axis_is_dropped(axes: str, tmp_path: Path) -> None:
    data = np.arange(7 * 6 * 5, dtype="<i2")
    sizes, kinds = ("1 5 6 7", "list domain domain domain"), ("5 6 7 1", "domain domain domain list")
    sizes, kinds = sizes if axes.startswith("none") else kinds
    head = (
        f"NRRD0004\ntype: short\ndimension: 4\nspace: left-posterior-superior\nsizes: {sizes}\n"
        f"space directions: {axes}\nkinds: {kinds}\nendian: little\nencoding: raw\nspace origin: (1,2,3)\n\n"
    )
    (tmp_path / "a.nrrd").write_bytes(head.encode() + data.tobytes())
    image = read(tmp_path / "a.nrrd")
    np.testing.assert_array_equal(image.array, data.reshape(7, 6, 5))
    assert image.spacing == pytest.approx((4.0, 0.8, 0.9))
    np.testing.assert_allclose(image.affine[:3, 3], (-1, -2, 3))


def test_a_space_of_another_name_is_the_same_place(tmp_path: Path) -> None:
    data = np.zeros((2, 2, 2), "<i2").tobytes()
    for name, origin in (("left-posterior-superior", "(1,2,3)"), ("right-anterior-superior", "(-1,-2,3)")):
        sign = "" if name.startswith("left") else "-"
        head = (
            f"NRRD0004\ntype: int16\ndimension: 3\nspace: {name}\nsizes: 2 2 2\nspace directions: "
            f"({sign}1,0,0) (0,{sign}2,0) (0,0,3)\nendian: little\nencoding: raw\nspace origin: {origin}\n\n"
        )
        (tmp_path / f"{name}.nrrd").write_bytes(head.encode() + data)
    one, two = (read(path).affine for path in sorted(tmp_path.glob("*.nrrd")))
    np.testing.assert_allclose(one, two)


def test_a_header_without_spacing_states_none(tmp_path: Path) -> None:
    head = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 2 3 4\nencoding: raw\n\n"
    (tmp_path / "a.nrrd").write_bytes(head.encode() + bytes(range(24)))
    image = read(tmp_path / "a.nrrd")
    assert (image.size, image.spacing, image.affine) == ((4, 3, 2), None, None)
    assert not voxels(image)[1].measured
    assert read(write_mask(tmp_path / "m", image.array % 2, image)).size == (4, 3, 2)


def test_a_flat_file_is_an_image(tmp_path: Path) -> None:
    image = read(_volume(tmp_path, "a.nrrd", np.arange(30, dtype=np.uint8).reshape(5, 6)))
    assert (image.size, image.ndim_spatial) == ((5, 6), 2)
    assert write_mask(tmp_path / "m", image.array % 2, image).name == "m.png"


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_a_lone_slice_keeps_its_place(suffix: str, tmp_path: Path) -> None:
    path = _volume(tmp_path, f"a{suffix}", np.arange(30, dtype=np.int16).reshape(5, 1, 6), 20.0)
    plane = read(path).require_2d()
    back, stored = sitk.ReadImage(str(write_mask(tmp_path / "m", plane.array % 2, plane))), sitk.ReadImage(str(path))
    assert back.GetSize() == stored.GetSize()
    np.testing.assert_allclose(back.GetDirection(), stored.GetDirection(), atol=1e-6)
    np.testing.assert_allclose(back.GetOrigin(), stored.GetOrigin(), atol=1e-3)


NRRD = "NRRD0004\ntype: {type}\ndimension: {n}\nsizes: {sizes}\nencoding: {encoding}\n{more}\n"
META = "ObjectType = Image\nNDims = {n}\nDimSize = {sizes}\n{more}ElementType = {type}\nElementDataFile = {data}\n"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"sizes": "900 900 900"}, "more than the limit"),
        ({"sizes": "90 90 90"}, "declares 1,458,000 bytes of voxels but the file is shorter"),
        ({"sizes": "90 90 90000", "encoding": "gzip"}, "but the file is shorter|more than the limit"),
        ({"sizes": "2 2 2 3", "n": 4}, "holds 3 volumes or values per voxel; extract one"),
        ({"sizes": "2 2 -2"}, "states the sizes"),
        ({"sizes": "2 2"}, "declares '3' dimensions and 2 sizes"),
        ({"encoding": "bzip2"}, "packed as 'bzip2'; save it as raw or gzip"),
        ({"type": "block"}, "its voxels are 'block'"),
        ({"more": "data file: ../secret.raw\n"}, "said to lie in '../secret.raw'"),
        ({"more": "data file: LIST\n"}, "said to lie in 'LIST'"),
        ({"more": "data file: absent.raw\n"}, "'absent.raw' are missing"),
        ({"more": "sizes: 1 1 1\n"}, "states 'sizes' twice"),
    ],
)
def test_an_nrrd_header_that_lies_is_refused(given: dict, sentence: str, tmp_path: Path) -> None:
    fields = {"type": "short", "n": 3, "sizes": "2 2 2", "encoding": "raw", "more": "", **given}
    (tmp_path / "a.nrrd").write_bytes(NRRD.format(**fields).encode() + bytes(16))
    with pytest.raises(MediaError, match=sentence) as refusal:
        read(tmp_path / "a.nrrd")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"sizes": "90 90 90"}, "but the file is shorter"),
        ({"data": "/etc/hostname"}, "said to lie in '/etc/hostname'"),
        ({"data": "slice%03d.raw 1 2 1"}, "said to lie in"),
        ({"more": "ElementNumberOfChannels = 3\n"}, "holds 3 volumes or values per voxel"),
        ({"more": "BinaryData = False\n"}, "its voxels are text"),
        ({"type": "MET_NONE"}, "its voxels are 'met none'"),
    ],
)
def test_a_metaimage_header_that_lies_is_refused(given: dict, sentence: str, tmp_path: Path) -> None:
    fields = {"type": "MET_SHORT", "n": 3, "sizes": "2 2 2", "data": "LOCAL", "more": "", **given}
    (tmp_path / "a.mha").write_bytes(META.format(**fields).encode() + bytes(16))
    with pytest.raises(MediaError, match=sentence):
        read(tmp_path / "a.mha")


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_damage_is_a_sentence_whatever_is_damaged(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = _volume(tmp_path, name, rng.integers(0, 99, (9, 20, 20)).astype(np.int16)).read_bytes()
    refused = 0
    for k in range(60):
        content = bytearray(whole)
        if k % 3 == 0:
            content = content[: int(len(whole) * rng.random())]
        else:
            for place in rng.integers(0, len(whole) if k % 3 == 1 else 400, 6):
                content[place] = rng.integers(256)
        (tmp_path / name).write_bytes(bytes(content) or b"x")
        try:
            image = read(tmp_path / name)
        except MediaError:
            refused += 1
        else:
            assert image.ndim_spatial in (2, 3)
    assert refused > 20
