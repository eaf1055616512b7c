"""Clouds of points: views, surfaces, and files that other programs open."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from zoo.figure import points as drawing


@pytest.fixture(scope="module")
def cloud() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A ball of label 1 inside a box of label 0, on planes."""
    z, y, x = np.mgrid[:12, :24, :24]
    xyz = np.column_stack([x.ravel(), y.ravel(), z.ravel()]).astype(np.float32)
    label = (((xyz - (12, 12, 6)) ** 2).sum(1) < 30).astype(np.uint8)
    return xyz, label, np.linspace(0, 1, len(xyz), dtype=np.float32)


def test_views_show_what_is_solid_within_the_haze(cloud):
    picture = drawing.view(*cloud, pitch=1.0, side=128).astype(int)
    assert (picture[..., 0] > picture[..., 2] + 40).sum() > 300
    assert (picture[..., 2] > picture[..., 0] + 10).sum() > 300
    assert (picture[0] == 255).all()  # all of it stays inside
    assert not np.array_equal(picture, drawing.view(*cloud, pitch=1.0, azimuth=60, side=128))


def test_what_is_nearer_hides_what_is_behind_and_denser_is_darker():
    xyz = np.array([[0, -5, 0], [0, 5, 0]], np.float32)  # one behind the other, seen from the front
    label = np.ones(2, np.uint8)
    dense_in_front, dense_behind = (
        drawing.view(xyz, label, np.array(density, np.float32), pitch=4.0, azimuth=0, elevation=0, side=64)
        for density in ([1, 0], [0, 1])
    )
    assert int(dense_in_front[32, 32, 0]) < int(dense_behind[32, 32, 0]) - 20


def test_a_surface_encloses_its_points(cloud):
    xyz, label, _ = cloud
    ball = xyz[label == 1]
    mesh = drawing.surface(ball, list(range(12)), 1.0, 24.0)
    assert mesh is not None
    assert (mesh.vertices.min(0) <= ball.min(0)).all()
    assert (mesh.vertices.max(0) >= ball.max(0)).all()
    assert drawing.surface(ball[:3], [0.0], 1.0, 24.0) is None


def test_meshes_open_in_other_programs(cloud, tmp_path):
    trimesh = pytest.importorskip("trimesh")
    mesh = drawing.surface(cloud[0], list(range(12)), 1.0, 24.0)
    ply, obj = (trimesh.load(write(tmp_path / "a", mesh)) for write in (drawing.write_ply, drawing.write_obj))
    assert ply.is_watertight
    assert np.allclose(np.asarray(ply.vertices), mesh.vertices, atol=1e-4)
    assert np.array_equal(np.asarray(ply.faces), mesh.faces)
    assert len(obj.faces) == len(mesh.faces)
    assert np.allclose(ply.bounds, obj.bounds, rtol=1e-4)


def test_a_cloud_opens_in_other_programs_with_all_its_properties(cloud, tmp_path):
    trimesh = pytest.importorskip("trimesh")
    xyz, label, density = cloud
    layer = xyz[:, 2].astype(np.int32)
    colours = drawing.solid_and_haze(label, density)
    path = drawing.write_cloud(tmp_path / "a", xyz, colours, {"label": label, "layer": layer, "density": density})
    assert np.allclose(np.asarray(trimesh.load(path).vertices), xyz)
    header, _, body = path.read_bytes().partition(b"end_header\n")
    assert f"element vertex {len(xyz)}".encode() in header
    rows = np.frombuffer(body, [("xyz", "<f4", 3), ("rgb", "u1", 3), ("label", "u1"), ("layer", "<i4"), ("d", "<f4")])
    assert np.array_equal(rows["rgb"], colours)
    assert np.array_equal(rows["label"], label)
    assert np.array_equal(rows["layer"], layer)
    assert np.array_equal(rows["d"], density)
    assert (colours[label == 1, 0] > colours[label == 1, 2]).all()


def test_one_view_is_a_png_and_several_are_an_animation(cloud, tmp_path):
    def view() -> np.ndarray:
        return drawing.view(*cloud, side=64)

    assert Image.open(drawing.write_views(tmp_path / "a", [view])).size == (64, 64)
    moving = Image.open(drawing.write_views(tmp_path / "a", [view, lambda: drawing.view(*cloud, azimuth=90, side=64)]))
    assert (moving.format, moving.n_frames) == ("GIF", 2)
