"""Clouds of points as pictures without a screen, their surfaces as meshes, and both as files for 3-D programs.

Needs SciPy, and scikit-image for surfaces (extra ``imaging``).
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8
from PIL import Image
from scipy import ndimage

from zoo.figure.layout import PANEL_SIDE
from zoo.storage import write_file

SOLID, HAZE = (190, 30, 25), (70, 130, 200)  # red inside blue
MOST_POINTS = 600_000  # drawn; more are thinned
_PLY_TYPES = {"f": ("<f4", "float"), "u": ("u1", "uchar"), "i": ("<i4", "int")}


@dataclass(frozen=True)
class Mesh:
    """A closed surface: vertices in the units of the cloud, triangles as rows of vertex numbers."""

    vertices: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]


@dataclass(frozen=True)
class _Camera:
    """An orthographic view that keeps one scale for all azimuths; pixels to the right and down, and away."""

    right: np.ndarray
    up: np.ndarray
    away: np.ndarray
    centre: np.ndarray
    reach: float
    side: int

    @classmethod
    def around(cls, points: np.ndarray, azimuth: float, elevation: float, side: int) -> _Camera:
        low, high = points.min(0), points.max(0)
        a, e = math.radians(azimuth), math.radians(elevation)
        right = np.array([math.cos(a), math.sin(a), 0.0])
        away = np.array([-math.sin(a) * math.cos(e), math.cos(a) * math.cos(e), -math.sin(e)])
        centre = (low + high) / 2
        around = float(np.linalg.norm((points - centre).astype(np.float64)[:, :2], axis=1).max())
        reach = max(2 * around, 2 * around * abs(math.sin(e)) + float(high[2] - low[2]) * math.cos(e), 1e-9)
        return cls(right, np.cross(right, away), away, centre, reach, side)

    @property
    def scale(self) -> float:
        return 0.95 * self.side / self.reach

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        centred = (points - self.centre).astype(np.float64)
        u = self.side / 2 + centred @ self.right * self.scale
        v = self.side / 2 - centred @ self.up * self.scale
        return u, v, centred @ self.away


def view(
    points: Float[np.ndarray, "n 3"],
    label: UInt8[np.ndarray, " n"],
    density: Float[np.ndarray, " n"],
    *,
    pitch: float = 0.0,
    azimuth: float = -35.0,
    elevation: float = 32.0,
    side: int = PANEL_SIDE,
) -> UInt8[np.ndarray, "side side 3"]:
    """Solid points (label 1) by depth, the darker the denser, inside a haze of the others (label 0).

    ``pitch``: distance of neighbouring points. ``azimuth`` turns about z, ``elevation`` looks down from above the x-y
    plane, both in degrees.
    """
    if len(points) > MOST_POINTS:
        kept = np.random.default_rng(0).choice(len(points), MOST_POINTS, replace=False)
        points, label, density = points[kept], label[kept], density[kept]
    camera = _Camera.around(points, azimuth, elevation, side)
    scale = camera.scale
    u, v, depth = camera.project(points)  # greater is farther
    fog = 0.5 * (depth - depth.min()) / max(float(np.ptp(depth)), 0.3 * camera.reach)

    solid = label == 1
    if not solid.any():
        solid = ~solid  # haze alone would be a cloud of nothing
    base = np.where(label[solid, None] == 1, SOLID, HAZE) / 255
    shade = base * (1.15 - 0.4 * np.clip(density[solid], 0, 1))[:, None]
    shade = shade + fog[solid, None] * (1 - shade)
    colour, nearest = np.ones((side, side, 3)), np.full((side, side), np.inf)
    spot = int(np.clip(math.ceil(1.15 * pitch * scale), 1, side // 24))  # so that surfaces close
    _splat(colour, nearest, u[solid], v[solid], depth[solid], shade, spot)
    colour = np.where(
        np.isfinite(nearest)[..., None], colour * _light(nearest * scale, max(2.5, 0.6 * spot))[..., None], colour
    )

    alpha = _haze(u[~solid], v[~solid], depth[~solid], nearest)[..., None]
    colour = colour * (1 - alpha) + np.array(HAZE) / 255 * alpha
    return (np.clip(colour, 0, 1) * 255).round().astype(np.uint8)


def _haze(u: np.ndarray, v: np.ndarray, depth: np.ndarray, nearest: np.ndarray) -> Float[np.ndarray, "h w"]:
    """How much the haze covers of each pixel: thin where it lies behind or over something solid."""
    side = nearest.shape[0]
    rows, columns = np.floor(v).astype(int), np.floor(u).astype(int)
    inside = (rows >= 0) & (rows < side) & (columns >= 0) & (columns < side)
    rows, columns, far = rows[inside], columns[inside], depth[inside]
    haze = np.zeros((side, side))
    np.add.at(haze, (rows, columns), np.where(far < nearest[rows, columns], 1.0, 0.15))
    haze = ndimage.gaussian_filter(haze, max(1.0, side / 340))
    covered = haze[haze > haze.max(initial=0) * 0.05]
    alpha = 0.62 * (1 - np.exp(-haze / max(float(np.median(covered)), 1e-9))) if covered.size else haze
    return np.where(np.isfinite(nearest), 0.5 * alpha, alpha)


def _light(depth: Float[np.ndarray, "h w"], blur: float) -> Float[np.ndarray, "h w"]:
    """Brightness of a surface from its depths in pixels, lit from above left; steep slopes are dark."""
    known = np.isfinite(depth)
    weight = ndimage.gaussian_filter(known.astype(float), blur)
    smooth = ndimage.gaussian_filter(np.where(known, depth, 0.0), blur) / np.maximum(weight, 1e-6)
    dy, dx = np.gradient(smooth)
    facing = (1 - 0.5 * dx - 0.7 * dy) / (np.sqrt(1 + dx**2 + dy**2) * math.sqrt(1 + 0.25 + 0.49))
    return 0.62 + 0.5 * np.clip(facing, 0, 1)


def _splat(
    colour: np.ndarray,
    nearest: np.ndarray,
    u: np.ndarray,
    v: np.ndarray,
    depth: np.ndarray,
    shade: np.ndarray,
    spot: int,
) -> None:
    """Paint points from far to near, each as a square of ``spot`` pixels."""
    order = np.argsort(-depth, kind="stable")
    side = nearest.shape[0]
    columns, rows = (np.floor(axis[order] - (spot - 1) / 2).astype(int) for axis in (u, v))
    # Of points that fall on one pixel the last, nearest one stays: numpy assigns in order.
    for dy, dx in np.ndindex(spot, spot):
        r, c = rows + dy, columns + dx
        inside = (r >= 0) & (r < side) & (c >= 0) & (c < side)
        r, c, z, s = r[inside], c[inside], depth[order][inside], shade[order][inside]
        flat = r * side + c
        last = np.full(side * side, -1)
        last[flat] = np.arange(len(flat))
        pixels = np.flatnonzero(last >= 0)
        winner = last[pixels]
        closer = z[winner] < nearest.ravel()[pixels]
        pixels, winner = pixels[closer], winner[closer]
        nearest.ravel()[pixels] = z[winner]
        colour.reshape(-1, 3)[pixels] = s[winner]


def surface(points: Float[np.ndarray, "n 3"], heights: Sequence[float], step: float, extent: float) -> Mesh | None:
    """The surface around points that lie on planes: occupied cells, smoothed by one, through marching cubes.

    ``heights``: the planes, evenly spaced; ``step``: distance of neighbouring points in x and y, and ``extent``: of the
    specimen, which bound the size of the cells. ``None`` for a cloud too thin to enclose anything.
    """
    from skimage.measure import marching_cubes

    if len(points) < 4:
        return None
    room = max(1.0, extent**2 * len(set(heights)) / len(points)) ** 0.5  # that a point has in its plane
    cell = max(step, min(room, extent / 16), extent / 400)
    pitch = float(np.diff(heights).mean()) if len(heights) > 1 else cell
    corner = points.min(0) - 3 * np.array([cell, cell, pitch])
    places = np.round((points - corner) / (cell, cell, pitch)).astype(int)
    grid = np.zeros(places.max(0) + 4, np.float32)
    grid[tuple(places.T)] = 1
    grid = ndimage.gaussian_filter(grid, 1.0)
    level = 0.5 * float(np.median(grid[tuple(places.T)]))
    if not 0 < level < float(grid.max()):
        return None
    vertices, faces, _, _ = marching_cubes(grid, level, spacing=(cell, cell, pitch))
    return Mesh((vertices + corner).astype(np.float32), faces[:, ::-1].astype(np.int32))  # facing outwards


def solid_and_haze(label: UInt8[np.ndarray, " n"], density: Float[np.ndarray, " n"]) -> UInt8[np.ndarray, "n 3"]:
    """The colours of a cloud's points in a file: as in :func:`view`, the darker the denser."""
    base = np.where(label[:, None] == 1, np.array(SOLID), np.array(HAZE))
    return (base * (1 - 0.5 * np.clip(density, 0, 1))[:, None]).round().astype(np.uint8)


# ---- files: each takes a path without suffix and gives the one it wrote ----------------------------------------------


def write_cloud(
    path: Path, points: Float[np.ndarray, "n 3"], rgb: UInt8[np.ndarray, "n 3"],
    more: Mapping[str, Shaped[np.ndarray, " n"]],
) -> Path:  # fmt: skip
    """A binary PLY of points with their colours; ``more``: further properties, float, int or unsigned 8 bit."""
    columns = {**dict(zip("xyz", points.T, strict=True)),
               **dict(zip(("red", "green", "blue"), rgb.T, strict=True)), **more}  # fmt: skip
    kinds = {name: _PLY_TYPES[column.dtype.kind] for name, column in columns.items()}
    rows = np.empty(len(points), [(name, kind) for name, (kind, _) in kinds.items()])
    for name, column in columns.items():
        rows[name] = column
    header = [f"element vertex {len(points)}", *(f"property {kind} {name}" for name, (_, kind) in kinds.items())]
    return _write(path, ".ply", _ply_header(header) + rows.tobytes())


def write_ply(path: Path, mesh: Mesh) -> Path:
    """A binary PLY of a surface."""
    rows = np.empty(len(mesh.faces), [("n", "u1"), ("v", "<i4", 3)])
    rows["n"], rows["v"] = 3, mesh.faces
    header = [f"element vertex {len(mesh.vertices)}", *(f"property float {axis}" for axis in "xyz")]
    header += [f"element face {len(mesh.faces)}", "property list uchar int vertex_indices"]
    return _write(path, ".ply", _ply_header(header) + mesh.vertices.astype("<f4").tobytes() + rows.tobytes())


def write_obj(path: Path, mesh: Mesh) -> Path:
    """A Wavefront OBJ of a surface."""
    lines = [f"v {x:.6g} {y:.6g} {z:.6g}" for x, y, z in mesh.vertices.tolist()]
    lines += [f"f {a} {b} {c}" for a, b, c in (mesh.faces + 1).tolist()]
    return _write(path, ".obj", ("\n".join(lines) + "\n").encode())


def write_views(path: Path, views: Sequence[Callable[[], UInt8[np.ndarray, "h w 3"]]]) -> Path:
    """Views, each drawn when it is its turn: one as a PNG, several as an animated GIF, endlessly."""
    frames = [Image.fromarray(view()) for view in views]
    file = io.BytesIO()
    if len(frames) == 1:
        frames[0].save(file, "PNG")
        return _write(path, ".png", file.getvalue())
    small = [frame.quantize(128) for frame in frames]
    small[0].save(file, "GIF", save_all=True, append_images=small[1:], duration=120, loop=0)
    return _write(path, ".gif", file.getvalue())


def _ply_header(lines: list[str]) -> bytes:
    return ("\n".join(["ply", "format binary_little_endian 1.0", *lines, "end_header"]) + "\n").encode()


def _write(path: Path, suffix: str, data: bytes) -> Path:
    return write_file(path.with_name(path.name + suffix), data)
