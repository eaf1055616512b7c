from __future__ import annotations

import gzip
import struct
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.errors import MissingExtraError
from zoo.media import MediaError, limits, read, write_mask

nib = pytest.importorskip("nibabel")

ORIENTATIONS = [
    [list(zip(order, signs, strict=True)) for order in permutations(range(3))] for signs in product((1, -1), repeat=3)
]
ALL_ORIENTATIONS = [item for group in ORIENTATIONS for item in group]


def _affine(orientation: list[tuple[int, int]], spacing: tuple[float, ...], origin: tuple[float, ...]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, sign) in enumerate(orientation):
        affine[world, axis] = sign * spacing[axis]
    affine[:3, 3] = origin
    return affine


@given(
    orientation=st.sampled_from(ALL_ORIENTATIONS),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(2, 5)),
    spacing=st.tuples(*[st.floats(0.25, 5, width=32)] * 3),
    origin=st.tuples(*[st.floats(-200, 200, width=32)] * 3),
    suffix=st.sampled_from([".nii", ".nii.gz"]),
    codes=st.sampled_from([(2, 0), (0, 1), (1, 1), (0, 4)]),
    kind=st.sampled_from([nib.Nifti1Image, nib.Nifti2Image]),
)
def test_mask_has_the_grid_of_its_image(
    orientation, shape, spacing, origin, suffix, codes, kind, tmp_path_factory
) -> None:
    folder = tmp_path_factory.mktemp("nifti")
    data = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    source = kind(data, _affine(orientation, spacing, origin))
    source.set_sform(source.affine if codes[0] else None, codes[0])
    source.set_qform(source.affine, codes[1])
    nib.save(source, folder / f"a{suffix}")
    stored = nib.load(folder / f"a{suffix}")

    image = read(folder / f"a{suffix}")
    np.testing.assert_array_equal(image.array.transpose(), data)
    np.testing.assert_array_equal(image.affine, stored.affine)
    np.testing.assert_allclose(image.spacing, spacing[::-1], rtol=1e-5)
    assert image.meta["orientation"] == "".join(nib.aff2axcodes(stored.affine))

    mask = (image.array % 3).astype(np.int64)
    written = nib.load(write_mask(folder / "mask", mask, image))
    assert type(written) is kind
    np.testing.assert_array_equal(written.affine, stored.affine)
    np.testing.assert_array_equal(np.asarray(written.dataobj), data % 3)
    assert written.get_data_dtype() == np.uint8
    assert (int(written.header["sform_code"]), int(written.header["qform_code"])) == codes


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, ">i2"])
def test_integers_stay_integers(dtype, tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.arange(24, dtype=dtype).reshape(2, 3, 4), np.eye(4)), tmp_path / "a.nii")
    image = read(tmp_path / "a.nii")
    assert image.array.dtype == np.dtype(dtype).newbyteorder("=")
    assert image.array[3, 2, 1] == 23


def test_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    source = nib.Nifti1Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), np.eye(4))
    source.header.set_slope_inter(2, -10)
    nib.save(source, tmp_path / "a.nii")
    raw = nib.load(tmp_path / "a.nii").get_fdata()
    image = read(tmp_path / "a.nii")
    assert image.array.dtype == np.float32
    np.testing.assert_allclose(image.array.transpose(), raw)


def test_two_dimensional_file_is_an_image(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.arange(6, dtype=np.uint8).reshape(2, 3), np.eye(4)), tmp_path / "a.nii.gz")
    image = read(tmp_path / "a.nii.gz")
    assert image.array.shape == (3, 2)
    assert image.ndim_spatial == 2
    written = nib.load(write_mask(tmp_path / "m", image.array > 2, image))
    assert written.shape == (2, 3)


def test_single_slice_serves_as_image_and_keeps_three_axes(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.ones((4, 3, 1, 1), np.uint8), np.eye(4)), tmp_path / "a.nii")
    image = read(tmp_path / "a.nii", mode="image")
    assert image.array.shape == (3, 4)
    assert nib.load(write_mask(tmp_path / "m", image.array, image)).shape == (4, 3, 1)


def test_content_counts_not_the_suffix(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.ones((4, 3, 2), np.uint8), np.eye(4)), tmp_path / "a.nii.gz")
    (tmp_path / "a.nii.gz").rename(tmp_path / "b.nii")
    assert read(tmp_path / "b.nii").array.shape == (2, 3, 4)


def test_time_series_says_how_many_volumes(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((4, 3, 2, 20), np.uint8), np.eye(4)), tmp_path / "bold.nii.gz")
    with pytest.raises(MediaError, match=r"bold\.nii\.gz: it holds 20 volumes \(size 4 x 3 x 2 x 20\); extract one"):
        read(tmp_path / "bold.nii.gz")


def test_volume_is_refused_where_an_image_is_needed(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((4, 3, 2), np.uint8), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(MediaError, match=r"map-vessel takes 2-D images but .*a\.nii is a volume of 2 slices"):
        read(tmp_path / "a.nii").require_2d("map-vessel")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    data = np.zeros((3, 3, 3), np.float32)
    data[1, 1] = value
    nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(MediaError, match=r"a\.nii: 3 of its values are NaN or infinite; replace them"):
        read(tmp_path / "a.nii")


@pytest.mark.parametrize("dtype", [np.complex64, [("R", "u1"), ("G", "u1"), ("B", "u1")]])
def test_complex_and_colour_voxels_are_refused(dtype, tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3), dtype), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(MediaError, match=r"voxels are (complex|colour)"):
        read(tmp_path / "a.nii")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@given(share=st.floats(0.01, 0.9))
def test_truncated_file_is_one_sentence(suffix: str, share: float, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("cut")
    data = np.random.default_rng(0).integers(0, 1000, (20, 20, 20)).astype(np.int16)
    nib.save(nib.Nifti1Image(data, np.eye(4)), folder / f"a{suffix}")
    content = (folder / f"a{suffix}").read_bytes()
    (folder / f"a{suffix}").write_bytes(content[: max(1, int(len(content) * share))])
    with pytest.raises(MediaError, match=r"a\.nii") as caught:
        read(folder / f"a{suffix}")
    assert "\n" not in str(caught.value)


def _header(dim: tuple[int, ...], offset: float = 352, datatype: int = 4, bits: int = 16) -> bytearray:
    header = bytearray(352)
    header[:4] = struct.pack("<i", 348)
    header[40:56] = struct.pack("<8h", *dim, *[1] * (8 - len(dim)))
    header[70:74] = struct.pack("<2h", datatype, bits)
    header[76:108] = struct.pack("<8f", *[1] * 8)
    header[108:116] = struct.pack("<2f", offset, 1)
    header[344:348] = b"n+1\0"
    return header


@pytest.mark.parametrize(
    ("dim", "offset", "reason"),
    [
        ((3, 32000, 32000, 32000), 352, "32,000 x 32,000 x 32,000 voxels, more than the limit"),
        ((3, 0, 5, 5), 352, "5 x 5 x 0"),
        ((3, -4, 5, 5), 352, "5 x 5 x -4"),
        ((9, 4, 5, 5), 352, "declares 9 dimensions"),
        ((3, 500, 500, 500), 352, "declares 250,000,000 bytes of voxels but the file is shorter"),
        ((3, 5, 5, 5), 1e12, "puts the voxels at byte 999,999,995,904"),
        ((3, 5, 5, 5), float("nan"), "puts the voxels at byte nan"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_lying_header_allocates_nothing(dim, offset, reason, packed: bool, tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / ("a.nii.gz" if packed else "a.nii")
    content = bytes(_header(dim, offset))
    path.write_bytes(gzip.compress(content) if packed else content)
    read_error = pytest.raises(MediaError, match=reason)
    tracemalloc.start()
    with read_error:
        read(path)
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()


def test_gzip_bomb_is_read_no_further_than_its_header_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.nii.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(bytes(_header((3, 10, 10, 10))))
        for _ in range(64):
            file.write(b"\0" * 2**20)
    import tracemalloc

    tracemalloc.start()
    assert read(path).array.shape == (10, 10, 10)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
    monkeypatch.setattr(limits, "MAX_VOXELS", 999)
    with pytest.raises(MediaError, match="limit of 999"):
        read(path)


def test_pair_and_analyze_headers_are_named(tmp_path: Path) -> None:
    header = _header((3, 5, 5, 5))
    header[344:348] = b"ni1\0"
    (tmp_path / "a.hdr").write_bytes(header)
    with pytest.raises(MediaError, match="half of a NIfTI pair"):
        read(tmp_path / "a.hdr")
    header[344:348] = b"\0\0\0\0"
    (tmp_path / "b.hdr").write_bytes(header)
    with pytest.raises(MediaError, match="ANALYZE"):
        read(tmp_path / "b.hdr")


def test_missing_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nib.save(nib.Nifti1Image(np.zeros((4, 3, 2), np.uint8), np.eye(4)), tmp_path / "a.nii")
    monkeypatch.setitem(__import__("sys").modules, "nibabel", None)
    with pytest.raises(MissingExtraError, match=r"a\.nii needs the library nibabel.*medimg-zoo\[imaging\]"):
        read(tmp_path / "a.nii")


def test_every_flipped_bit_of_a_packed_file_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = rng.integers(0, 1000, (12, 11, 10)).astype(np.int16)
    nib.save(nib.Nifti1Image(data, np.eye(4)), path := tmp_path / "a.nii.gz")
    content = path.read_bytes()
    assert read(path).array[9, 10, 11] == data[11, 10, 9]
    for place in [*rng.integers(10, len(content) - 8, 25), *range(len(content) - 8, len(content))]:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(MediaError, match="damaged"):
            read(path)


def _world(image, h: int, w: int) -> np.ndarray:
    return (image.affine @ [w, h, 0, 1])[:3]


@pytest.mark.parametrize("orientation", ALL_ORIENTATIONS[::3])
def test_a_lone_slice_is_shown_as_radiologists_do_and_its_mask_turned_back(orientation, tmp_path) -> None:
    through = orientation[2][0]
    shape = (3, 4, 1)
    data = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    affine = _affine(orientation, (2.0, 3.0, 4.0), (5.0, 6.0, 7.0))
    nib.save(nib.Nifti1Image(data, affine), tmp_path / "a.nii.gz")
    stored = nib.load(tmp_path / "a.nii.gz")
    image = read(tmp_path / "a.nii.gz", mode="image")
    columns, rows = [axis for axis in range(3) if axis != through]
    assert np.flatnonzero(_world(image, 1, 0) - _world(image, 0, 0)).tolist() == [rows]
    assert np.flatnonzero(_world(image, 0, 1) - _world(image, 0, 0)).tolist() == [columns]
    assert _world(image, 1, 0)[rows] < _world(image, 0, 0)[rows]  # to the back or the feet
    assert _world(image, 0, 1)[columns] < _world(image, 0, 0)[columns]  # to the left or the back
    for h, w in np.ndindex(*image.size):  # every pixel is where it was
        i, j, k = np.rint(np.linalg.solve(affine, [*_world(image, h, w), 1])[:3]).astype(int)
        assert image.array[h, w] == data[i, j, k]
    assert image.spacing == tuple(
        np.linalg.norm(_world(image, *step) - _world(image, 0, 0)) for step in ((1, 0), (0, 1))
    )
    written = nib.load(write_mask(tmp_path / "mask", image.array, image))
    np.testing.assert_array_equal(written.affine, stored.affine)
    np.testing.assert_array_equal(np.asarray(written.dataobj), data)


def test_a_file_of_two_dimensions_is_upright_too(tmp_path: Path) -> None:
    data = np.arange(6, dtype=np.uint8).reshape(2, 3)
    nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / "a.nii")
    image = read(tmp_path / "a.nii")
    np.testing.assert_array_equal(image.array, data.T[::-1, ::-1])
    np.testing.assert_array_equal(np.asarray(nib.load(write_mask(tmp_path / "m", image.array, image)).dataobj), data)
    source = nib.Nifti1Image(data, None)
    assert (int(source.header["sform_code"]), int(source.header["qform_code"])) == (0, 0)
    nib.save(source, tmp_path / "unplaced.nii")
    np.testing.assert_array_equal(read(tmp_path / "unplaced.nii").array, data.T)


def test_a_zero_sform_leaves_the_qform(tmp_path: Path) -> None:
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    source = nib.Nifti1Image(np.ones((4, 3, 2), np.uint8), affine)
    source.set_qform(affine, 1)
    source.set_sform(affine, 1)
    nib.save(source, path := tmp_path / "a.nii")
    content = bytearray(path.read_bytes())
    content[280:328] = bytes(48)  # srow_x, srow_y, srow_z
    path.write_bytes(content)
    image = read(path)
    np.testing.assert_allclose(image.affine, affine)
    assert image.notes == ("its sform is not a valid map to millimetres; the qform was used",)
    np.testing.assert_allclose(nib.load(write_mask(tmp_path / "m", image.array, image)).affine, affine)


@pytest.mark.parametrize("axis", [0, 1, 2], ids=["sagittal", "coronal", "axial"])
@pytest.mark.parametrize("codes", [(1, 1), (0, 0)])
def test_a_slice_in_any_direction_is_an_image_and_its_mask_lies_on_it(axis: int, codes, tmp_path: Path) -> None:
    from zoo.data.case import Case
    from zoo.data.sets import read_mask

    rng, shape = np.random.default_rng(axis), [5, 6, 7]
    shape[axis] = 1
    data = rng.integers(0, 900, shape, dtype=np.int16)
    source = nib.Nifti1Image(data, np.array([[-2.0, 0, 0, 9], [0, 3, 0, 8], [0, 0, 4, 7], [0, 0, 0, 1]]))
    source.set_sform(source.affine, codes[0])
    source.set_qform(source.affine, codes[1])
    nib.save(source, tmp_path / "a.nii.gz")
    picture = read(tmp_path / "a.nii.gz").require_2d()
    assert picture.ndim_spatial == 2
    assert sorted(picture.array.ravel()) == sorted(data.ravel())
    if codes[0]:  # rows to the feet or the back, columns to the patient's left or the back
        rows, columns = {0: (2, 1), 1: (2, 0), 2: (1, 0)}[axis]
        upright = np.flip(data.squeeze(axis).T, 0)
        assert picture.spacing == ((2.0, 3.0, 4.0)[rows], (2.0, 3.0, 4.0)[columns])
        np.testing.assert_array_equal(picture.array, upright if axis != 0 else np.flip(upright, 1))
    written = write_mask(tmp_path / "mask", (picture.array > 400).astype(np.uint8), picture)
    stored = nib.load(written)
    np.testing.assert_array_equal(np.asarray(stored.dataobj), data > 400)
    np.testing.assert_allclose(stored.affine, nib.load(tmp_path / "a.nii.gz").affine)
    mask = read_mask(Case("", "a", masks={"mask": str(written)}))  # as a training meets it beside its image
    np.testing.assert_array_equal(mask, picture.array > 400)
