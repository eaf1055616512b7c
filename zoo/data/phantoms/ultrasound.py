"""A procedural B-mode ultrasound image of the breast: a benign or malignant lesion, or none.

Tissue is a map of how strongly it scatters and how much it weakens sound, both in layers from the skin down. Sound is
weakened along each line from the transducer, so a malignant lesion throws a shadow and a benign one brightens what
lies beneath. Echoes are speckle (Rayleigh), finer along the beam than across it, compressed to decibels.

The groups differ in what is marked, as in practice: of a benign lesion what is dark within its capsule, of a malignant
one the bright rim around it too, into which it grows.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from scipy.ndimage import gaussian_filter

from zoo.data.case import Case
from zoo.data.phantoms.sonograms import sonogram
from zoo.data.phantoms.texture import Map, as_bytes, as_mask, blob, check_size, edge, grid, noise
from zoo.errors import DataError

GROUPS = ("benign", "malignant", "normal")
Style = Literal["breast", "any", "both"]


def ultrasound(seed: int, *, size: int = 256, group: str | None = None, style: Style = "breast") -> Case:
    """B-mode image of the breast, or of any look: benign or malignant lesion, or none.

    Args:
        seed: the phantom is a pure function of it and the options.
        size: width and height of the square image, px (32 to 1024).
        group: ``benign``, ``malignant`` or ``normal``; by turns when not given.
        style: ``breast``, or ``any``: organ, probe, machine and settings are drawn too (see ``sonograms``); ``both``:
            a quarter of the seeds is the breast.

    Returns:
        A case with a uint8 [h w] image, the group as label and as attribute ``condition``, and uint8 [h w] masks:
        ``mask`` (what is marked; empty when normal) and ``core`` (the dark part alone).

    Raises:
        DataError: an option is out of its range.
    """
    check_size("ultrasound", size)
    if group not in (None, *GROUPS):
        raise DataError(f"the ultrasound phantom has no group {group!r}; choose one of {', '.join(GROUPS)}")
    label = group or GROUPS[seed % len(GROUPS)]
    if style == "any" or (style == "both" and seed // len(GROUPS) % 4):
        picture, marked, core = sonogram(label, size, np.random.default_rng([0x50406, seed]))
        return _case(picture, seed, label, marked, core)
    rng = np.random.default_rng([0x05A6D, seed])
    x, y = grid(size)
    scatter, weaken = _tissue(x, y, rng)
    marked = core = np.zeros_like(x, dtype=bool)
    if label != "normal":
        scatter, weaken, core, marked = _lesion(label, x, y, scatter, weaken, rng)
    return _case(_image(scatter, weaken, size, rng), seed, label, marked, core)


def _case(picture: Map, seed: int, label: str, marked: np.ndarray, core: np.ndarray) -> Case:
    return Case(
        as_bytes(picture),
        f"ultrasound-{seed}",
        masks={"mask": as_mask(marked), "core": as_mask(core)},
        label=label,
        attributes={"condition": label},
    )


def _tissue(x: Map, y: Map, rng: np.random.Generator) -> tuple[Map, Map]:
    """Skin, fat, gland, muscle, in decibels of echo, and how much each weakens sound (decibels per half image)."""
    size = len(x)
    wave = 0.05 * noise(size, 0.35, rng, (0.3, 1.0))
    skin = -0.90 + 0.02 * wave
    fat = rng.uniform(-0.62, -0.40) + wave
    muscle = rng.uniform(0.42, 0.70) + 0.04 * x * rng.normal() + 0.4 * wave
    wall = muscle + rng.uniform(0.22, 0.32)
    lobules = noise(size, 0.07, rng, (0.6, 1.4))
    gland = -13 + 5.0 * noise(size, 0.10, rng, (0.5, 1.6)) - 4.0 * np.clip(lobules - 0.7, 0, None)
    septa = 12 * np.exp(-((noise(size, 0.10, rng, (0.5, 2.0)) / 0.10) ** 2))
    fibres = 5 * np.sin(2 * math.pi * (y + wave) / 0.055 + 1.5 * noise(size, 0.2, rng))
    tissue = -24 + septa  # fat: dark, with bright septa
    tissue = tissue + edge(y - fat, 0.03) * (gland - tissue)
    tissue = tissue + edge(y - muscle, 0.015) * (-17 + fibres - tissue)
    tissue = tissue + edge(y - wall, 0.02) * (-30 - tissue)
    fascia = np.exp(-(((y - muscle) / 0.016) ** 2)) + 0.8 * np.exp(-(((y - wall) / 0.022) ** 2))
    tissue = tissue + 12 * fascia
    tissue = np.where(y < skin, -5.0 + 2 * noise(size, 0.02, rng), tissue)
    return tissue, np.full_like(x, rng.uniform(3.0, 6.0))


def _lesion(
    label: str, x: Map, y: Map, scatter: Map, weaken: Map, rng: np.random.Generator
) -> tuple[Map, Map, np.ndarray, np.ndarray]:
    size = len(x)
    centre = (rng.uniform(-0.45, 0.45), rng.uniform(-0.22, 0.25))
    if label == "benign":
        width = rng.uniform(0.22, 0.42)
        radii = (width, width * rng.uniform(0.45, 0.75))  # wider than tall
        inside = blob(x, y, centre, radii, rng.normal(0, 0.15), 0.03, rng, (2, 4))
        core = inside > 0
        rim = np.exp(-((inside / 0.05) ** 2))
        depth = rng.uniform(-34, -27) + 1.5 * noise(size, 0.06, rng)
        scatter = scatter + edge(inside, 0.02) * (depth - scatter) + 7 * rim
        return scatter, weaken - 7.0 * core, core, core
    height = rng.uniform(0.20, 0.36)
    radii = (height * rng.uniform(0.6, 1.0), height)  # taller than wide
    inside = blob(x, y, centre, radii, rng.normal(0, 0.25), 0.12, rng, (3, 12))
    core = inside > 0
    reach = rng.uniform(0.30, 0.42)
    marked = inside > -reach
    depth = rng.uniform(-36, -29) + 4 * noise(size, 0.05, rng)
    halo = edge(inside + reach, 0.03) * (1 - edge(inside, 0.03))
    scatter = scatter + halo * (-11 + 2.5 * noise(size, 0.05, rng) - scatter)
    scatter = scatter + edge(inside, 0.03) * (depth - scatter)
    for _ in range(int(rng.integers(0, 6))):  # calcifications
        u, v = centre[0] + rng.normal(0, radii[0] / 3), centre[1] + rng.normal(0, radii[1] / 3)
        scatter = scatter + 26 * np.exp(-(((x - u) ** 2 + (y - v) ** 2) / 0.012**2))
    return scatter, weaken + 16.0 * core, core, marked


def _image(scatter: Map, weaken: Map, size: int, rng: np.random.Generator) -> Map:
    lost = np.cumsum(gaussian_filter(weaken, (0, 0.01 * size)), axis=0) * (2 / size)
    mean = np.linspace(0, 1, size)[:, None] * lost[-1].mean()
    echo = scatter - lost + mean * rng.uniform(0.7, 1.0)  # time-gain compensation, never quite right
    grain = 0.0045 * size * rng.uniform(0.8, 1.4)
    parts = [gaussian_filter(rng.standard_normal((size, size)), (0.55 * grain, 1.1 * grain)) for _ in range(2)]
    speckle = np.hypot(*parts)
    speckle = 20 * np.log10(speckle / speckle.mean() + 0.03)
    reach = rng.uniform(44, 54)
    picture = (gaussian_filter(echo, 0.003 * size) + 0.8 * speckle + reach - rng.uniform(2, 8)) / reach
    return np.clip(picture, 0, 1) ** rng.uniform(0.95, 1.25)
