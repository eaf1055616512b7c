"""Points, bands, and finding known motions again."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.data.rigid import IDENTITY, Motion, about
from zoo.models.pointcloud_recon3d.data import Cloud, Layer, cloud_of, grid_of, planes_between
from zoo.models.pointcloud_recon3d.registration import Band, Rule, densest_band, register_stack

CENTRE = (100.0, 80.0)


def cloud(points: np.ndarray) -> Cloud:
    return Cloud(points.astype(np.float32), np.ones(len(points), np.float32))


def layer(points: np.ndarray, tissue: np.ndarray | None = None) -> Layer:
    return Layer(cloud(points), cloud(points if tissue is None else tissue), CENTRE, (160, 200))


def motion(angle: float, dx: float, dy: float) -> Motion:
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    R, centre = np.array([[c, -s], [s, c]]), np.array(CENTRE)
    return Motion(R, centre - R @ centre + (dx, dy))


@pytest.fixture
def shape() -> np.ndarray:
    return blobs()


def blobs() -> np.ndarray:
    """An asymmetrical cloud: no turn or mirror image of it fits."""
    rng = np.random.default_rng(0)
    parts = [((60, 60), 12), ((120, 70), 25), ((90, 120), 9), ((150, 110), 6)]
    return np.concatenate([middle + size * rng.uniform(-1, 1, (40 * size, 2)) * (1, 0.6) for middle, size in parts])


def test_a_cell_is_positive_from_half_on():
    mask = np.zeros((4, 6), bool)
    mask[:2, 0] = True  # half of the first cell of 2 x 2
    mask[0, 2] = True  # a quarter of the second
    assert grid_of(mask, 2).tolist() == [[True, False, False], [False, False, False]]
    assert grid_of(mask[:3, :5], 2).shape == (2, 3)  # cells at the edge may be cut


def test_points_are_in_pixels_of_the_section():
    grid = np.zeros((3, 4), bool)
    grid[1, 2] = True
    points = cloud_of(grid, 4, np.random.default_rng(0), jitter=False).points
    assert points.tolist() == [[9.5, 5.5]]  # the middle of pixels 8..11 and 4..7
    jittered = cloud_of(grid, 4, np.random.default_rng(0)).points
    assert (np.abs(jittered - points) <= 2).all()


def test_thinning_keeps_the_number_and_density_is_of_the_grid():
    grid = np.zeros((40, 40), bool)
    grid[5:35, 5:35] = True
    thinned = cloud_of(grid, 1, np.random.default_rng(0), most=100)
    assert len(thinned) == 100
    assert thinned.density.max() == pytest.approx(1)
    assert thinned.density.min() < 0.8  # at the rim


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), mode=st.sampled_from(["or", "and"]), n=st.integers(60, 800))
def test_the_densest_band_holds_a_third(seed: int, mode: str, n: int):
    points = np.random.default_rng(seed).normal(size=(n, 2)).astype(np.float32) * (30, 10)
    chosen = densest_band(points, mode).select(points, mode)
    assert chosen.mean() == pytest.approx(1 / 3, abs=2 / n + 0.002)


def test_or_is_a_cross_and_and_a_rectangle():
    points = np.array([[5, 5], [5, 50], [50, 5], [50, 50]], float)
    band = Band(0, 10, 0, 10)
    assert band.select(points).tolist() == [True, True, True, False]
    assert band.select(points, "and").tolist() == [True, False, False, False]


@settings(max_examples=8, deadline=None)
@given(angle=st.floats(-1.5, 1.5), dx=st.floats(-2, 2), dy=st.floats(-2, 2))
@pytest.mark.parametrize("select", ["auto", "all", "random"])
def test_a_known_motion_is_found(select, angle, dx, dy):
    shape = blobs()
    moved = layer(motion(angle, dx, dy).apply(shape))
    motions, reports = register_stack([layer(shape), moved], Rule(select=select))
    assert np.abs(motions[1].apply(moved.tumour.points) - shape).max() < 0.05
    assert reports[1].rmse_all < 0.05
    assert reports[1].angle == pytest.approx(-angle, abs=0.05)
    assert reports[1].flags == ()


def test_the_transform_of_the_band_moves_the_whole_layer(shape):
    moved = layer(motion(3, 4, -2).apply(shape))
    motions, reports = register_stack([layer(shape), moved], Rule(select="auto"))
    assert 0 < reports[1].selected < len(shape) / 2
    assert reports[1].points == len(shape)
    assert len(motions[1].apply(moved.tumour.points)) == len(shape)


def test_layers_are_chained(shape):
    layers = [layer(motion(2.0 * i, 3.0 * i, -2.0 * i).apply(shape)) for i in range(4)]
    for reference in ("chain", "rolling"):
        motions, _ = register_stack(layers, Rule(reference=reference))
        for one, found in zip(layers, motions, strict=True):
            assert np.abs(found.apply(one.tumour.points) - shape).max() < 0.2


def test_a_layer_turned_over_is_found_only_when_flips_are_allowed(shape):
    mirrored = shape * (-1, 1) + (2 * CENTRE[0], 0)
    layers = [layer(shape), layer(motion(2, 1, 1).apply(mirrored))]
    _, (_, without) = register_stack(layers, Rule(select="all"))
    motions, (_, report) = register_stack(layers, Rule(select="all", allow_flip=True))
    assert report.flipped
    assert not without.flipped
    assert report.rmse_all < 0.1 < without.rmse_all
    assert np.linalg.det(motions[1].R) == pytest.approx(-1)


@pytest.mark.parametrize("angle", [27, 45, 90, 180])
@pytest.mark.parametrize("select", ["all", "auto"])
def test_a_layer_far_turned_is_found(shape, select, angle):
    moved = motion(angle, 4, -3).apply(shape)
    motions, (_, report) = register_stack([layer(shape), layer(moved)], Rule(select=select))
    assert np.abs(motions[1].apply(moved) - shape).max() < 0.2
    assert report.flags == ()


def test_a_layer_that_lies_right_is_not_moved(shape):
    noise = np.random.default_rng(1).normal(0, 0.5, shape.shape)
    motions, (_, report) = register_stack([layer(shape), layer(shape + noise)], Rule())
    assert motions[1] is IDENTITY
    assert report.flags == ()


def test_an_angle_that_cannot_be_told_is_flagged():
    rng = np.random.default_rng(2)
    discs = [points[np.hypot(*points.T) < 1] * 40 + CENTRE for points in rng.uniform(-1, 1, (2, 2000, 2))]
    _, (_, report) = register_stack([layer(disc) for disc in discs], Rule())
    assert "other angles fit as well: its place is doubtful" in report.flags


def test_the_fit_is_measured_on_all_points(shape):
    stray = np.concatenate([shape, shape[::10] + np.array([0, 400]), shape[::10] - np.array([0, 400])])
    _, (_, report) = register_stack([layer(shape), layer(stray)], Rule(search=False, d_max=8))
    assert report.rmse_all > 100
    assert report.rmse_selected < 0.1
    assert report.flags == ("not found: its place is doubtful",)


def test_too_few_tumour_points_are_replaced_by_tissue(shape):
    few = shape[:20]
    layers = [layer(shape), Layer(cloud(few), cloud(motion(2, 3, 1).apply(shape)), CENTRE, (160, 200))]
    layers[0] = Layer(cloud(shape), cloud(shape), CENTRE, (160, 200))
    _, (_, report) = register_stack(layers, Rule())
    assert report.registered_on == "tissue"
    assert "fewer than 50 tumour points" in report.flags
    assert report.rmse_all < 0.1


def test_an_empty_layer_moves_with_the_one_below(shape):
    empty = np.zeros((0, 2))
    layers = [layer(shape), layer(motion(3, 2, 1).apply(shape)), layer(empty), layer(motion(1, 1, 1).apply(shape))]
    motions, reports = register_stack(layers, Rule())
    assert reports[2].registered_on == "nothing"
    assert motions[2] is motions[1]
    assert "moved as the layer below" in reports[2].flags
    assert reports[3].registered_on == "nothing"  # nothing to be moved onto


def test_about_tells_angle_and_shift_about_the_middle():
    angle, shift, flipped = about(motion(5, 2, -3), CENTRE)
    assert (angle, flipped) == (pytest.approx(5), False)
    assert shift == pytest.approx((2, -3))
    assert about(IDENTITY, CENTRE) == (0, (0, 0), False)


def test_planes_between_take_the_nearer_layer():
    planes = planes_between([0.0, 4.0], 4)
    assert planes == [(0, 0.0), (0, 1.0), (0, 2.0), (1, 3.0), (1, 4.0)]
    assert planes_between([0.0, 4.0], 1) == [(0, 0.0), (1, 4.0)]
