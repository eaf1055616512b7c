"""A procedural frontal chest radiograph of a child: normal, with bacterial or with viral pneumonia.

The chest is built as optical density in unit coordinates (x to the image's right, y down, both in [-1, 1]): body,
lungs, heart, spine, ribs, clavicles, vessels. Bacterial pneumonia is a dense opacity that fills part of one lung and
stops at a fissure, with air bronchograms; viral pneumonia is bilateral, streaky and strongest around the hila, in
overinflated lungs. Exposure, size of the child, rotation, markers and noise are drawn alike for all three, so that
they tell nothing.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import gaussian_filter

from zoo.data.case import Case
from zoo.data.phantoms.texture import check_size, edge
from zoo.errors import DataError

FINDINGS = ("normal", "bacterial", "viral")

Grid = Float[np.ndarray, "h w"]


def chest_xray(seed: int, *, size: int = 256, finding: str | None = None) -> Case:
    """Frontal chest radiograph of a child: normal, bacterial or viral pneumonia.

    Args:
        seed: the phantom is a pure function of it and the options.
        size: width and height of the square image, px (32 to 1024).
        finding: ``normal``, ``bacterial`` or ``viral``; by turns when not given.

    Returns:
        A case with a uint8 [h w] image, the label, and uint8 [h w] masks (0 or 1): ``mask`` (the opacity of the
        pneumonia), ``lungs``, ``left_lung`` and ``heart``.

    Raises:
        DataError: an option is out of its range.
    """
    check_size("chest-xray", size)
    if finding not in (None, *FINDINGS):
        raise DataError(f"the chest-xray phantom has no finding {finding!r}; choose one of {', '.join(FINDINGS)}")
    label = finding or FINDINGS[seed % len(FINDINGS)]
    rng = np.random.default_rng([0xC4E57, seed])
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    x, y = _pose(x, y, rng)

    inflation = rng.uniform(0.92, 1.04) + (0.05 if label == "viral" else 0.0)
    lungs = [_lung(x, y, side, inflation, rng) for side in (-1, 1)]
    lung = np.maximum(*lungs)
    heart = _heart(x, y, rng)
    density = _body(x, y, rng) - lung * rng.uniform(0.40, 0.48)
    density += 0.26 * heart * (0.35 + 0.65 * lung)
    density += _bones(x, y, size, rng) + _vessels(x, y, lung, rng)

    opacity = np.zeros_like(density)
    if label == "bacterial":
        opacity = _consolidation(x, y, lungs[int(rng.integers(2))], rng)
    elif label == "viral":
        opacity = _interstitial(x, y, lung, rng)
    density += opacity
    picture = _expose(density, size, rng)
    masks = {"mask": opacity > 0.07, "lungs": lung > 0.5, "heart": heart > 0.5}
    masks["left_lung"] = lungs[1] > 0.5  # the patient's left, which is the image's right
    return Case(
        picture,
        f"chest-xray-{seed}",
        masks={name: inside.astype(np.uint8) for name, inside in masks.items()},
        label=label,
    )


def _pose(x: Grid, y: Grid, rng: np.random.Generator) -> tuple[Grid, Grid]:
    angle, scale = math.radians(rng.normal(0, 3)), rng.uniform(0.80, 0.95)
    x, y = (x + rng.normal(0, 0.03)) * scale, (y + rng.normal(0, 0.03)) * scale
    return math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x


def _body(x: Grid, y: Grid, rng: np.random.Generator) -> Grid:
    """Trunk, shoulders, neck and upper arms; the spine and mediastinum as a denser band."""
    half = 0.80 + 0.05 * np.sin(2.5 * y) + 0.12 * edge(-0.45 - y, 0.08)
    shoulder = -0.80 + 0.55 * np.clip(np.abs(x) - 0.15, 0, None) ** 1.6
    inside = edge(half - np.abs(x), 0.015) * edge(y - shoulder, 0.02)
    neck = edge(0.20 - np.abs(x), 0.02) * edge(-0.7 - y, 0.02)
    middle = np.exp(-((x / 0.17) ** 2))
    vertebrae = 0.03 * np.cos(2 * np.pi * y / 0.135 + rng.uniform(0, 6)) * np.exp(-((x / 0.09) ** 2))
    trachea = 0.10 * np.exp(-(((x - 0.01) / 0.045) ** 2)) * edge(-0.30 - y, 0.05)
    below = 0.10 * edge(y - 0.55, 0.1)
    return np.maximum(inside, neck) * (0.60 + 0.22 * middle + vertebrae - trachea + below)


def _lung(x: Grid, y: Grid, side: int, inflation: float, rng: np.random.Generator) -> Grid:
    """``side`` -1: the patient's right lung, at the image's left; its diaphragm stands higher, above the liver."""
    top = -0.74 + rng.normal(0, 0.02)
    dome = (0.50 if side < 0 else 0.56) * inflation + rng.normal(0, 0.02)
    u = side * x
    bottom = dome - 0.10 * np.cos(np.clip((u - 0.40) / 0.30, -1.2, 1.2) * math.pi / 2) + 0.16 * np.clip(u - 0.55, 0, 1)
    height = np.clip((y - top) / (dome - top), 0, 1)
    outer = (0.24 + 0.47 * np.sqrt(np.clip(height, 0, 1)) - 0.05 * height**3) * (0.5 + 0.5 * inflation)
    inner = 0.115 + (0.05 if side > 0 else 0.02) * height + rng.normal(0, 0.006)
    return edge(outer - u, 0.012) * edge(u - inner, 0.014) * edge(y - top, 0.02) * edge(bottom - y, 0.010)


def _heart(x: Grid, y: Grid, rng: np.random.Generator) -> Grid:
    """Mostly left of the midline, which is the image's right."""
    width, tilt = rng.uniform(0.29, 0.35), 0.35
    u, v = x - 0.11, y - rng.uniform(0.24, 0.29)
    along, across = u * math.cos(tilt) + v * math.sin(tilt), v * math.cos(tilt) - u * math.sin(tilt)
    ventricles = 1 - (along / width) ** 2 - (across / 0.26) ** 2
    vessels = 1 - ((x - 0.02) / 0.16) ** 2 - ((y + 0.08) / 0.30) ** 2
    return np.maximum(edge(ventricles, 0.06), 0.8 * edge(vessels, 0.10))


def _bones(x: Grid, y: Grid, size: int, rng: np.random.Generator) -> Grid:
    """Posterior ribs fall outwards, fainter anterior ones inwards; clavicles above."""
    u = np.abs(x)
    spacing, phase, width = rng.uniform(0.135, 0.15), rng.uniform(0, 0.13), 0.021
    cage = edge(0.73 - u, 0.02) * edge(u - 0.10, 0.02) * edge(0.62 - y, 0.05) * edge(y + 0.80, 0.03)
    total = np.zeros_like(x)
    for slope, strength in ((0.42, 0.085), (-0.55, 0.045)):
        course = y - slope * u + (0.35 * u**2 if slope > 0 else -0.25 * u**2) - phase
        off = (course / spacing) - np.round(course / spacing)
        total += strength * np.exp(-((off * spacing / width) ** 2)) * cage
        phase += spacing / 2
    clavicle = y + 0.60 - 0.14 * np.sin(np.clip((u - 0.08) / 0.62, 0, 1) * math.pi) * -1
    total += 0.15 * np.exp(-((clavicle / 0.026) ** 2)) * edge(u - 0.08, 0.02) * edge(0.70 - u, 0.03)
    return total


def _vessels(x: Grid, y: Grid, lung: Grid, rng: np.random.Generator) -> Grid:
    """The hila and what branches from them, thinning outwards."""
    texture = _ridges(x.shape, 0.02, rng)
    reach = np.exp(-(np.hypot((np.abs(x) - 0.17) / 0.22, (y + 0.02) / 0.35) ** 2))
    hilum = np.exp(-(np.hypot((np.abs(x) - 0.17) / 0.07, (y + 0.04) / 0.12) ** 2))
    return lung * (0.10 * texture * reach + rng.uniform(0.05, 0.10) * hilum)


def _consolidation(x: Grid, y: Grid, lung: Grid, rng: np.random.Generator) -> Grid:
    """A dense region of one lung with one sharp side (the fissure), crossed by dark air bronchograms."""
    inside = lung > 0.6
    rows, columns = np.nonzero(inside)
    place = int(rng.integers(len(rows)))
    cx, cy = x[rows[place], columns[place]], y[rows[place], columns[place]]
    radius = rng.uniform(0.20, 0.38)
    wobble = 1 + 0.35 * _noise(x.shape, 0.10, rng)
    blob = edge(radius * wobble - np.hypot(x - cx, (y - cy) / 0.9), 0.035)
    fissure = edge(rng.choice([-1.0, 1.0]) * (y - cy + 0.25 * (x - cx)) + 0.6 * radius, 0.012)
    bronchi = 0.30 * np.clip(_ridges(x.shape, 0.022, rng), 0, 1)
    return rng.uniform(0.13, 0.30) * lung * blob * fissure * (1 - bronchi)


def _interstitial(x: Grid, y: Grid, lung: Grid, rng: np.random.Generator) -> Grid:
    """Streaks and thickened bronchial walls in both lungs, strongest around the hila, over a faint haze."""
    reach = np.exp(-(np.hypot((np.abs(x) - 0.22) / 0.30, (y - 0.03) / 0.45) ** 2))
    patchy = np.clip(0.7 + 0.6 * _noise(x.shape, 0.16, rng), 0, 1.5)
    streaks = np.clip(_ridges(x.shape, 0.016, rng) + 0.5 * _ridges(x.shape, 0.03, rng), 0, 1.3)
    return rng.uniform(0.10, 0.20) * lung * reach * patchy * (0.35 + streaks)


def _noise(shape: tuple[int, ...], scale: float, rng: np.random.Generator) -> Grid:
    """Smooth noise of deviation 1; ``scale`` is its length in unit coordinates. The same picture at every size."""
    coarse = rng.standard_normal((96, 96))
    smooth = gaussian_filter(coarse, scale * 48, mode="wrap")
    smooth /= smooth.std()
    rows, columns = (np.linspace(0, 95, n) for n in shape)
    low, left = np.minimum(rows.astype(int), 94), np.minimum(columns.astype(int), 94)
    fy, fx = (rows - low)[:, None], (columns - left)[None]
    upper = smooth[np.ix_(low, left)] * (1 - fx) + smooth[np.ix_(low, left + 1)] * fx
    return upper * (1 - fy) + (smooth[np.ix_(low + 1, left)] * (1 - fx) + smooth[np.ix_(low + 1, left + 1)] * fx) * fy


def _ridges(shape: tuple[int, ...], scale: float, rng: np.random.Generator) -> Grid:
    """A net of thin lines in [0, 1], where smooth noise crosses zero."""
    return np.exp(-((_noise(shape, scale, rng) / 0.35) ** 2))


def _expose(density: Grid, size: int, rng: np.random.Generator) -> np.ndarray:
    """From density to grey levels: scatter, exposure, quantum noise, a marker in a corner, 8 bits."""
    image = gaussian_filter(density, 0.004 * size)
    image = 0.92 * image + 0.08 * gaussian_filter(image, 0.12 * size)
    image = np.clip((image - rng.uniform(0.0, 0.06)) * rng.uniform(0.95, 1.2), 0, None) ** rng.uniform(0.85, 1.25)
    image += 0.02 * rng.uniform(0.5, 1.5) * rng.standard_normal(image.shape) * np.sqrt(np.clip(image, 0.05, 1))
    corner: Bool[np.ndarray, "h w"] = np.zeros(image.shape, bool)
    top, left, side = int(0.05 * size), int(rng.choice([0.04, 0.90]) * size), max(2, int(0.05 * size))
    corner[top : top + side, left : left + max(1, side // 4)] = True
    corner[top : top + max(1, side // 4), left : left + side] = True
    if rng.random() < 0.5:
        image[corner] = 0.95
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8)
