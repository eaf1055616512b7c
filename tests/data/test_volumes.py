from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from zoo import media
from zoo.data import volumes
from zoo.data.volumes import (
    Grid,
    components,
    label_map,
    largest_component,
    percentiles,
    resample,
    standardise,
    volumes_ml,
    voxels,
    window,
)
from zoo.errors import MediaError, OptionError

nib = pytest.importorskip("nibabel")

SHAPES = st.tuples(*[st.integers(2, 9)] * 3)
SPACINGS = st.tuples(*[st.floats(0.5, 4)] * 3)
CODES = st.sampled_from(["RAS", "LPS", "LAS", "SRP", "AIL", "PSR"])


@st.composite
def grids(draw: Callable, turns: float = 180) -> Grid:
    """Anisotropic and oblique; flipped and swapped where turned far or mirrored."""
    w, h, z = draw(st.permutations(range(3)))
    axes = np.eye(3)[:, [w, h, z]] * draw(st.tuples(*[st.sampled_from([1.0, -1.0])] * 3))
    angles = draw(st.tuples(*[st.floats(-turns, turns)] * 3))
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ axes * draw(SPACINGS)
    affine[:3, 3] = draw(st.tuples(*[st.floats(-200, 200)] * 3))
    return Grid(draw(SHAPES), affine)


def _index(shape: tuple[int, int, int]) -> np.ndarray:
    """Homogeneous indices (w, h, z, 1) of every voxel: [4 z h w]."""
    z, h, w = np.indices(shape)
    return np.stack([w, h, z, np.ones_like(w)]).astype(float)


def _places(grid: Grid) -> np.ndarray:
    return np.einsum("ij,jzhw->izhw", grid.affine, _index(grid.shape))


def _ramp(places: np.ndarray) -> np.ndarray:
    """A linear function of the place in the patient, which linear interpolation gives back exactly."""
    return 0.3 * places[0] - 0.7 * places[1] + 0.5 * places[2] + 11


def _within(grid: Grid, places: np.ndarray, margin: float) -> np.ndarray:
    """Which places lie in the box of the grid's voxel centres, grown by ``margin`` voxels."""
    index = np.einsum("ij,jzhw->izhw", np.linalg.inv(grid.affine), places)[2::-1]
    last = np.array(grid.shape)[:, None, None, None] - 1
    return ((index >= -margin) & (index <= last + margin)).all(axis=0)


@given(grids(), CODES, SPACINGS)
@settings(max_examples=40)
def test_a_value_stays_at_its_place_in_the_patient(native: Grid, code: str, spacing: tuple) -> None:
    grid = native.oriented(code).spaced(spacing)
    moved = resample(_ramp(_places(native)), native, grid)
    inner = _within(native, _places(grid), 1e-9)
    np.testing.assert_allclose(moved[inner], _ramp(_places(grid))[inner], atol=1e-3)


@given(grids(), grids())
@settings(max_examples=30)
def test_a_template_of_other_directions_meets_the_same_places(native: Grid, template: Grid) -> None:
    template = Grid(template.shape, native.affine @ _turn(template.affine, native))
    moved = resample(_ramp(_places(native)), native, template, outside=-999.0)
    places = _places(template)
    inner = _within(native, places, 1e-9)
    np.testing.assert_allclose(moved[inner], _ramp(places)[inner], atol=1e-3)
    assert (moved[~_within(native, places, 0.5 + 1e-5)] == -999).all()
    assert (moved[_within(native, places, 0.5 - 1e-5)] != -999).all()


def _turn(other: np.ndarray, native: Grid) -> np.ndarray:
    """An index map that turns and scales about the middle of ``native``, so that the two grids overlap."""
    middle = np.eye(4)
    middle[:3, 3] = [(n - 1) / 2 for n in native.shape[::-1]]
    turn = np.eye(4)
    turn[:3, :3] = other[:3, :3] / 2
    back = np.eye(4)
    back[:3, 3] = -2.0
    return middle @ turn @ back


@given(grids(), CODES, st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_a_change_of_orientation_moves_whole_voxels(native: Grid, code: str, seed: int) -> None:
    array = np.random.default_rng(seed).normal(size=native.shape).astype(np.float32)
    grid = native.oriented(code)
    moved = resample(array, native, grid)
    assert sorted(moved.ravel()) == sorted(array.ravel())
    np.testing.assert_array_equal(resample(moved, grid, native), array)
    back = grid.oriented(native.orientation)
    assert back.shape == native.shape
    np.testing.assert_allclose(back.affine, native.affine, atol=1e-9)


@given(grids(turns=20))
@settings(max_examples=20)
def test_ras_is_nibabels_closest_canonical(native: Grid) -> None:
    array = np.arange(math.prod(native.shape), dtype=np.int16).reshape(native.shape)
    expected = nib.as_closest_canonical(nib.Nifti1Image(array.T, native.affine))
    grid = native.oriented("RAS")
    np.testing.assert_array_equal(resample(array, native, grid, mode="nearest"), np.asarray(expected.dataobj).T)
    np.testing.assert_allclose(grid.affine, expected.affine, atol=1e-4)
    assert grid.orientation == "RAS"


@given(grids(), CODES, st.tuples(*[st.floats(0.3, 0.97)] * 3), st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_labels_come_back_as_they_were_from_a_finer_grid(native: Grid, code: str, finer: tuple, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 4, native.shape).astype(np.uint8)
    grid = native.oriented(code)
    grid = grid.spaced(tuple(s * f for s, f in zip(grid.spacing, finer, strict=True)))
    there = resample(labels, native, grid, mode="nearest")
    back = resample(there, grid, native, mode="nearest")
    assert back.dtype == labels.dtype
    # A grid is a whole number of voxels: where rounding made its field of view smaller, an edge may miss its voxel.
    inside = _within(grid, _places(native), 0.5)
    np.testing.assert_array_equal(back[inside], labels[inside])
    assert inside[1:-1, 1:-1, 1:-1].all()


@given(grids(), SPACINGS)
def test_a_spacing_keeps_the_field_of_view(native: Grid, spacing: tuple) -> None:
    grid = native.spaced(spacing)
    np.testing.assert_allclose(grid.spacing, spacing, rtol=1e-4)
    (before, after) = ([*[(n - 1) / 2 for n in one.shape[::-1]], 1] for one in (native, grid))
    np.testing.assert_allclose(grid.affine @ after, native.affine @ before, atol=1e-6)
    for n, s, m, t in zip(native.shape, native.spacing, grid.shape, grid.spacing, strict=True):
        assert abs(n * s - m * t) <= t / 2 + 1e-6 or m == 1


def test_a_spacing_that_is_there_already_leaves_the_voxels_alone() -> None:
    native = Grid((4, 5, 6), np.diag([np.float32(0.7), np.float32(0.7), 3.0, 1.0]).astype(float))
    grid = native.spaced((3.0, 0.7, 0.7))
    array = np.random.default_rng(0).normal(size=native.shape).astype(np.float32)
    np.testing.assert_array_equal(resample(array, native, grid), array)


def test_resizing_and_fitting_keep_the_centre() -> None:
    native = Grid((10, 6, 7), np.diag([1.0, 2.0, 3.0, 1.0]))
    resized = native.resized((5, 12, 7))
    assert resized.shape == (5, 12, 7)
    np.testing.assert_allclose(resized.spacing, (6, 1, 1))
    array = np.arange(10 * 6 * 7, dtype=np.int16).reshape(10, 6, 7)
    fitted = native.fitted((4, 8, 7))
    moved = resample(array, native, fitted, mode="nearest", outside=-1.0)
    np.testing.assert_array_equal(moved[:, 1:-1], array[3:7])
    assert (moved[:, [0, -1]] == -1).all()
    np.testing.assert_array_equal(resample(moved, fitted, native, mode="nearest", outside=0.0)[3:7], array[3:7])


def test_large_volumes_go_through_in_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    native = Grid((40, 9, 8), np.diag([-1.0, 1.1, 0.9, 1.0]))
    grid = native.oriented("SAR").spaced((0.8, 0.7, 1.3))
    array = np.random.default_rng(1).normal(size=native.shape).astype(np.float16)
    whole = resample(array, native, grid, outside=0.0)
    monkeypatch.setattr(volumes, "_SLAB_VOXELS", 100)
    assert len(list(grid.slabs())) > 2
    np.testing.assert_allclose(resample(array, native, grid, outside=0.0), whole, atol=1e-6)


@pytest.mark.parametrize("frames", [(), (1,)], ids=["3-D", "4-D with one frame"])
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, -1)], ids=["straight", "flipped"])
@pytest.mark.parametrize("angle", [0, 17], ids=["axial", "oblique"])
def test_a_file_comes_back_on_its_own_grid(frames: tuple, flips: tuple, angle: float, tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xz", (angle, angle / 2), degrees=True).as_matrix() * (0.9, 0.8, 4.0) * flips
    affine[:3, 3] = (-80, 30, 512)
    data = np.zeros((20, 22, 7), np.int16)
    data[5:12, 8:15, 2:5] = 300
    nib.save(nib.Nifti1Image(data.reshape(*data.shape, *frames), affine), tmp_path / "ct.nii.gz")
    stored = nib.load(tmp_path / "ct.nii.gz")

    image = media.read(tmp_path / "ct.nii.gz")
    array, native = voxels(image, "fseft")
    grid = native.oriented("RAS").spaced((1.5, 0.75, 0.75))
    seen = resample(array, native, grid) > 150
    probability = resample(seen.astype(np.float16), grid, native)
    written = nib.load(media.write_mask(tmp_path / "mask", probability > 0.5, image))

    np.testing.assert_array_equal(written.affine, stored.affine)
    assert written.get_data_dtype() == np.uint8
    mask = np.asarray(written.dataobj)
    assert mask.shape == data.shape
    np.testing.assert_array_equal(mask, data > 150)
    assert volumes_ml(mask.T, native, {1: "organ"})["organ"] == pytest.approx(7 * 7 * 3 * 0.9 * 0.8 * 4 / 1000)


def test_labels_are_the_best_of_resampled_scores() -> None:
    native = Grid((9, 8, 7), np.diag([1.0, 1.0, 2.0, 1.0]))
    grid = native.spaced((1.0, 1.5, 1.5)).fitted((10, 5, 5))
    scores = np.random.default_rng(3).normal(size=(4, *grid.shape)).astype(np.float16)
    labels = label_map(scores, grid, native)
    apart = np.stack([resample(score, grid, native) for score in scores]).argmax(axis=0)
    inside = _within(grid, _places(native), 0.5)
    assert labels.dtype == np.uint8
    assert not inside.all()
    np.testing.assert_array_equal(labels[inside], apart[inside])
    assert (labels[~inside] == 0).all()


def test_an_array_with_spacing_counts_as_ras_as_write_mask_does(tmp_path: Path) -> None:
    image = media.Image(np.ones((3, 4, 5), np.float32), spacing=(3.0, 2.0, 1.0), ndim_spatial=3)
    _, native = voxels(image)
    assert (native.orientation, native.spacing) == ("RAS", (3.0, 2.0, 1.0))
    written = nib.load(media.write_mask(tmp_path / "m", np.ones(image.size, np.uint8), image))
    np.testing.assert_array_equal(written.affine, native.affine)


def test_one_frame_as_fourth_axis_is_dropped() -> None:
    array, native = voxels(media.Image(np.zeros((3, 4, 5, 1)), spacing=(1.0, 1.0, 1.0), ndim_spatial=3))
    assert array.shape == native.shape == (3, 4, 5)


def _sheared() -> np.ndarray:
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[1, 2] = 0.5  # a gantry tilted by 14 degrees
    return affine


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (media.Image(np.zeros((4, 4, 4)), affine=_sheared(), ndim_spatial=3), "stand at 76.0 degrees to each other"),
        (media.Image(np.zeros((4, 4, 4)), affine=np.zeros((4, 4)), ndim_spatial=3), "no map to millimetres"),
        (media.Image(np.zeros((4, 4, 4, 5)), ndim_spatial=3), "holds 5 frames or channels; extract one"),
        (media.Image(np.zeros((4, 4, 4)), spacing=(1.0, 0.0, 1.0), ndim_spatial=3), "isn't three positive numbers"),
        (media.Image(np.zeros((4, 4))), "fseft takes volumes but array is a 2-D image"),
    ],
)
def test_what_is_no_volume_on_a_grid_is_refused(image: media.Image, sentence: str) -> None:
    with pytest.raises(MediaError, match=sentence) as refusal:
        voxels(image, "fseft")
    assert "\n" not in str(refusal.value)


def test_several_frames_in_a_file_are_refused(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 3), np.int16), np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(MediaError, match=r"it holds 3 volumes .*; extract one of them"):
        media.read(tmp_path / "a.nii.gz")


def test_without_spacing_only_what_needs_none_goes() -> None:
    array, native = voxels(media.read(np.zeros((4, 5, 6), np.float32), mode="volume"))
    assert not native.measured
    assert resample(array, native, native.resized((8, 8, 8))).shape == (8, 8, 8)
    for ask, what in (
        (lambda: native.spaced((1.5, 1.5, 1.5)), "resampling to 1.5 x 1.5 x 1.5 mm"),
        (lambda: volumes_ml(array > 0, native, {1: "liver"}), "its volume in ml"),
    ):
        with pytest.raises(MediaError, match=f"{what} can't be known for array: it states no spacing"):
            ask()


def test_grids_that_cannot_be_are_refused() -> None:
    native = Grid((4, 4, 4), np.eye(4), "ct.nii.gz")
    for code in ("RAX", "RRS", "RA", "ras"):
        with pytest.raises(OptionError, match="three letters"):
            native.oriented(code)
    with pytest.raises(OptionError, match="three positive numbers"):
        native.spaced((1.0, -1.0, 1.0))
    with pytest.raises(
        MediaError, match=r"can't resample ct.nii.gz from 1 x 1 x 1 mm to 0.001 x .* more than the limit"
    ):
        native.spaced((0.001, 0.001, 0.001))


def test_windows_and_scales_of_grey_values() -> None:
    hu = np.array([[-1000, -175], [250, 3000]], np.int16)
    np.testing.assert_array_equal(window(hu, -175.0, 250.0), [[0, 0], [1, 1]])
    assert window(hu, 5.0, 5.0).tolist() == [[0, 0], [0, 0]]
    ramp = np.arange(1001, dtype=np.float32).reshape(7, 11, 13)
    assert percentiles(ramp) == pytest.approx((5, 995))
    assert percentiles(ramp, 0.0, 50.0, inside=ramp >= 500) == pytest.approx((500, 750))
    brain = ramp > 100
    scaled = standardise(ramp, brain)
    assert (scaled[brain].mean(), scaled[brain].std()) == pytest.approx((0, 1), abs=1e-5)
    assert scaled[0, 0, 0] < scaled[brain].min()
    assert not standardise(np.full((2, 3, 4), 7, np.int16)).any()


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 0.6), st.sampled_from([6, 18, 26]))
@settings(max_examples=25)
def test_each_label_keeps_its_largest_part(seed: int, share: float, connectivity: int) -> None:
    measure = pytest.importorskip("skimage.measure")
    rng = np.random.default_rng(seed)
    labels = (rng.integers(1, 4, (6, 7, 5)) * (rng.random((6, 7, 5)) < share)).astype(np.uint8)
    kept = largest_component(labels, connectivity)
    reach = {6: 1, 18: 2, 26: 3}[connectivity]
    for label in (1, 2, 3):
        parts = measure.label(labels == label, connectivity=reach)
        sizes = np.bincount(parts.ravel())[1:]
        one = np.unique(parts[kept == label])
        assert len(one) == (len(sizes) > 0)
        assert (kept == label).sum() == max(sizes, default=0)
    mask = labels > 0
    largest = largest_component(mask, connectivity)
    assert largest.dtype == bool
    assert largest.sum() == max(components(mask, connectivity)[1][1:], default=0)


def test_parts_are_counted_with_their_sizes() -> None:
    mask = np.zeros((3, 6, 6), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = True  # touch at a corner
    mask[2, 4:, 4:] = True
    assert components(mask)[1].tolist() == [102, 2, 4]
    assert components(mask, 6)[1].tolist() == [102, 1, 1, 4]


def test_volumes_by_name_with_absent_ones() -> None:
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[0] = 2
    grid = Grid((4, 5, 6), np.diag([1.0, 2.0, 5.0, 1.0]))
    assert volumes_ml(labels, grid, {1: "kidney", 2: "liver"}) == {"kidney": 0.0, "liver": pytest.approx(0.3)}
    with pytest.raises(ValueError, match="do not lie on a grid"):
        volumes_ml(labels[1:], grid, {1: "kidney"})


def test_the_python_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("monai")
    page = (Path(__file__).parents[2] / "docs" / "volumes.md").read_text(encoding="utf-8")
    code = page.split("```python\n")[1].split("```")[0]
    data = np.full((20, 18, 8), -1000, np.int16)
    data[4:12, 5:13, 2:6] = 200
    data[16, 16, 7] = 200
    affine = np.diag([-2.0, -2.0, 3.0, 1.0])
    nib.save(nib.Nifti1Image(data, affine), tmp_path / "ct.nii.gz")
    monkeypatch.chdir(tmp_path)
    names = {"network": lambda x: 20 * (x - 0.5)}
    exec(compile(code, "volumes.md", "exec"), names)
    written = nib.load(tmp_path / "liver.nii.gz")
    np.testing.assert_array_equal(written.affine, affine)
    mask, truth = np.asarray(written.dataobj) > 0, data > 0
    truth[16, 16, 7] = False  # not the largest part
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.9
