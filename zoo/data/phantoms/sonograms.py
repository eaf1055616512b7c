"""Ultrasound images of many looks: what differs between organs, probes, machines and their settings.

The breast of ``zoo.data.phantoms.ultrasound`` is one look. Here tissue, lesion, speckle, gain, probe and marks are
drawn anew for every image: layers, glands, muscle or nothing but speckle; solid lesions, cysts with bright ground
behind them, lesions brighter than what is around; vessels, ribs and gas with their shadows; Rayleigh speckle in
decibels or gamma speckle in grey values; linear and curved probes; much or little contrast. What is marked follows the
breast's rule: a benign lesion within its outline, a malignant one with the rim into which it grows.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from zoo.data.phantoms.texture import Map, blob, edge, grid, noise


def sonogram(label: str, size: int, rng: np.random.Generator) -> tuple[Map, np.ndarray, np.ndarray]:
    """A picture in [0, 1], what is marked on it, and the lesion's core, for ``benign``, ``malignant`` or ``normal``."""
    x, y = grid(size)
    scatter = _tissue(x, y, rng)
    weaken = np.full_like(x, rng.uniform(1.0, 7.0))
    marked = core = np.zeros_like(x, dtype=bool)
    centre = (rng.uniform(-0.6, 0.6), rng.uniform(-0.55, 0.55))
    scale = float(np.exp(rng.uniform(math.log(0.10), math.log(0.55))))
    scatter, weaken = _others(x, y, scatter, weaken, centre, scale, rng)
    if label != "normal":
        scatter, weaken, core, marked = _lesion(label, x, y, scatter, weaken, centre, scale, rng)
    picture = _received(scatter, weaken, rng)
    seen = _probe(x, y, rng)
    picture = np.where(seen, picture, 0.0)
    return _marks(picture, rng), marked & seen, core & seen


def _tissue(x: Map, y: Map, rng: np.random.Generator) -> Map:
    """How strongly each place scatters, decibels below the brightest."""
    size = len(x)
    kind = str(rng.choice(["layers", "gland", "muscle", "plain"], p=[0.35, 0.25, 0.2, 0.2]))
    level = rng.uniform(-26, -12)
    if kind == "plain":
        return level + rng.choice([0.0, 1.5]) * noise(size, rng.uniform(0.1, 0.5), rng)
    if kind == "gland":
        grains = noise(size, rng.uniform(0.02, 0.12), rng, (0.7, 1.3))
        septa = rng.uniform(0, 10) * np.exp(-((noise(size, 0.15, rng, (0.6, 1.8)) / 0.1) ** 2))
        return level + rng.uniform(1, 4) * grains + septa
    wave = 0.06 * noise(size, 0.4, rng, (0.3, 1.0))
    if kind == "muscle":
        period, tilt = rng.uniform(0.04, 0.16), rng.normal(0, 0.25)
        phase = 2 * math.pi * (y + tilt * x + wave) / period
        return level + rng.uniform(2, 6) * np.sin(phase + 1.5 * noise(size, 0.2, rng)) + 2 * noise(size, 0.1, rng)
    tissue = np.full_like(x, level)
    for border in np.sort(rng.uniform(-0.95, 0.95, int(rng.integers(2, 6)))):
        below = rng.uniform(-32, -10) + rng.uniform(0, 4) * noise(size, rng.uniform(0.04, 0.2), rng, (0.5, 1.6))
        depth = y - border - wave - 0.1 * rng.normal() * x
        tissue = tissue + edge(depth, 0.02) * (below - tissue)
        tissue = tissue + rng.uniform(0, 14) * np.exp(-((depth / rng.uniform(0.01, 0.03)) ** 2))
    return tissue


def _others(
    x: Map, y: Map, scatter: Map, weaken: Map, centre: tuple[float, float], scale: float, rng: np.random.Generator
) -> tuple[Map, Map]:
    """What lies about and isn't asked for: vessels, bright spots, ribs and gas with the shadows that they throw."""
    for _ in range(int(rng.integers(0, 4))):
        place = (rng.uniform(-1, 1), rng.uniform(-0.9, 0.9))
        if math.hypot(place[0] - centre[0], place[1] - centre[1]) < 1.8 * scale:
            continue
        radius = rng.uniform(0.04, 0.2)
        inside = blob(x, y, place, (radius * rng.uniform(1, 3), radius), rng.normal(0, 0.3), 0.05, rng, (2, 5))
        level, loss = (rng.uniform(-45, -30), -6.0) if rng.random() < 0.7 else (rng.uniform(-8, 0), 14.0)
        scatter = scatter + edge(inside, 0.04) * (level - scatter)
        weaken = weaken + loss * (inside > 0)
    if rng.random() < 0.3:  # a rib or gas
        side = 1.0 if centre[0] < 0 else -1.0  # its shadow falls beside the lesion, not over it
        place, width = (side * rng.uniform(0.5, 0.9), rng.uniform(-0.9, 0.6)), rng.uniform(0.1, 0.3)
        inside = blob(x, y, place, (width, 0.03), rng.normal(0, 0.1), 0.1, rng)
        scatter = scatter + edge(inside, 0.1) * (0.0 - scatter)
        weaken = weaken + 120.0 * (inside > 0)
    return scatter, weaken


def _lesion(
    label: str,
    x: Map,
    y: Map,
    scatter: Map,
    weaken: Map,
    centre: tuple[float, float],
    scale: float,
    rng: np.random.Generator,
) -> tuple[Map, Map, np.ndarray, np.ndarray]:
    size = len(x)
    level = float(scatter[np.hypot(x - centre[0], y - centre[1]) < 1.5 * scale].mean())
    if label == "benign":
        kind = str(rng.choice(["solid", "cyst", "bright", "disc"], p=[0.4, 0.3, 0.15, 0.15]))
        flat = 1.0 if kind == "disc" else rng.uniform(0.45, 0.95)
        rough = 0.0 if kind == "disc" else rng.uniform(0.0, 0.06)
        inside = blob(x, y, centre, (scale, scale * flat), rng.normal(0, 0.2), rough, rng, (2, 4))
        depth = {"solid": -rng.uniform(5, 16), "cyst": -rng.uniform(16, 35), "bright": rng.uniform(5, 12)}.get(
            kind, -rng.uniform(7, 25)
        )
        texture = rng.uniform(0, 2.5) * noise(size, rng.uniform(0.03, 0.1), rng)
        core = inside > 0
        scatter = scatter + edge(inside, 0.02) * (level + depth + texture - scatter)
        scatter = scatter + rng.uniform(0, 9) * np.exp(-((inside / 0.06) ** 2))  # its capsule
        loss = {"cyst": -14.0, "solid": -6.0, "disc": 0.0}.get(kind, 2.0) * rng.uniform(0.3, 1.2)
        return scatter, weaken + loss * core, core, core
    inside = blob(x, y, centre, (scale * rng.uniform(0.5, 1.0), scale * 0.8), rng.normal(0, 0.3), 0.12, rng, (3, 12))
    core = inside > 0
    reach = rng.uniform(0.2, 0.42)
    marked = inside > -reach
    halo = edge(inside + reach, 0.03) * (1 - edge(inside, 0.03))
    scatter = scatter + halo * (level + rng.uniform(4, 11) + 2.5 * noise(size, 0.05, rng) - scatter)
    dark = level - rng.uniform(8, 20) + rng.uniform(1, 4) * noise(size, 0.05, rng)
    scatter = scatter + edge(inside, 0.03) * (dark - scatter)
    for _ in range(int(rng.integers(0, 6))):  # calcifications
        u, v = centre[0] + rng.normal(0, scale / 4), centre[1] + rng.normal(0, scale / 4)
        scatter = scatter + 26 * np.exp(-(((x - u) ** 2 + (y - v) ** 2) / 0.012**2))
    return scatter, weaken + rng.uniform(2, 20) * core, core, marked


def _received(scatter: Map, weaken: Map, rng: np.random.Generator) -> Map:
    """Sound weakened on its way, gain over depth, speckle, and the grey values that the machine makes of it."""
    size = len(scatter)
    lost = np.cumsum(gaussian_filter(weaken, (0, 0.01 * size)), axis=0) * (2 / size)
    depth = np.linspace(0, 1, size)[:, None]
    echo = scatter - lost + depth * lost[-1].mean() * rng.uniform(0.5, 1.2)
    echo = echo + rng.uniform(-5, 5) * np.sin(2 * math.pi * (depth * rng.uniform(0.3, 1.5) + rng.random()))
    across = gaussian_filter1d(rng.standard_normal(size), size * rng.uniform(0.02, 0.1))
    echo = echo + rng.choice([0.0, 0.0, 2.0, 5.0]) * (across / max(across.std(), 1e-9)) * depth
    echo = gaussian_filter(echo, rng.uniform(0.001, 0.006) * size)
    grain = 0.0045 * size * float(np.exp(rng.uniform(math.log(0.3), math.log(2.0))))
    spread = (0.55 * grain, grain * rng.uniform(0.6, 1.8))
    if rng.random() < 0.3:  # grey values follow the amplitude; the mean of several looks, as gamma noise
        looks = float(rng.choice([1, 2, 4, 8]))
        shown = rng.gamma(looks, 1 / looks, (size, size))
        if rng.random() < 0.6:
            shown = gaussian_filter(shown, spread)
        picture = 10 ** ((echo - np.percentile(echo, 90)) / rng.uniform(20, 50)) * shown * rng.uniform(0.35, 0.7)
        return np.clip(picture, 0, 1)
    parts = [gaussian_filter(rng.standard_normal((size, size)), spread) for _ in range(2)]
    speckle = np.hypot(*parts)
    speckle = 20 * np.log10(speckle / speckle.mean() + 0.03)
    reach = rng.uniform(34, 64)
    bright = np.percentile(echo, 97)
    picture = (echo - bright + rng.uniform(0.3, 1.0) * speckle + reach - rng.uniform(2, 14)) / reach
    if rng.random() < 0.35:  # compounding and smoothing
        picture = gaussian_filter(picture, rng.uniform(0.4, 1.5) * size / 256)
    return np.clip(picture, 0, 1) ** rng.uniform(0.7, 1.5)


def _probe(x: Map, y: Map, rng: np.random.Generator) -> np.ndarray:
    """Where the image has content: all of it, all but black borders, or the fan of a curved probe."""
    kind = str(rng.choice(["all", "borders", "fan"], p=[0.6, 0.2, 0.2]))
    if kind == "all":
        return np.ones_like(x, dtype=bool)
    if kind == "borders":
        left, right, top, bottom = 1 - rng.uniform(0, 0.25, 4)
        return (x > -left) & (x < right) & (y > -top) & (y < bottom)
    apex = -1 - rng.uniform(0.3, 1.2)
    radius, angle = np.hypot(x, y - apex), np.abs(np.arctan2(x, y - apex))
    inner = -1 - apex + rng.uniform(0.0, 0.1)
    return (radius > inner) & (radius < inner + 2) & (angle < math.atan(1.0 / (inner + 1.0)) * rng.uniform(0.9, 1.3))


def _marks(picture: Map, rng: np.random.Generator) -> Map:
    """Ticks of the depth scale and calliper crosses, sometimes."""
    size = len(picture)
    picture = picture.copy()
    if rng.random() < 0.2:
        column, step = int(rng.integers(0, size - 4)), max(4, size // int(rng.integers(5, 12)))
        picture[::step, column : column + 3] = 0.9
    if rng.random() < 0.15:
        arm = max(2, size // 64)
        for _ in range(2):
            r, c = (int(v) for v in rng.integers(arm, size - arm, 2))
            picture[r, c - arm : c + arm] = picture[r - arm : r + arm, c] = 1.0
    return picture
