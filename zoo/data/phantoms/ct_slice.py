"""A procedural axial CT slice of the upper abdomen, portal venous phase, in a soft-tissue window.

Organs are wavy ellipses where radiology looks for them (the patient's right is the image's left), filled with their
usual Hounsfield units; the scanner adds its blur and streaky, correlated noise.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool
from scipy.ndimage import gaussian_filter

from zoo.data.case import Case
from zoo.data.phantoms.texture import Map, as_bytes, as_mask, blob, check_size, edge, grid, noise

ORGANS = ("liver", "spleen", "left kidney", "right kidney", "aorta", "stomach")
"""Values 1 to 6 of the mask."""
WINDOW = (-160.0, 240.0)  # Hounsfield units shown as black and white


def ct_slice(seed: int, *, size: int = 256, lesions: bool = True) -> Case:
    """Axial CT slice of the abdomen: six organs, liver metastases as an option.

    Args:
        seed: the phantom is a pure function of it and the options.
        size: width and height, px (32 to 1024).
        lesions: whether the liver may hold hypodense metastases.

    Returns:
        A case with a uint8 [h w] image (``WINDOW``) and uint8 [h w] masks: ``mask`` (``ORGANS``) and ``lesions``.

    Raises:
        DataError: ``size`` is out of its range.
    """
    check_size("ct-slice", size)
    rng = np.random.default_rng([0xC7511CE, seed])
    x, y = grid(size)
    scale = rng.uniform(1.02, 1.2)
    x, y = x * scale + rng.normal(0, 0.03), y * scale * 1.25 + rng.normal(0, 0.03)
    hu, cavity = _trunk(x, y, rng)
    organs = np.zeros((size, size), np.uint8)
    marked = np.zeros((size, size), bool)
    for value, (name, shape, density) in enumerate(_organs(x, y, rng), start=1):
        inside = np.minimum(shape, cavity)
        texture = 4 * noise(size, 0.02, rng)
        hu = hu + edge(inside, 0.015) * (density + texture - hu)
        organs[(inside > 0)] = value
        if name.endswith("kidney"):
            hu = hu + 0.9 * edge(shape - 0.55, 0.08) * (-60 - hu)  # fat of the sinus
        if name == "stomach":
            hu = np.where((inside > 0.08) & (y < np.median(y[inside > 0]) - 0.04), -700.0, hu)  # gas rises
        if name == "liver":
            hu = _liver_vessels(hu, inside, rng)
            if lesions:
                hu, marked = _metastases(x, y, hu, inside, rng)
    marked &= organs == 1
    image = gaussian_filter(hu, 0.0035 * size)
    streaks = gaussian_filter(rng.standard_normal((size, size)), (0.5, 1.6))
    image = image + rng.uniform(6, 16) * streaks / streaks.std()
    picture = (image - WINDOW[0]) / (WINDOW[1] - WINDOW[0])
    return Case(as_bytes(picture), f"ct-slice-{seed}", masks={"mask": organs, "lesions": as_mask(marked)})


def _trunk(x: Map, y: Map, rng: np.random.Generator) -> tuple[Map, Map]:
    """Air, skin, fat, the wall's muscles, spine and ribs; and how far inside the abdominal cavity a point lies."""
    size = len(x)
    fat = rng.uniform(0.07, 0.17)
    body = blob(x, y, (0, 0), (0.98, 0.92), 0.0, 0.012, rng, (2, 4))
    wall = blob(x, y, (0, 0.02), (0.98 - fat, 0.90 - fat), 0.0, 0.012, rng, (2, 4))
    cavity = wall - 0.09
    hu = np.full_like(x, -1000.0)
    hu = hu + edge(body, 0.008) * (-100 + 8 * noise(size, 0.02, rng) - hu)
    hu = np.where((body > 0) & (body < 0.02), 20.0, hu)
    hu = hu + edge(wall, 0.01) * (55 + 6 * noise(size, 0.02, rng) - hu)
    mesentery = -95 + 12 * noise(size, 0.04, rng) + 110 * np.exp(-((noise(size, 0.06, rng) / 0.12) ** 2))
    hu = hu + edge(cavity, 0.01) * (mesentery - hu)
    # the spine with its canal; muscles beside it
    for side in (-1, 1):
        muscle = blob(x, y, (0.30 * side, 0.68), (0.22, 0.17), 0.2 * side, 0.03, rng)
        hu = hu + edge(muscle, 0.03) * (58 - hu)
    body_of_vertebra = blob(x, y, (0, 0.50), (0.20, 0.17), 0, 0.02, rng)
    hu = hu + edge(body_of_vertebra, 0.03) * (210 + 25 * noise(size, 0.02, rng) - hu)
    shell = np.exp(-((body_of_vertebra / 0.06) ** 2))
    hu = hu + shell * (480 - hu)
    arch = blob(x, y, (0, 0.72), (0.12, 0.12), 0, 0.02, rng)
    hu = hu + edge(arch, 0.05) * (420 - hu)
    canal = blob(x, y, (0, 0.70), (0.075, 0.07), 0, 0.02, rng)
    hu = hu + edge(canal, 0.05) * (35 - hu)
    phase, count = rng.uniform(0, 1), int(rng.integers(7, 10))
    for k in range(count):  # ribs, cut obliquely
        angle = math.pi * (-0.25 + 1.5 * (k + phase) / count)
        u, v = (0.94 - fat) * math.cos(angle), (0.87 - fat) * math.sin(angle)
        rib = blob(x, y, (u, v), (0.075, 0.028), math.atan2(v, u) + math.pi / 2, 0.02, rng)
        hu = hu + edge(rib, 0.1) * (380 - hu)
    return hu, np.where(np.minimum(body_of_vertebra, 1) > -0.15, -1.0, cavity)


def _organs(x: Map, y: Map, rng: np.random.Generator) -> list[tuple[str, Map, float]]:
    def near(u: float, v: float) -> tuple[float, float]:
        return u + rng.normal(0, 0.025), v + rng.normal(0, 0.025)

    def stretched(a: float, b: float) -> tuple[float, float]:
        return a * rng.uniform(0.88, 1.1), b * rng.uniform(0.88, 1.1)

    right = blob(x, y, near(-0.42, 0.02), stretched(0.40, 0.50), 0.15, 0.03, rng)
    left = blob(x, y, near(-0.05, -0.36), stretched(0.40, 0.20), 0.25, 0.03, rng)
    liver = np.maximum(right, left)
    stomach = blob(x, y, near(0.36, -0.32), stretched(0.26, 0.20), 0.5, 0.04, rng)
    spleen = blob(x, y, near(0.62, 0.22), stretched(0.15, 0.30), -0.3, 0.04, rng)
    kidney_left = blob(x, y, near(0.38, 0.42), stretched(0.14, 0.19), -0.35, 0.03, rng)
    kidney_right = blob(x, y, near(-0.36, 0.46), stretched(0.14, 0.18), 0.35, 0.03, rng)
    aorta = blob(x, y, near(0.06, 0.26), stretched(0.075, 0.075), 0, 0.02, rng)
    return [
        ("liver", np.minimum(liver, -stomach), rng.uniform(95, 120)),
        ("spleen", np.minimum(spleen, -kidney_left), rng.uniform(115, 135)),
        ("left kidney", kidney_left, rng.uniform(165, 200)),
        ("right kidney", np.where(right > 0.25, -1.0, kidney_right), rng.uniform(165, 200)),
        ("aorta", aorta, rng.uniform(150, 185)),
        ("stomach", stomach, rng.uniform(10, 40)),
    ]


def _liver_vessels(hu: Map, inside: Map, rng: np.random.Generator) -> Map:
    size = len(hu)
    ridge = np.exp(-((noise(size, 0.09, rng) / 0.07) ** 2)) * edge(noise(size, 0.2, rng) - 0.2, 0.2)
    return hu + 45 * ridge * (inside > 0.05)


def _metastases(x: Map, y: Map, hu: Map, inside: Map, rng: np.random.Generator) -> tuple[Map, Bool[np.ndarray, "h w"]]:
    marked = np.zeros(hu.shape, bool)
    rows, columns = np.nonzero(inside > 0.25)
    for _ in range(int(rng.integers(0, 5)) if len(rows) else 0):
        k = int(rng.integers(len(rows)))
        centre = (float(x[rows[k], columns[k]]), float(y[rows[k], columns[k]]))
        radius = rng.uniform(0.035, 0.11)
        lesion = blob(x, y, centre, (radius, radius * rng.uniform(0.8, 1.1)), 0, 0.05, rng)
        hu = hu + edge(lesion, 0.1) * (rng.uniform(30, 65) - hu)
        marked |= lesion > 0
    return hu, marked
