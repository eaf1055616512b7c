"""Axial registration (Algorithm 1): each layer onto the one below it, estimated from a cross of two bands of points."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage

from zoo.data.rigid import IDENTITY, Fit, Motion, Pair, about, mirrored, misfit, turn
from zoo.errors import OptionError
from zoo.models.pointcloud_recon3d.data import Layer

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
ANGLES, FEW = range(0, 360, 15), 400  # degrees that a layer is looked for at, and the points that this takes
ALIKE, SAME = 1.25, 1.02  # ratios of misfits that are not told apart, and that are no gain


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

    select: Selection = "all"
    """Points that the motion is estimated from: the densest cross, a given one, all of them, or a random share."""
    mode: BandMode = "or"
    share: float = BAND_SHARE
    d_max: float | None = None  # of pairs of points; None: 5 % of the diagonal of the layer's bounding box
    max_iterations: int = 100
    tolerance: float = 1e-6  # of RMSE (pixels) and of the share of pairs
    refine: bool = True  # once more with half of d_max
    reference: Literal["chain", "rolling"] = "chain"  # the layer below, or the last three together
    allow_flip: bool = False  # try each layer turned over, too
    search: bool = True  # from every angle, and stay where nothing fits better; False: from where the layer lies
    least_inliers: float = 0.5  # below it a layer counts as not found
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
    inliers: float | None  # share of the points, of this layer or the other, with a neighbour within d_max
    iterations: int
    flags: tuple[str, ...] = ()
    seconds: float = field(default=0.0, compare=False)

    @classmethod
    def unmoved(cls, number: int, name: str, layer: Layer, registered_on: str) -> LayerReport:
        return cls(number, name, 0.0, (0.0, 0.0), False, registered_on, len(layer.tumour), 0, None, None, None, 0)


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
                rmse_selected=found.fit.quality.selected if found.fit else None,
                rmse_all=found.fit.quality.all if found.fit else None,
                inliers=found.fit.quality.inliers if found.fit else None,
                iterations=found.fit.iterations if found.fit else 0,
                flags=found.flags + (found.fit.pair.doubts(found.fit) if found.fit else ()),
                seconds=took,
            )
        )  # fmt: skip
        progress(i)
    return motions, reports


class Found(NamedTuple):
    motion: Motion
    kind: str
    moving: Float[np.ndarray, "n 2"]
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
        return Found(previous, "nothing", moving, 0, None, (*flags, "moved as the layer below"))

    if len(below) > 1 and len(fixed) > (most := max(len(getattr(lower, kind)) for lower, _ in below)):
        rng = np.random.default_rng([number, 8])
        fixed = fixed[np.sort(rng.choice(len(fixed), most, replace=False))]  # three layers, as dense as one
    d_max = rule.d_max or 0.05 * float(np.linalg.norm(np.ptp(moving, axis=0)))
    chosen = select(moving, rule, number)
    starts = [IDENTITY, mirrored(layer.centre)] if rule.allow_flip else [IDENTITY]
    full = Pair(moving, fixed, chosen, d_max, rule, device)
    if not rule.search:
        fits = [full.fit(start) for start in starts]
        best = min(fits, key=misfit) if len(fits) > 1 else fits[0]
    else:
        fits = [full.fit(start) for start in starts + _search(moving, fixed, starts, d_max, rule, number, device)]
        best = min(fits, key=misfit)
        if rivals := [fit for fit in fits if fit.apart(best) and fit.misfit < ALIKE * best.misfit]:
            best = min([best, *rivals], key=lambda fit: abs(fit.angle))
            flags.append("other angles fit as well: its place is doubtful")
        stay = Fit(full, IDENTITY)
        if stay.misfit <= SAME * best.misfit:
            best = stay
    return Found(best.motion, kind, moving, int(chosen.sum()), best, tuple(flags))


def _search(
    moving: np.ndarray, fixed: np.ndarray, starts: Sequence[Motion], d_max: float, rule: Rule, number: int,
    device: torch.device | str,
) -> list[Motion]:  # fmt: skip
    """The three best answers, ``rigid.APART`` from each other, of a few points fitted from every angle."""
    rng = np.random.default_rng([number, 9])
    few, lower = (points[rng.permutation(len(points))[:FEW]] for points in (moving, fixed))
    quick = replace(rule, max_iterations=30, tolerance=1e-3, refine=False)
    pair = Pair(few, lower, np.ones(len(few), bool), d_max, quick, device)
    middle = few.mean(0, dtype=np.float64)
    best: list[Fit] = []
    for fit in sorted((pair.fit(start.after(turn(angle, middle))) for angle in ANGLES for start in starts), key=misfit):
        if len(best) < 3 and all(fit.apart(other) for other in best):
            best.append(fit)
    return [fit.motion for fit in best]


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
