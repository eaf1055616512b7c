"""k-space: transforms, masks, files with frequency 0 in the middle or in a corner, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.data import phantoms
from zoo.data.kspace import lines, read_array, read_kspace, simulate, to_image, to_kspace
from zoo.data.sets import load_dataset
from zoo.errors import DataError, MediaError

sides = st.integers(8, 21)


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    real, imaginary = np.random.default_rng(seed).normal(size=(2, *shape))
    return (real + 1j * imaginary).astype(np.complex64)


def phantom(size: int = 32) -> np.ndarray:
    return phantoms.make(f"phantom:k-space?size={size}&seed=3").attributes["kspace"]


@settings(deadline=None)
@given(sides, sides)
def test_the_inverse_transform_is_inverse_and_adjoint_at_odd_sizes_too(h: int, w: int) -> None:
    x, k = drawn(h, w), drawn(h, w, seed=1)
    np.testing.assert_allclose(to_image(to_kspace(x)), x, atol=1e-5)
    np.testing.assert_allclose(np.vdot(to_kspace(x), k), np.vdot(x, to_image(k)), rtol=1e-4, atol=1e-3)


@settings(deadline=None)
@given(sides, st.integers(16, 70), st.floats(2, 8))
def test_a_mask_has_its_share_of_whole_columns_and_the_middle_ones(h: int, w: int, acceleration: float) -> None:
    mask = lines((h, w), acceleration, 0.08, np.random.default_rng(0))
    assert (mask == mask[:1]).all()
    assert mask[0].sum() == max(round(w / acceleration), 2, max(1, round(0.08 * w)))
    assert mask[0, w // 2]


def test_a_count_of_central_lines_is_kept_around_frequency_zero() -> None:
    mask = lines((32, 32), 3, 5, np.random.default_rng(1))[0]
    assert mask[14:19].all()
    assert mask.sum() == 11
    assert (lines((9, 9), 1, 9, np.random.default_rng(1))).all()


@pytest.mark.parametrize("size", [32, 33])
def test_where_frequency_zero_lies_is_found_and_told(size: int) -> None:
    k = phantom(size)
    centred, cornered = read_kspace(k), read_kspace(np.fft.ifftshift(k))
    assert (centred.convention, cornered.convention) == ("centre", "corner")
    np.testing.assert_array_equal(centred.data, cornered.data)
    assert "in a corner" in cornered.notes[0]
    np.testing.assert_allclose(centred.truth, to_image(k)[None], atol=1e-6)
    with pytest.raises(MediaError, match="say convention=centre"):
        read_kspace(drawn(16, 16))


def test_a_mask_is_taken_from_zeros_and_said_so_or_given_in_the_files_convention() -> None:
    k = phantom()
    mask = lines(k.shape, 4, 0.08, np.random.default_rng(0))
    told = read_kspace(k * mask, convention="centre")
    np.testing.assert_array_equal(told.mask, mask)
    assert told.notes == ("the mask was taken from the zeros of the k-space",)
    assert told.truth is None
    corner = read_kspace(np.fft.ifftshift(k), convention="corner", mask=np.fft.ifftshift(mask))
    np.testing.assert_array_equal(corner.mask, mask)
    np.testing.assert_array_equal(corner.data[0], k * mask)
    columns = read_kspace(k, convention="centre", mask=mask[0].astype(np.float32))
    np.testing.assert_array_equal(columns.mask, mask)


def test_simulated_lines_are_zero_and_the_truth_stays() -> None:
    whole = read_kspace(phantom())
    some = simulate(whole, 4, 0.08, np.random.default_rng(0), noise=0.1)
    assert not some.data[:, ~some.mask].any()
    assert some.truth is whole.truth
    assert not np.allclose(some.data[:, some.mask], whole.data[:, some.mask])


@pytest.mark.parametrize(
    ("array", "more", "told"),
    [
        (np.ones((16, 16), np.float32), {}, "no k-space"),
        (np.full((16, 16), np.nan + 0j), {}, "NaN"),
        (np.ones((4, 4), np.complex64), {}, "has the shape"),
        (np.zeros((16, 16), np.complex64), {"convention": "centre"}, "nothing but zeros"),
        (drawn(16, 16), {"convention": "centre", "mask": np.ones(9)}, "give one that fits"),
        (drawn(16, 16), {"convention": "centre", "mask": np.full(16, 0.5)}, "0 and 1"),
    ],
)
def test_what_is_no_kspace_is_refused(array: np.ndarray, more: dict[str, Any], told: str) -> None:
    with pytest.raises(MediaError, match=told):
        read_kspace(array, **more)


def test_arrays_are_read_without_pickles_and_their_size_before_memory_is_taken(tmp_path: Path) -> None:
    k = phantom()
    parts = np.stack([k.real, k.imag], -1)
    np.save(tmp_path / "parts.npy", parts[None])
    np.testing.assert_allclose(read_kspace(tmp_path / "parts.npy").data[0], k)
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    with open(tmp_path / "vast.npy", "wb") as file:
        header = {"descr": "<c8", "fortran_order": False, "shape": (1 << 20, 1 << 20, 8)}
        np.lib.format.write_array_header_1_0(file, header)
    (tmp_path / "text.npy").write_text("no array")
    with open(tmp_path / "short.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<c8", "fortran_order": False, "shape": (9, 99, 99)})
    for name, told in (
        ("objects", "no numbers"),
        ("vast", "MAX_VOXELS"),
        ("text", "no NumPy array"),
        ("short", "short"),
    ):
        with pytest.raises(MediaError, match=told):
            read_array(tmp_path / f"{name}.npy")
    with pytest.raises(MediaError, match="no such file"):
        read_kspace(tmp_path / "nowhere.npy")


def test_both_public_sets_are_read_as_unpacked(tmp_path: Path) -> None:
    k = np.fft.ifftshift(phantom())
    for part, names in {"Train": ("e14089", "e14296"), "Val": ("e15791",)}.items():
        folder = tmp_path / "cc" / "Single-channel" / part
        folder.mkdir(parents=True)
        for name in names:
            np.save(folder / f"{name}.npy", np.stack([k.real, k.imag], -1)[None].astype(np.float32))
    cases = load_dataset(f"cc359:{tmp_path / 'cc'}")
    assert [entry.split for entry in cases.entries] == ["train", "train", "validation"]
    assert cases[0].attributes == {"site": "cc359", "convention": "corner"}
    np.testing.assert_allclose(read_kspace(cases[0].image, convention="corner").data[0], phantom(), atol=1e-6)
    with pytest.raises(DataError, match="holds no"):
        load_dataset(f"fastmri:{tmp_path / 'cc'}")


def test_fastmri_files_are_read_with_their_own_mask(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    k = phantom()
    mask = lines(k.shape, 4, 0.08, np.random.default_rng(0))
    for folder, with_mask in (("singlecoil_train", False), ("singlecoil_test", True)):
        (tmp_path / folder).mkdir()
        with h5py.File(tmp_path / folder / "file1000001.h5", "w") as file:
            file["kspace"] = np.stack([k, k]) * (mask if with_mask else 1)
            if with_mask:
                file["mask"] = mask[0]
    cases = load_dataset(f"fastmri:{tmp_path}")
    assert cases.ids == ["train/file1000001"]
    whole = read_kspace(cases[0].image)
    assert whole.full
    assert (whole.data.shape, whole.convention, whole.notes) == ((2, 32, 32), "centre", ())
    np.testing.assert_array_equal(read_kspace(tmp_path / "singlecoil_test" / "file1000001.h5").mask, mask)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["image"] = k
    with pytest.raises(MediaError, match="no data set kspace"):
        read_kspace(tmp_path / "other.h5")


def test_the_phantom_is_its_seed_and_its_sites_differ() -> None:
    one, again = (phantoms.make("phantom:k-space?size=32&seed=4") for _ in range(2))
    np.testing.assert_array_equal(one.attributes["kspace"], again.attributes["kspace"])
    np.testing.assert_allclose(np.abs(to_image(one.attributes["kspace"])), one.image, atol=1e-5)
    sites = {site: phantoms.make(f"phantom:k-space?size=32&seed=4&site={site}").image for site in "abc"}
    assert not np.array_equal(sites["a"], sites["b"])
    with pytest.raises(DataError, match="16 to"):
        phantoms.make("phantom:k-space?size=8")
