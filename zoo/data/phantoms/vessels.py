"""Branching retinal vessels: grown as curves around the optic disc and drawn with sub-pixel calibre.

Positions are complex numbers in disc diameters (DD): the disc centre is 0, the fovea lies near ``FOVEA``, the real axis
points from the disc to the fovea and the imaginary axis down.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

FOVEA = 2.5 + 0.25j
_STEP = 0.045  # DD between the points of a curve
_CELL = 0.05  # DD; side of a cell of the occupancy grid
_EXTENT = 9.0  # DD; the grid reaches this far from the disc

# Corners of the four trunk routes of one upper half; the lower half mirrors them. Temporal trunks arch around the
# macula, nasal ones fan out.
_ROUTES: dict[str, tuple[complex, ...]] = {
    "temporal": (0j, 0.02 - 0.75j, 0.55 - 1.55j, 1.55 - 2.05j, 2.9 - 2.15j, 4.3 - 1.75j, 6.0 - 1.5j, 8.0 - 1.5j),
    "nasal": (0j, -0.12 - 0.65j, -0.75 - 1.45j, -1.8 - 2.2j, -3.2 - 3.0j, -5.0 - 4.0j),
}


@dataclass(frozen=True)
class Branch:
    """One vessel segment: its centre line and the radius along it, both in DD."""

    points: np.ndarray  # complex [n]
    radii: np.ndarray  # float [n]
    order: int  # 0 trunk, 1 its branches, ...


def grow_tree(
    rng: np.random.Generator,
    *,
    radius: float,
    tortuosity: float,
    density: float,
    reach: float,
    r_min: float = 0.007,
    spread: float = 1.0,
) -> list[Branch]:
    """Grow the arteries, or the veins, of one eye.

    Args:
        rng: source of randomness; the tree is a pure function of it.
        radius: radius of a temporal trunk at the disc, DD (about 0.05 in a healthy eye).
        tortuosity: 0 draws straight vessels, 1 normal, 2 and more markedly winding ones.
        density: number of side branches relative to a normal eye.
        reach: growth stops this far from the fovea, DD.
        r_min: vessels thinner than this are not followed, DD.
        spread: 1 lets trunks take their usual route, more or less a wider or narrower one (arteries run beside veins).
    """
    occupied = np.zeros((2 * int(_EXTENT / _CELL) + 1,) * 2, dtype=np.int32)
    branches: list[Branch] = []
    for trunk in _trunks(rng, radius, tortuosity, spread):
        _mark(occupied, trunk.points, len(branches) + 1)
        branches.append(trunk)
    queue = list(range(len(branches)))
    while queue:
        parent = branches[queue.pop(0)]
        for start, heading, r in _offspring(rng, parent, density, r_min):
            child = _wander(rng, start, heading, r, parent.order + 1, tortuosity, reach, occupied)
            if child is not None:
                branches.append(child)
                _mark(occupied, child.points, len(branches))
                queue.append(len(branches) - 1)
    return branches


def _trunks(rng: np.random.Generator, radius: float, tortuosity: float, spread: float) -> Iterator[Branch]:
    for side in (1, -1):
        for name, route in _ROUTES.items():
            scale = spread * rng.uniform(0.92, 1.08)
            corners = np.array(route) * scale
            corners = corners.real + 1j * side * corners.imag * rng.uniform(0.85, 1.1)
            jitter = rng.normal(0, 0.12, (2, len(corners))) * np.minimum(np.abs(corners), 1.0)
            corners = corners + jitter[0] + 1j * jitter[1] + rng.normal(0, 0.04) + 1j * rng.normal(0, 0.06)
            points = _smooth_curve(rng, corners, 0.05 * tortuosity)
            t = np.linspace(0, 1, len(points))
            r0 = radius * rng.uniform(0.8, 1.05) * (1.0 if name == "temporal" else 0.72)
            # Radius falls where branches leave; drawn here as a smooth taper with small steps.
            yield Branch(points, r0 * (1 - 0.62 * t**0.9) * _wobble(rng, len(points), 0.04), 0)
    for _ in range(rng.integers(2, 6)):  # small vessels straight out of the disc, towards macula and nose
        angle = rng.normal(0, 0.45) if rng.random() < 0.5 else math.pi + rng.normal(0, 0.7)
        length = rng.uniform(1.2, 1.9) if abs(angle) < 1.5 else rng.uniform(1.5, 4.0)
        bend = rng.normal(0, 0.35)
        corners = np.array([0.08, 0.4, 0.7, 1.0]) * length * np.exp(1j * (angle + bend * np.linspace(0, 1, 4)))
        points = _smooth_curve(rng, corners + rng.normal(0, 0.05) * 1j, 0.03 * tortuosity)
        r0 = radius * rng.uniform(0.25, 0.45)
        yield Branch(points, r0 * (1 - 0.5 * np.linspace(0, 1, len(points))), 0)


def _smooth_curve(rng: np.random.Generator, corners: np.ndarray, sway: float) -> np.ndarray:
    """A curve through the corners, resampled to equal steps, with sideways sway of several wavelengths."""
    from scipy.interpolate import CubicSpline

    knots = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(corners)))])
    s = np.arange(0, knots[-1], _STEP)
    curve = CubicSpline(knots, np.stack([corners.real, corners.imag], 1))
    xy, tangent = curve(s), curve(s, 1)
    offset = np.zeros_like(s)
    for wavelength, weight in ((2.2, 1.0), (0.9, 0.45), (0.4, 0.12)):
        phase = rng.uniform(0, 2 * math.pi) + np.cumsum(rng.normal(0, 0.12, len(s)))
        offset += sway * weight * rng.uniform(0.3, 1.4) * np.sin(2 * math.pi * s / wavelength + phase)
    offset = np.convolve(np.pad(offset, 3, mode="edge"), np.ones(7) / 7, mode="valid") * np.minimum(s / 0.5, 1)
    normal = (tangent[:, 0] + 1j * tangent[:, 1]) * 1j
    return xy[:, 0] + 1j * xy[:, 1] + offset * normal / np.maximum(np.abs(normal), 1e-9)


def _wobble(rng: np.random.Generator, n: int, amount: float) -> np.ndarray:
    noise = np.convolve(rng.normal(0, 1, n + 8), np.ones(9) / 3, mode="valid")
    return 1 + amount * noise


def _offspring(
    rng: np.random.Generator, parent: Branch, density: float, r_min: float
) -> Iterator[tuple[complex, float, float]]:
    """Start, heading and radius of each branch that leaves ``parent``."""
    n = len(parent.points)
    if n < 6:
        return
    headings = np.angle(np.gradient(parent.points))
    side = 1 if rng.random() < 0.5 else -1
    at = 0.35 + rng.exponential(0.3) if parent.order == 0 else rng.uniform(0.12, 0.4)
    while (i := int(at / _STEP)) < n - 2:
        share = rng.uniform(0.2, 0.42) if rng.random() < 0.55 else rng.uniform(0.45, 0.8)
        r = parent.radii[i] * share
        if r >= r_min:
            yield parent.points[i], headings[i] + side * rng.uniform(0.5, 1.35), r
        side = -side if rng.random() < 0.65 else side
        at += (0.2 + rng.exponential((0.26, 0.36, 0.6)[min(parent.order, 2)])) / density
    r_end = parent.radii[-1]
    if parent.order > 0 and r_end * 0.75 >= r_min:  # terminal fork (radii by Murray's law)
        share = rng.uniform(0.35, 0.65)
        for sign, part in ((1, share), (-1, 1 - share)):
            yield parent.points[-1], headings[-1] + sign * rng.uniform(0.3, 0.7), r_end * part ** (1 / 3)


def _wander(
    rng: np.random.Generator,
    start: complex,
    heading: float,
    radius: float,
    order: int,
    tortuosity: float,
    reach: float,
    occupied: np.ndarray,
) -> Branch | None:
    """Grow one branch until it is spent, meets its own kind, enters the foveal avascular zone or leaves the field."""
    n = int((radius * rng.uniform(50, 120) + rng.uniform(0.2, 0.6)) / _STEP)
    kicks = (rng.normal(0, 0.085 * tortuosity, n) + rng.normal(0, 0.012)).tolist()
    weave_at, weave = rng.uniform(0, 6.3), rng.uniform(0.0, 0.16) * tortuosity
    # Temporal branches that set out towards the macula supply it; all others leave for the periphery.
    inward = start.real > 0.3 and (cmath.exp(-1j * heading) * (FOVEA - start)).real > 0
    points = [start]
    position, turn = start, 0.0
    avascular = rng.uniform(0.22, 0.4)
    half = occupied.shape[0] // 2
    for i in range(n):
        goal = cmath.phase(FOVEA - position) if inward else cmath.phase(position - 0.6 * FOVEA)
        error = math.remainder(goal - heading, 2 * math.pi)
        turn = 0.75 * turn + kicks[i]
        heading += turn * 0.5 + 0.07 * error + weave * math.sin(weave_at + 0.35 * i)
        position += _STEP * cmath.exp(1j * heading)
        if abs(position - FOVEA) < avascular or abs(position - FOVEA) > reach:
            break
        row, column = half + int(position.imag / _CELL), half + int(position.real / _CELL)
        if not (0 <= row < 2 * half and 0 <= column < 2 * half):
            break
        if i > 3 and occupied[row, column]:
            break
        points.append(position)
    if len(points) < 5:
        return None
    t = np.arange(len(points)) / max(n, 1)
    return Branch(np.array(points), radius * (1 - 0.45 * t**1.2), order)


def _mark(occupied: np.ndarray, points: np.ndarray, index: int) -> None:
    half = occupied.shape[0] // 2
    fine = np.concatenate([points, (points[1:] + points[:-1]) / 2])
    rows = np.clip(half + (fine.imag / _CELL).astype(int), 0, 2 * half)
    columns = np.clip(half + (fine.real / _CELL).astype(int), 0, 2 * half)
    occupied[rows, columns] = index


@dataclass(frozen=True)
class Drawing:
    """A tree on the pixel grid."""

    inside: Float[np.ndarray, "h w"]  # signed distance to the nearest wall, px: positive inside, at least -1.5
    depth: Float[np.ndarray, "h w"]  # length of the line of sight inside the vessel, px
    ridge: Float[np.ndarray, "h w"]  # 1 on the centre line, 0 from a third of the radius outwards


def draw(branches: list[Branch], shape: tuple[int, int], to_pixel: tuple[complex, complex, bool]) -> Drawing:
    """Draw centre lines with their radii; ``to_pixel`` is (origin, scale x rotation, mirrored) of the camera.

    A pixel belongs to the vessel when its centre lies inside the wall. Vessels under 1.5 px are drawn 1.5 px wide in
    ``inside`` (so a mask stays connected) and keep their true cross-section in ``depth``.
    """
    origin, scale, mirrored = to_pixel
    px_per_dd = abs(scale)
    positions, radii = [], []
    for branch in branches:
        points = branch.points.conj() * -1 if mirrored else branch.points
        points = origin + scale * points
        length = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(points)))])
        r = branch.radii * px_per_dd
        s = np.arange(0, length[-1], min(0.6, max(0.35, float(r.mean()) * 0.25)))
        positions.append(np.interp(s, length, points.real) + 1j * np.interp(s, length, points.imag))
        radii.append(np.interp(s, length, r))
    p, r = np.concatenate(positions), np.concatenate(radii)
    h, w = shape
    inside = np.full(h * w, -1.5, dtype=np.float32)
    depth = np.zeros(h * w, dtype=np.float32)
    ridge = np.zeros(h * w, dtype=np.float32)
    reach = np.ceil(r + 1.2).astype(int)
    for k in np.unique(reach):
        chosen = np.flatnonzero(reach == k)
        if k > 4:
            chosen = chosen[::2]  # wide strokes need no dense stamps
        x, y, rr = p.real[chosen], p.imag[chosen], r[chosen]
        visible = (x > k) & (x < w - k - 1) & (y > k) & (y < h - k - 1)
        x, y, rr = x[visible, None], y[visible, None], rr[visible, None]
        dy, dx = (a.ravel() for a in np.mgrid[-k : k + 1, -k : k + 1])
        column, row = np.rint(x).astype(np.int64) + dx, np.rint(y).astype(np.int64) + dy
        d2 = ((column - x) ** 2 + (row - y) ** 2).astype(np.float32)
        rr = np.broadcast_to(rr, d2.shape).astype(np.float32)
        near = d2 < (rr + 1.2) ** 2
        index, d2, rr = (row * w + column)[near], d2[near], rr[near]
        d = np.sqrt(d2)
        np.maximum.at(inside, index, np.maximum(rr, 0.75) - d)
        soft = np.maximum(rr, 1.0)
        np.maximum.at(depth, index, 2 * (rr / soft) ** 2 * np.sqrt(np.maximum(soft**2 - d2, 0)))
        if k > 2:
            np.maximum.at(ridge, index, np.clip(1 - 3 * d / rr, 0, 1))
    return Drawing(inside.reshape(shape), depth.reshape(shape), ridge.reshape(shape))
