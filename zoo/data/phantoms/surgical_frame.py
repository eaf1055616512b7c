"""A procedural frame from a laparoscope: wet tissue with vessels and reflections, and instruments that reach in.

The light comes from the endoscope, so it falls off towards the rim; steel shafts shine along their axis; tip, wrist
and shaft are of one instrument but look different.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.ndimage import gaussian_filter

from zoo.data.case import Case
from zoo.data.phantoms.texture import Map, as_bytes, check_size, edge, grid, noise

INSTRUMENTS = ("grasper", "scissors", "hook")
"""Values 1 to 3 of the mask. A grasper has two blunt jaws, scissors two long blades, a hook one bent wire."""
PARTS = ("shaft", "wrist", "tip")
RINGS = ((0.12, 0.30, 0.85), (0.95, 0.85, 0.15), (0.10, 0.65, 0.25))  # of each kind, where they are marked


def surgical_frame(seed: int, *, size: int = 256, rings: bool = False) -> Case:
    """Frame of a laparoscope: one to three instruments over wet tissue, with their parts.

    Args:
        seed: the phantom is a pure function of it and the options.
        size: width and height, px (32 to 1024).
        rings: instruments bear coloured rings on shaft and wrist, one colour for each kind, as reusable ones do.

    Returns:
        A case with a uint8 [h w 3] image and uint8 [h w] masks: ``mask`` (``INSTRUMENTS``), ``parts`` (1 to 3, see
        ``PARTS``) and ``instances`` (one number for each instrument).

    Raises:
        DataError: ``size`` is out of its range.
    """
    check_size("surgical-frame", size)
    rng = np.random.default_rng([0x5126, seed])
    x, y = grid(size)
    light = _tissue(x, y, rng)
    kinds = np.zeros((size, size), np.uint8)
    parts, instances = kinds.copy(), kinds.copy()
    start = rng.uniform(0, 2 * math.pi)
    count = int(rng.integers(1, 4))
    for number in range(count):
        kind = int(rng.integers(len(INSTRUMENTS)))
        around = start + 2 * math.pi * number / count + rng.normal(0, 0.25)
        light, here = _instrument(x, y, light, kind, around, rng, rings)
        kinds[here > 0], parts[here > 0], instances[here > 0] = kind + 1, here[here > 0], number + 1
    radius = np.hypot(x - rng.normal(0, 0.05), y - rng.normal(0, 0.05))
    light = light * np.clip(1.12 - 0.42 * radius**2, 0.1, None)[..., None]
    if rng.uniform() < 0.5:  # the endoscope's round field
        light = light * edge(rng.uniform(1.05, 1.25) - radius, 0.01)[..., None]
    light = gaussian_filter(light, (0.003 * size, 0.003 * size, 0)) + rng.normal(0, 0.012, light.shape)
    return Case(
        as_bytes(light),
        f"surgical-frame-{seed}",
        masks={"mask": kinds, "parts": parts, "instances": instances},
    )


def _tissue(x: Map, y: Map, rng: np.random.Generator) -> np.ndarray:
    """Organs in reds and yellows with folds, vessels and reflections of the light."""
    size = len(x)
    colours = np.array([[0.62, 0.20, 0.16], [0.74, 0.38, 0.30], [0.80, 0.62, 0.34], [0.48, 0.11, 0.12]])
    field = noise(size, 0.30, rng)
    order = rng.permutation(len(colours))[:3]
    share = [edge(c * field - 0.3, 0.15) for c in (-1, 1)]
    light = (
        colours[order[0]] * (1 - share[0] - share[1])[..., None]
        + colours[order[1]] * share[0][..., None]
        + colours[order[2]] * share[1][..., None]
    )
    height = 0.9 * noise(size, 0.20, rng) + 0.05 * noise(size, 0.05, rng) + 0.5 * field
    dy, dx = np.gradient(height, 2 / size)
    towards = np.clip(1 - 0.07 * (dx * math.cos(1.0) + dy * math.sin(1.0)), 0.35, 1.5)
    light = light * towards[..., None]
    vessel = np.exp(-((noise(size, 0.11, rng) / 0.035) ** 2)) * edge(noise(size, 0.25, rng), 0.3)
    light = light * (1 - vessel[..., None] * np.array([0.25, 0.6, 0.55]))
    light = light * (1 + 0.07 * noise(size, 0.012, rng)[..., None])
    shine = edge(-np.hypot(dx - 1.5 * rng.normal(), dy - 1.5 * rng.normal()) + 0.55, 0.10)
    return light + shine[..., None] * 0.75


def _instrument(
    x: Map, y: Map, light: np.ndarray, kind: int, around: float, rng: np.random.Generator, rings: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one; returns the picture and where its parts are (1 shaft, 2 wrist, 3 tip)."""
    tip = np.array([0.45 * math.cos(around + rng.normal(0, 0.3)), 0.45 * math.sin(around + rng.normal(0, 0.3))])
    tip = tip * rng.uniform(0.2, 1.1)
    axis = np.array([math.cos(around), math.sin(around)])  # from the tip outwards
    axis = axis + rng.normal(0, 0.12, 2)
    axis = axis / np.linalg.norm(axis)
    half = rng.uniform(0.065, 0.11)
    reach = rng.uniform(0.20, 0.30)
    s = (x - tip[0]) * axis[0] + (y - tip[1]) * axis[1]  # along, from the tip
    t = (y - tip[1]) * axis[0] - (x - tip[0]) * axis[1]  # across
    parts = np.zeros(x.shape, np.uint8)
    thick = half * np.clip(0.75 + 0.25 * s / reach, 0.6, 1)  # nearer to the camera towards the rim
    shaft = (s > reach + 0.9 * half) & (np.abs(t) < thick)
    wrist = (s > reach - 0.6 * half) & (s <= reach + 0.9 * half) & (np.abs(t) < 0.85 * half)
    if INSTRUMENTS[kind] == "hook":
        wire = (s > 0) & (s <= reach) & (np.abs(t) < 0.022)
        bend = (np.hypot(s - 0.0, t - 0.06) < 0.082) & (np.hypot(s, t - 0.06) > 0.038) & (s < 0.03)
        ends = wire | bend
    else:
        opening = rng.uniform(0.10, 0.35)
        width = 0.030 if INSTRUMENTS[kind] == "grasper" else 0.020
        length = reach if INSTRUMENTS[kind] == "grasper" else 1.35 * reach
        ends = np.zeros(x.shape, bool)
        for side in (-1, 1):
            along = (reach - s) * math.cos(opening) + side * t * math.sin(opening)
            across = side * t * math.cos(opening) - (reach - s) * math.sin(opening)
            taper = width * np.clip(1.25 - 0.9 * along / length, 0.15, 1.2)
            ends |= (along > 0) & (along < length) & (np.abs(across) < taper)
    parts[ends], parts[wrist], parts[shaft] = 3, 2, 1
    round_off = np.clip(t / np.where(shaft, thick, half), -1, 1)
    shading = 0.25 + 0.75 * np.sqrt(1 - round_off**2)
    gloss = 0.5 * np.exp(-(((round_off + 0.35) / 0.12) ** 2))
    dark = rng.uniform() < 0.6  # many shafts are black
    body = np.array([0.10, 0.10, 0.12]) if dark else np.array([0.55, 0.56, 0.60])
    steel = np.array([0.66, 0.67, 0.70])
    tint = 1 + 0.06 * noise(len(x), 0.01, rng)
    painted = np.where(shaft[..., None], body * shading[..., None] + gloss[..., None] * (0.45 if dark else 0.8), 0)
    painted = painted + np.where(wrist[..., None], steel * (0.55 + 0.4 * shading[..., None]) * tint[..., None], 0)
    serration = 1 + 0.12 * np.sign(np.sin(2 * math.pi * s / 0.03))
    tips = steel * 0.95 * tint[..., None] * serration[..., None]
    painted = painted + np.where((ends & ~wrist & ~shaft)[..., None], tips, 0)
    if rings:
        ringed = (parts > 0) & (parts < 3) & ((s - reach) % 0.20 < 0.08)
        painted = np.where(ringed[..., None], np.array(RINGS[kind]) * (0.3 + 0.7 * shading[..., None]), painted)
    soft = gaussian_filter((parts > 0).astype(float), 0.0025 * len(x))[..., None]
    shadow = gaussian_filter((parts > 0).astype(float), 0.03 * len(x))[..., None]
    light = light * (1 - 0.45 * shadow)
    return np.where((parts > 0)[..., None], painted * soft + light * (1 - soft), light), parts
