"""Rigid motions of points in the plane, and ICP that says how well all points fit, both ways."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float

from zoo.ops import icp, nearest_neighbors

APART = 10.0  # degrees between two answers


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


@runtime_checkable
class Limits(Protocol):
    """What is asked of a fit."""

    @property
    def max_iterations(self) -> int: ...
    @property
    def tolerance(self) -> float: ...
    @property
    def refine(self) -> bool: ...
    @property
    def least_inliers(self) -> float: ...


class Quality(NamedTuple):
    misfit: float  # root mean square distance both ways, none counted beyond d_max: what fits are compared by
    selected: float | None  # RMSE of the selected pairs
    all: float
    inliers: float


@dataclass(frozen=True)
class Fit:
    pair: Pair
    motion: Motion
    iterations: int = 0

    @cached_property
    def quality(self) -> Quality:
        """Measured when it is asked for: it is no part of estimating a motion."""
        return self.pair.quality(self.motion)

    @property
    def misfit(self) -> float:
        return self.quality.misfit

    @property
    def angle(self) -> float:
        return about(self.motion, (0.0, 0.0))[0]

    def apart(self, other: Fit) -> bool:
        flipped = bool(np.linalg.det(self.motion.R) * np.linalg.det(other.motion.R) < 0)
        return flipped or abs((self.angle - other.angle + 180) % 360 - 180) > APART


def about(motion: Motion, centre: tuple[float, float]) -> tuple[float, tuple[float, float], bool]:
    """Angle in degrees, shift in x and y, and whether it mirrors: the motion as made about ``centre``."""
    flipped = bool(np.linalg.det(motion.R) < 0)
    R = motion.R @ np.diag([-1.0, 1.0]) if flipped else motion.R
    angle = math.degrees(math.atan2(R[1, 0], R[0, 0]))
    moved = motion.R @ np.array(centre) + motion.t - np.array(centre)
    return angle, (float(moved[0]), float(moved[1])), flipped


class Pair:
    """The points of a layer, those of them that its motion is estimated from, and those that it is moved onto."""

    def __init__(
        self, moving: np.ndarray, fixed: np.ndarray, chosen: np.ndarray, d_max: float, rule: Limits,
        device: torch.device | str,
    ) -> None:  # fmt: skip
        self.moving, self.fixed, self.chosen, self.d_max, self.rule = moving, fixed, chosen, d_max, rule
        self.target = torch.from_numpy(fixed).to(device)

    def fit(self, start: Motion) -> Fit:
        """ICP from ``start``; centroids farther apart than ``d_max`` are brought together first."""
        gap = self.fixed.mean(0, dtype=np.float64) - start.apply(self.moving).mean(0, dtype=np.float64)
        if float(np.linalg.norm(gap)) > self.d_max:
            start = Motion(start.R, start.t + gap)
        # ICP turns but doesn't mirror, so it gets points that the start has moved already.
        source = torch.from_numpy(start.apply(self.moving[self.chosen])).to(self.target.device)
        limits: dict[str, Any] = {"max_iterations": self.rule.max_iterations, "tolerance": self.rule.tolerance}
        found = icp(source, self.target, max_distance=self.d_max, **limits)
        iterations = int(found.iterations)
        if self.rule.refine and float(found.fitness) > 0:
            found = icp(source, self.target, max_distance=self.d_max / 2, **limits, init=found)
            iterations += int(found.iterations)
        R, t = found.R.double().cpu().numpy(), found.t.double().cpu().numpy()
        return Fit(self, Motion(R, t).after(start), iterations)

    def quality(self, motion: Motion) -> Quality:
        moved = torch.from_numpy(motion.apply(self.moving)).to(self.target.device)
        pairs = ((moved, self.target), (self.target, moved))
        up, down = (nearest_neighbors(a, b)[0].double().flatten().cpu().numpy() for a, b in pairs)
        near = up[self.chosen & (up <= self.d_max)]
        misfit = max(_rms(np.minimum(distances, self.d_max)) for distances in (up, down))
        inliers = float(min((up <= self.d_max).mean(), (down <= self.d_max).mean()))
        return Quality(misfit, _rms(near) if len(near) else None, _rms(up), inliers)

    def doubts(self, fit: Fit) -> tuple[str, ...]:
        lost = fit.quality.inliers < self.rule.least_inliers or fit.quality.all > self.d_max
        return ("not found: its place is doubtful",) if lost else ()


def _rms(values: np.ndarray) -> float:
    return math.sqrt(float(np.square(values).mean()))


def misfit(fit: Fit) -> float:
    return fit.misfit


def turn(
    degrees: float, middle: Float[np.ndarray, " 2"], shift: Sequence[float] | Float[np.ndarray, " 2"] = (0.0, 0.0)
) -> Motion:
    """A turn about ``middle``, x towards y, and then a shift."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    R = np.array([[c, -s], [s, c]])
    return Motion(R, middle - R @ middle + np.asarray(shift))


def mirrored(centre: tuple[float, float]) -> Motion:
    """A section turned over about the vertical through its middle."""
    return Motion(np.diag([-1.0, 1.0]), np.array([2 * centre[0], 0.0]))
