"""A procedural tile of an H&E section: tumour nests with crowded nuclei, stroma with fibres, a gland's lumen.

Stain is laid down as optical density of haematoxylin and eosin and turned into light by Beer and Lambert's law with
Ruifrok and Johnston's stain colours; laboratories differ in how much of each they take.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.ndimage import gaussian_filter

from zoo.data.case import Case
from zoo.data.phantoms.texture import as_bytes, as_mask, check_size, grid, noise

_HAEMATOXYLIN = np.array([0.65, 0.70, 0.29])
_EOSIN = np.array([0.07, 0.99, 0.11])


def he_tile(seed: int, *, size: int = 256) -> Case:
    """Tile of an H&E section: tumour nests and stroma with every nucleus outlined.

    Args:
        seed: the phantom is a pure function of it and the options.
        size: width and height, px (32 to 1024).

    Returns:
        A case with a uint8 [h w 3] image and masks: ``mask`` (uint8, nuclei), ``nuclei`` (uint16, one number for each),
        ``tumour`` (uint8, the nests).

    Raises:
        DataError: ``size`` is out of its range.
    """
    check_size("he-tile", size)
    rng = np.random.default_rng([0x4E711E, seed])
    x, y = grid(size)
    nest = noise(size, rng.uniform(0.18, 0.32), rng)
    tumour = nest > rng.uniform(-0.5, 0.6)
    bend = noise(size, 0.25, rng)
    angle = rng.uniform(0, math.pi)
    course = x * math.cos(angle) + y * math.sin(angle) + 0.15 * bend
    fibre = 0.5 + 0.5 * np.sin(2 * math.pi * course / rng.uniform(0.05, 0.09) + 2 * noise(size, 0.05, rng))
    eosin = np.where(tumour, 0.30, 0.34 + 0.26 * fibre) + 0.05 * noise(size, 0.012, rng)
    eosin = gaussian_filter(eosin, 0.004 * size)
    clear = np.clip(noise(size, 0.06, rng) - 1.7, 0, 1) * (~tumour)  # clefts and fat between fibres
    eosin *= 1 - np.clip(2.5 * clear, 0, 0.9)
    blue = np.where(tumour, 0.12, 0.05) + 0.02 * noise(size, 0.02, rng)
    nuclei = np.zeros((size, size), np.uint16)
    chromatin = noise(size, 0.008, rng)
    for centre_x, centre_y, crowded in _places(tumour, rng):
        nuclei, blue = _nucleus(x, y, centre_x, centre_y, crowded, angle, nuclei, blue, chromatin, rng)
    strength = rng.uniform(0.75, 1.25, 2)
    density = strength[0] * np.clip(blue, 0, None)[..., None] * _HAEMATOXYLIN
    density = density + strength[1] * np.clip(eosin, 0, None)[..., None] * _EOSIN
    density = gaussian_filter(density, (0.0025 * size, 0.0025 * size, 0))
    light = np.exp(-1.35 * density) * rng.uniform([0.94, 0.93, 0.94], [1.0, 0.98, 1.0])
    light += rng.normal(0, 0.012, light.shape)
    return Case(
        as_bytes(light),
        f"he-tile-{seed}",
        masks={"mask": as_mask(nuclei > 0), "nuclei": nuclei, "tumour": as_mask(tumour)},
    )


def _places(tumour: np.ndarray, rng: np.random.Generator) -> list[tuple[float, float, bool]]:
    """Where nuclei lie: dense in nests, sparse in stroma, never on top of each other."""
    size = len(tumour)
    kept: list[tuple[float, float, bool]] = []
    for centre_x, centre_y in rng.uniform(-1.0, 1.0, (420, 2)):
        row, column = (min(size - 1, int((c + 1) / 2 * size)) for c in (centre_y, centre_x))
        crowded = bool(tumour[row, column])
        apart = 0.155 if crowded else 0.24
        if all((centre_x - a) ** 2 + (centre_y - b) ** 2 > apart**2 for a, b, _ in kept):
            kept.append((float(centre_x), float(centre_y), crowded))
    return kept


def _nucleus(
    x: np.ndarray,
    y: np.ndarray,
    centre_x: float,
    centre_y: float,
    crowded: bool,
    fibres: float,
    nuclei: np.ndarray,
    blue: np.ndarray,
    chromatin: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Round and pale with a nucleolus in tumour; thin, dark and along the fibres in stroma; some lymphocytes."""
    lymphocyte = not crowded and rng.uniform() < 0.3
    if crowded:
        long, short, angle, dark = rng.uniform(0.075, 0.105), rng.uniform(0.06, 0.085), rng.uniform(0, math.pi), 0.50
    elif lymphocyte:
        long, short, angle, dark = 0.05, 0.047, 0.0, 1.0
    else:
        long, short, dark = rng.uniform(0.085, 0.13), rng.uniform(0.026, 0.04), 0.80
        angle = fibres + math.pi / 2 + rng.normal(0, 0.25)
    size = len(x)
    reach = int(1.6 * long * size / 2) + 2
    row, column = int((centre_y + 1) / 2 * size), int((centre_x + 1) / 2 * size)
    window = (slice(max(0, row - reach), row + reach), slice(max(0, column - reach), column + reach))
    u, v = x[window] - centre_x, y[window] - centre_y
    along = (u * math.cos(angle) + v * math.sin(angle)) / long
    across = (v * math.cos(angle) - u * math.sin(angle)) / short
    theta = np.arctan2(across, along)
    wobble = 1 + 0.06 * np.cos(2 * theta + rng.uniform(0, 6)) + 0.05 * np.cos(3 * theta + rng.uniform(0, 6))
    inside = wobble - np.hypot(along, across)
    body = (inside > 0) & (nuclei[window] == 0)
    nuclei[window][body] = nuclei.max() + 1
    tone = dark * rng.uniform(0.85, 1.15) * (1 + 0.22 * chromatin[window])
    if crowded:  # a dark membrane and a nucleolus
        tone = tone + 0.30 * np.exp(-((inside / 0.12) ** 2))
        spot_u, spot_v = rng.normal(0, 0.25, 2)
        tone = tone + 0.5 * np.exp(-(((along - spot_u) ** 2 + (across - spot_v) ** 2) / 0.03))
    blue[window][body] = np.clip(tone[body], 0.2, None)
    return nuclei, blue
