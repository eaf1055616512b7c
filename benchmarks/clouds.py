"""Point clouds to register: two scans of one bumpy surface, and two sections of one tissue."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def surface(n: int, seed: int) -> Float[np.ndarray, "n 3"]:
    """A scan of a bumpy ball of radius 1 with noise of 0.002. Scans of other seeds sample the same ball."""
    rng = np.random.default_rng(seed)
    u = rng.normal(size=(n, 3))
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    radius = 1 + 0.15 * np.sin(4 * u[:, 0] + 1) * np.cos(3 * u[:, 1]) + 0.1 * np.sin(5 * u[:, 2] + 2 * u[:, 0])
    return u * radius[:, None] + rng.normal(scale=0.002, size=(n, 3))


def layer(n: int, seed: int) -> Float[np.ndarray, "n 2"]:
    """Pixels of lobed tissue about 1 across, a random share of them."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-1, 1, size=(8 * n, 2))
    angle, radius = np.arctan2(points[:, 1], points[:, 0]), np.linalg.norm(points, axis=1)
    inside = radius < 0.55 + 0.15 * np.cos(3 * angle + 0.5) + 0.08 * np.sin(5 * angle)
    return points[inside][:n]


def moved(points: Float[np.ndarray, "n d"], degrees: float, shift: float) -> Float[np.ndarray, "n d"]:
    d, angle = points.shape[1], np.deg2rad(degrees)
    rotation = np.eye(d)
    rotation[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return points @ rotation.T + shift / np.sqrt(d)


def downsampled(points: Float[np.ndarray, "n d"], voxel: float) -> Float[np.ndarray, "m d"]:
    """The mean of every occupied voxel."""
    _, index, counts = np.unique(np.floor(points / voxel), axis=0, return_inverse=True, return_counts=True)
    sums = np.stack([np.bincount(index, column) for column in points.T], axis=1)
    return sums / counts[:, None]
