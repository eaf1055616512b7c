"""Pictures of a cloud without a screen, its surface as a mesh, and both as files that 3-D programs open."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image, ImageDraw
from scipy import ndimage

from zoo import figure
from zoo.media import replacing

TUMOUR, TISSUE = (190, 30, 25), (70, 130, 200)  # Sec. 3: tumour red, tissue blue
MOST_POINTS = 600_000  # drawn; more are thinned


@dataclass(frozen=True)
class Mesh:
    """A closed surface: vertices in the units of the cloud, triangles as rows of vertex numbers."""

    vertices: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]


def view(
    points: Float[np.ndarray, "n 3"],
    label: UInt8[np.ndarray, " n"],
    density: Float[np.ndarray, " n"],
    *,
    pitch: float = 0.0,
    azimuth: float = -35.0,
    elevation: float = 32.0,
    side: int = figure.PANEL_SIDE,
) -> UInt8[np.ndarray, "side side 3"]:
    """An orthographic view: tumour points (label 1) by depth, the darker the denser, inside a haze of tissue (label 0).

    ``pitch``: distance of neighbouring points. ``azimuth`` turns about z, ``elevation`` looks down from above the x-y
    plane, both in degrees. The picture keeps one scale for all azimuths.
    """
    if len(points) > MOST_POINTS:
        kept = np.random.default_rng(0).choice(len(points), MOST_POINTS, replace=False)
        points, label, density = points[kept], label[kept], density[kept]
    low, high = points.min(0), points.max(0)
    a, e = math.radians(azimuth), math.radians(elevation)
    right = np.array([math.cos(a), math.sin(a), 0.0])
    away = np.array([-math.sin(a) * math.cos(e), math.cos(a) * math.cos(e), -math.sin(e)])
    up = np.cross(right, away)
    centred = (points - (low + high) / 2).astype(np.float64)
    around = float(np.linalg.norm(centred[:, :2], axis=1).max())
    reach = max(2 * around, 2 * around * abs(math.sin(e)) + float(high[2] - low[2]) * math.cos(e), 1e-9)
    scale = 0.95 * side / reach
    u = side / 2 + centred @ right * scale
    v = side / 2 - centred @ up * scale
    depth = centred @ away  # greater is farther
    fog = 0.5 * (depth - depth.min()) / max(float(np.ptp(depth)), 0.3 * reach)

    solid = label == 1
    if not solid.any():
        solid = ~solid  # tissue alone would be a cloud of nothing
    base = np.where(label[solid, None] == 1, TUMOUR, TISSUE) / 255
    shade = base * (1.15 - 0.4 * np.clip(density[solid], 0, 1))[:, None]  # Fig. 2: darker is denser
    shade = shade + fog[solid, None] * (1 - shade)
    colour, nearest = np.ones((side, side, 3)), np.full((side, side), np.inf)
    spot = int(np.clip(math.ceil(1.15 * pitch * scale), 1, side // 24))  # so that surfaces close
    _splat(colour, nearest, u[solid], v[solid], depth[solid], shade, spot)
    colour = np.where(
        np.isfinite(nearest)[..., None], colour * _light(nearest * scale, max(2.5, 0.6 * spot))[..., None], colour
    )

    rows, columns = _cells(v[~solid], side), _cells(u[~solid], side)
    inside = (rows >= 0) & (columns >= 0)
    rows, columns, far = rows[inside], columns[inside], depth[~solid][inside]
    haze = np.zeros((side, side))
    np.add.at(haze, (rows, columns), np.where(far < nearest[rows, columns], 1.0, 0.15))
    haze = ndimage.gaussian_filter(haze, max(1.0, side / 340))
    covered = haze[haze > haze.max(initial=0) * 0.05]
    alpha = 0.62 * (1 - np.exp(-haze / max(float(np.median(covered)), 1e-9))) if covered.size else haze
    alpha = np.where(np.isfinite(nearest), 0.5 * alpha, alpha)[..., None]
    colour = colour * (1 - alpha) + np.array(TISSUE) / 255 * alpha
    return (np.clip(colour, 0, 1) * 255).round().astype(np.uint8)


def _light(depth: Float[np.ndarray, "h w"], blur: float) -> Float[np.ndarray, "h w"]:
    """Brightness of a surface from its depths in pixels, lit from above left; steep slopes are dark."""
    known = np.isfinite(depth)
    weight = ndimage.gaussian_filter(known.astype(float), blur)
    smooth = ndimage.gaussian_filter(np.where(known, depth, 0.0), blur) / np.maximum(weight, 1e-6)
    dy, dx = np.gradient(smooth)
    facing = (1 - 0.5 * dx - 0.7 * dy) / (np.sqrt(1 + dx**2 + dy**2) * math.sqrt(1 + 0.25 + 0.49))
    return 0.62 + 0.5 * np.clip(facing, 0, 1)


def _cells(values: Float[np.ndarray, " n"], side: int) -> Int[np.ndarray, " n"]:
    cells = np.floor(values).astype(int)
    return np.where((cells >= 0) & (cells < side), cells, -1)


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
    for dy in range(spot):
        for dx in range(spot):
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


def overlay(
    fixed: Float[np.ndarray, "n 2"],
    moving: Float[np.ndarray, "m 2"],
    selected: Bool[np.ndarray, " m"],
    box: tuple[float, float, float, float],
    side: int = figure.PANEL_SIDE,
) -> UInt8[np.ndarray, "h w 3"]:
    """Two layers over each other: fixed pink, moving green, its selected points blue (Fig. 3).

    Where fixed and moving points fall on one pixel the colours mix to grey. ``box``: x and y from, x and y to.
    """
    left, top, right, bottom = box
    scale = side / max(right - left, bottom - top, 1e-9)
    shape = (max(1, round((bottom - top) * scale)), max(1, round((right - left) * scale)))
    pitch = scale * math.sqrt((right - left) * (bottom - top) / max(len(fixed), len(moving), 1))
    spot = int(np.clip(round(0.35 * pitch), 1, 4))

    def covered(points: np.ndarray) -> np.ndarray:
        picture = np.zeros(shape, bool)
        columns = np.floor((points[:, 0] - left) * scale).astype(int)
        rows = np.floor((points[:, 1] - top) * scale).astype(int)
        for dy in range(spot):
            for dx in range(spot):
                r, c = rows + dy, columns + dx
                inside = (r >= 0) & (r < shape[0]) & (c >= 0) & (c < shape[1])
                picture[r[inside], c[inside]] = True
        return picture

    below, above, chosen = covered(fixed), covered(moving[~selected]), covered(moving[selected])
    out = np.full((*shape, 3), 255.0)
    for where, rgb in ((below, FIXED), (above, MOVING), (chosen, SELECTED)):
        other = where & (out.min(-1) < 255)
        out[where & ~other] = rgb
        out[other] = 0.5 * (out[other] + np.array(rgb))
    return out.round().astype(np.uint8)


FIXED, MOVING, SELECTED = (240, 130, 180), (60, 160, 80), (30, 60, 190)


def chart(
    values: Sequence[tuple[str, float | None, float | None]], unit: str, side: int = figure.PANEL_SIDE
) -> Image.Image:
    """Two bars for each layer: RMSE of all points, and of the selected pairs alone. ``values``: name, both numbers."""
    picture = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(picture)
    top, bottom, left, right = 44, side - 46, 58, side - 8
    most = max([v for _, *pair in values for v in pair if v is not None], default=0.0) or 1.0
    step = 10 ** math.floor(math.log10(most))
    step = next(s for s in (0.2 * step, 0.5 * step, step, 2 * step) if most / s <= 5)
    ceiling = step * math.ceil(most / step * 1.0001)
    for k in range(round(ceiling / step) + 1):
        y = bottom - (bottom - top) * k * step / ceiling
        draw.line((left, y, right, y), fill=(225, 225, 225))
        draw.text((left - 6, y), f"{k * step:.3g}", fill="black", font=figure.font(14), anchor="rm")
    pitch = (right - left) / max(len(values), 1)
    every = max(1, math.ceil(len(values) / 16))
    for place, (name, everything, selected) in enumerate(values):
        x = left + place * pitch
        for value, colour, a, b in ((everything, figure.colour(5), 0.14, 0.5), (selected, figure.colour(1), 0.5, 0.86)):
            if value is not None:
                y = bottom - (bottom - top) * value / ceiling
                draw.rectangle((x + a * pitch, y, x + b * pitch, bottom), fill=colour)
            else:
                draw.text((x + pitch / 2, bottom - 10), "-", fill=(90, 90, 90), font=figure.font(14), anchor="ms")
        if place % every == 0:
            draw.text((x + pitch / 2, bottom + 6), name, fill="black", font=figure.font(14), anchor="ma")
    draw.line((left, bottom, right, bottom), fill="black")
    draw.text(((left + right) / 2, side - 6), "layer", fill="black", font=figure.font(14), anchor="ms")
    start: float = left
    for name, colour in ((f"all points ({unit})", figure.colour(5)), ("selected pairs", figure.colour(1))):
        draw.rectangle((start, 12, start + 14, 26), fill=colour)
        draw.text((start + 20, 19), name, fill="black", font=figure.font(15), anchor="lm")
        start += 44 + figure.font(15).getlength(name)
    return picture


def surface(points: Float[np.ndarray, "n 3"], heights: Sequence[float], cell: float) -> Mesh | None:
    """The surface around points that lie on planes: occupied cells, smoothed by one, through marching cubes.

    ``heights``: the planes, evenly spaced; ``cell``: side of a cell in x and y, in the units of the points. ``None``
    for a cloud too thin to enclose anything.
    """
    from skimage.measure import marching_cubes

    if len(points) < 4:
        return None
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
    return Mesh((vertices + corner).astype(np.float32), faces.astype(np.int32))


# ---- files --------------------------------------------------------------------------------------------------------


def write_cloud(
    path: Path, points: Float[np.ndarray, "n 3"], label: UInt8[np.ndarray, " n"], layer: Int[np.ndarray, " n"],
    density: Float[np.ndarray, " n"],
) -> Path:  # fmt: skip
    """A binary PLY with position, colour, label, layer and density of every point."""
    base = np.where(label[:, None] == 1, np.array(TUMOUR), np.array(TISSUE))
    colour = (base * (1 - 0.5 * np.clip(density, 0, 1))[:, None]).round().astype(np.uint8)
    fields = [("x", "<f4", "float"), ("y", "<f4", "float"), ("z", "<f4", "float")]
    fields += [(name, "u1", "uchar") for name in ("red", "green", "blue", "label")]
    fields += [("layer", "<i4", "int"), ("density", "<f4", "float")]
    rows = np.empty(len(points), [(name, kind) for name, kind, _ in fields])
    columns = [*points.T, *colour.T, label, layer, density]
    for (name, _, _), column in zip(fields, columns, strict=True):
        rows[name] = column
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}"]
    header += [f"property {kind} {name}" for name, _, kind in fields]
    return _write(path, ".ply", _ply_header(header) + rows.tobytes())


def write_ply_mesh(path: Path, mesh: Mesh) -> Path:
    """A binary PLY of a surface."""
    rows = np.empty(len(mesh.faces), [("n", "u1"), ("v", "<i4", 3)])
    rows["n"], rows["v"] = 3, mesh.faces
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(mesh.vertices)}"]
    header += [f"property float {axis}" for axis in "xyz"]
    header += [f"element face {len(mesh.faces)}", "property list uchar int vertex_indices"]
    return _write(path, ".ply", _ply_header(header) + mesh.vertices.astype("<f4").tobytes() + rows.tobytes())


def write_obj_mesh(path: Path, mesh: Mesh) -> Path:
    """A Wavefront OBJ of a surface."""
    lines = [f"v {x:.6g} {y:.6g} {z:.6g}" for x, y, z in mesh.vertices.tolist()]
    lines += [f"f {a} {b} {c}" for a, b, c in (mesh.faces + 1).tolist()]
    return _write(path, ".obj", ("\n".join(lines) + "\n").encode())


def write_orbit(path: Path, views: Sequence[np.ndarray]) -> Path:
    """An animated GIF of views, endlessly."""
    frames = [Image.fromarray(one).quantize(128) for one in views]
    path = path.with_name(path.name + ".gif")
    with replacing(path) as temporary:
        frames[0].save(temporary, save_all=True, append_images=frames[1:], duration=120, loop=0)
    return path


def _ply_header(lines: list[str]) -> bytes:
    return ("\n".join([*lines, "end_header"]) + "\n").encode()


def _write(path: Path, suffix: str, data: bytes) -> Path:
    path = path.with_name(path.name + suffix)
    with replacing(path) as temporary:
        temporary.write_bytes(data)
    return path
