"""Axial registration (Algorithm 1): each layer onto the one below it, estimated from a cross of two bands of points."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage

from zoo.errors import OptionError
from zoo.models.pointcloud_recon3d.data import Layer
from zoo.ops import icp, nearest_neighbors

BAND_SHARE = 1 / 3  # of the points of a layer, Sec. 5
BandMode = Literal["or", "and"]


@dataclass(frozen=True)
class Band:
    """Two bands that cross: ``u_min < x < u_max`` or ``v_min < y < v_max``, in pixels (Sec. 3, Axial Registration)."""

    u_min: float
    u_max: float
    v_min: float
    v_max: float

    def select(self, points: Float[np.ndarray, "n 2"], mode: BandMode = "or") -> Bool[np.ndarray, " n"]:
        """Which points lie in the bands. ``and`` is what Algorithm 1 prints: only where both overlap."""
        vertical = (points[:, 0] > self.u_min) & (points[:, 0] < self.u_max)
        horizontal = (points[:, 1] > self.v_min) & (points[:, 1] < self.v_max)
        return vertical | horizontal if mode == "or" else vertical & horizontal


def densest_band(points: Float[np.ndarray, "n 2"], mode: BandMode = "or", share: float = BAND_SHARE) -> Band:
    """Bands through the densest columns and rows, just wide enough for ``share`` of the points.

    The paper says that density and position decide, not how: here both bands have one half-width and are centred on the
    peaks of the smoothed histograms of x and y.
    """
    u, v = (_peak(points[:, axis]) for axis in (0, 1))
    away = np.abs(points - np.array([u, v], points.dtype))
    needed = away.min(1) if mode == "or" else away.max(1)  # the half-width from which a point is in
    last = min(len(points), max(1, round(share * len(points)))) - 1
    half = float(np.nextafter(np.partition(needed, last)[last], np.float32(np.inf)))
    return Band(u - half, u + half, v - half, v + half)


def _peak(values: Float[np.ndarray, " n"]) -> float:
    counts, edges = np.histogram(values, bins=64)
    place = int(ndimage.gaussian_filter1d(counts.astype(np.float64), 3).argmax())
    return float(edges[place] + edges[place + 1]) / 2


Selection = Band | Literal["auto", "all", "random"]
RESTARTS = tuple(range(-30, 31, 10))  # degrees; where a layer that was not found is looked for


def selection(band: str) -> Selection:
    """A user's words for it. Raises ``OptionError``."""
    if band in ("auto", "all", "random"):
        return band  # type: ignore[return-value]
    try:
        values = [float(v) for v in band.split(",")]
        u_min, u_max, v_min, v_max = values
    except ValueError:
        raise OptionError(f"option band must be auto, all, random or UMIN,UMAX,VMIN,VMAX, not {band!r}") from None
    if not (np.isfinite(values).all() and u_min < u_max and v_min < v_max):
        raise OptionError(f"option band must have UMIN below UMAX and VMIN below VMAX, not {band!r}")
    return Band(u_min, u_max, v_min, v_max)


@dataclass(frozen=True)
class Rule:
    """How layers are registered. Lengths are in pixels. What the paper leaves open is this implementation's choice."""

    select: Selection = "auto"
    """Points that the motion is estimated from: the densest cross, a given one, all of them, or a random share."""
    mode: BandMode = "or"
    share: float = BAND_SHARE
    d_max: float | None = None  # of pairs of points; None: 5 % of the diagonal of the layer's bounding box
    max_iterations: int = 100
    tolerance: float = 1e-6  # of RMSE (pixels) and of the share of pairs
    refine: bool = True  # once more with half of d_max
    reference: Literal["chain", "rolling"] = "chain"  # the layer below, or the last three together
    allow_flip: bool = False  # try each layer turned over, too
    least_inliers: float = 0.3  # below it a layer counts as not found, and is looked for again
    least_points: int = 50


@dataclass(frozen=True)
class LayerReport:
    """How one layer was moved onto the ones below it, and how well it fits. Lengths are in pixels."""

    layer: int
    name: str
    angle: float  # degrees, x towards y, about the middle of the section
    shift: tuple[float, float]  # x, y
    flipped: bool
    registered_on: str  # tumour, tissue, or nothing
    points: int  # of the cloud that was registered
    selected: int  # of them, those that the motion was estimated from
    rmse_selected: float | None  # of the pairs within d_max, of selected points: optimistic
    rmse_all: float | None  # of all points of the cloud to their nearest neighbours, at any distance
    inliers: float | None  # share of the selected points with a neighbour within d_max
    iterations: int
    flags: tuple[str, ...] = ()
    seconds: float = field(default=0.0, compare=False)

    @classmethod
    def unmoved(cls, number: int, name: str, layer: Layer, registered_on: str) -> LayerReport:
        return cls(number, name, 0.0, (0.0, 0.0), False, registered_on, len(layer.tumour), 0, None, None, None, 0)


class Motion(NamedTuple):
    """``y = R x + t`` in the plane; ``R`` mirrors if the layer is turned over."""

    R: Float[np.ndarray, "2 2"]
    t: Float[np.ndarray, " 2"]

    def apply(self, points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        return (points @ self.R.T + self.t).astype(np.float32)

    def after(self, first: Motion) -> Motion:
        """This motion, made after ``first``."""
        return Motion(self.R @ first.R, self.R @ first.t + self.t)


IDENTITY = Motion(np.eye(2), np.zeros(2))


class Fit(NamedTuple):
    motion: Motion
    rmse: float
    inliers: float
    iterations: int


def register_stack(
    layers: Sequence[Layer],
    rule: Rule,
    *,
    names: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] = lambda layer: None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[list[Motion], list[LayerReport]]:
    """Motions from each layer to the first one's frame, bottom to top, and a report of each.

    The seconds of a report are those of estimating the motion; measuring how well it fits is not part of them.
    """
    names = names or [f"layer {i}" for i in range(len(layers))]
    motions, reports = [IDENTITY], [LayerReport.unmoved(0, names[0], layers[0], "reference")]
    progress(0)
    for i in range(1, len(layers)):
        start = clock()
        below = range(max(0, i - (3 if rule.reference == "rolling" else 1)), i)
        found = _register(layers[i], [(layers[j], motions[j]) for j in below], motions[-1], rule, i, device)
        took = clock() - start
        motions.append(found.motion)
        angle, shift, flipped = about(found.motion, layers[i].centre)
        reports.append(
            LayerReport(
                i, names[i], angle, shift, flipped, found.kind, len(found.moving), found.selected,
                rmse_selected=found.fit.rmse if found.fit and math.isfinite(found.fit.rmse) else None,
                rmse_all=_rmse(found.motion.apply(found.moving), found.target),
                inliers=found.fit.inliers if found.fit else None,
                iterations=found.fit.iterations if found.fit else 0,
                flags=found.flags,
                seconds=took,
            )
        )  # fmt: skip
        progress(i)
    return motions, reports


def about(motion: Motion, centre: tuple[float, float]) -> tuple[float, tuple[float, float], bool]:
    """Angle in degrees, shift in x and y, and whether it mirrors: the motion as made about ``centre``."""
    flipped = bool(np.linalg.det(motion.R) < 0)
    R = motion.R @ np.diag([-1.0, 1.0]) if flipped else motion.R
    angle = math.degrees(math.atan2(R[1, 0], R[0, 0]))
    moved = motion.R @ np.array(centre) + motion.t - np.array(centre)
    return angle, (float(moved[0]), float(moved[1])), flipped


class Found(NamedTuple):
    motion: Motion
    kind: str
    moving: Float[np.ndarray, "n 2"]
    target: torch.Tensor | None
    selected: int
    fit: Fit | None
    flags: tuple[str, ...]


def _register(
    layer: Layer, below: list[tuple[Layer, Motion]], previous: Motion, rule: Rule, number: int,
    device: torch.device | str,
) -> Found:  # fmt: skip
    flags: list[str] = []
    for kind in ("tumour", "tissue"):  # Algorithm 1 registers tumour; tissue stands in where there is too little of it
        moving = getattr(layer, kind).points
        fixed = np.concatenate([motion.apply(getattr(lower, kind).points) for lower, motion in below])
        if min(len(moving), len(fixed)) >= rule.least_points:
            break
        flags.append(f"fewer than {rule.least_points} {kind} points")
    else:
        return Found(previous, "nothing", moving, None, 0, None, (*flags, "moved as the layer below"))

    if len(below) > 1 and len(fixed) > (most := max(len(getattr(lower, kind)) for lower, _ in below)):
        rng = np.random.default_rng([number, 8])
        fixed = fixed[np.sort(rng.choice(len(fixed), most, replace=False))]  # three layers, as dense as one
    target = torch.from_numpy(fixed).to(device)
    d_max = rule.d_max or 0.05 * float(np.linalg.norm(np.ptp(moving, axis=0)))

    def fit(selected: np.ndarray, start: Motion = IDENTITY) -> Fit:
        return _fit(moving, selected, target, fixed, d_max, rule, start)

    chosen = select(moving, rule, number)
    starts = [IDENTITY, _mirror(layer.centre)] if rule.allow_flip else [IDENTITY]
    best = max((fit(chosen, start) for start in starts), key=_rank)
    if best.inliers < rule.least_inliers:
        flags.append("few pairs in the selected points")
        everything = np.ones(len(moving), bool)
        tries = [fit(everything, start) for start in starts]
        if max(tries, key=_rank).inliers < rule.least_inliers:
            middle = moving.mean(0, dtype=np.float64)
            tries += [fit(everything, turn(angle, middle).after(start)) for angle in RESTARTS for start in starts]
        again = max(tries, key=_rank)
        if _rank(again) > _rank(best):
            best, chosen = again, everything
        if best.inliers < rule.least_inliers:
            flags.append("not found: its place is doubtful")
    return Found(best.motion, kind, moving, target, int(chosen.sum()), best, tuple(flags))


def select(points: Float[np.ndarray, "n 2"], rule: Rule, number: int) -> Bool[np.ndarray, " n"]:
    """Which points of layer ``number`` are in M, the moving cloud within the band."""
    if rule.select == "all":
        return np.ones(len(points), bool)
    if rule.select == "random":
        chosen = np.zeros(len(points), bool)
        rng = np.random.default_rng([number, 7])
        chosen[rng.choice(len(points), max(3, round(rule.share * len(points))), replace=False)] = True
        return chosen
    band = densest_band(points, rule.mode, rule.share) if rule.select == "auto" else rule.select
    chosen = band.select(points, rule.mode)
    return chosen if chosen.sum() >= min(len(points), rule.least_points) else np.ones(len(points), bool)


def _fit(
    moving: np.ndarray, selected: np.ndarray, target: torch.Tensor, fixed: np.ndarray, d_max: float, rule: Rule,
    start: Motion,
) -> Fit:  # fmt: skip
    """ICP of the selected points from ``start``; centroids farther apart than ``d_max`` are brought together first."""
    gap = fixed.mean(0, dtype=np.float64) - start.apply(moving).mean(0, dtype=np.float64)
    if float(np.linalg.norm(gap)) > d_max:
        start = Motion(start.R, start.t + gap)
    # ICP turns but doesn't mirror, so it gets points that the start has moved already.
    source = torch.from_numpy(start.apply(moving[selected])).to(target.device)
    found = icp(source, target, max_distance=d_max, max_iterations=rule.max_iterations, tolerance=rule.tolerance)
    inliers, iterations = float(found.fitness), int(found.iterations)
    if rule.refine and inliers > 0:
        found = icp(
            source, target, max_distance=d_max / 2, max_iterations=rule.max_iterations, tolerance=rule.tolerance,
            init=found,
        )  # fmt: skip
        iterations += int(found.iterations)
    R, t = found.R.double().cpu().numpy(), found.t.double().cpu().numpy()
    return Fit(Motion(R, t).after(start), float(found.rmse), inliers, iterations)


def _rank(fit: Fit) -> tuple[float, float]:
    """Greater is better."""
    return fit.inliers, -fit.rmse if math.isfinite(fit.rmse) else -math.inf


def _rmse(points: np.ndarray, target: torch.Tensor | None) -> float | None:
    if target is None:
        return None
    distance, _ = nearest_neighbors(torch.from_numpy(points).to(target.device), target)
    return float(distance.double().square().mean().sqrt())


def turn(
    degrees: float, middle: Float[np.ndarray, " 2"], shift: Sequence[float] | Float[np.ndarray, " 2"] = (0.0, 0.0)
) -> Motion:
    """A turn about ``middle``, x towards y, and then a shift."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    R = np.array([[c, -s], [s, c]])
    return Motion(R, middle - R @ middle + np.asarray(shift))


def _mirror(centre: tuple[float, float]) -> Motion:
    """A section turned over about the vertical through its middle."""
    return Motion(np.diag([-1.0, 1.0]), np.array([2 * centre[0], 0.0]))
