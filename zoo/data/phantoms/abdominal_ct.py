"""A procedural CT volume of the upper abdomen with organs and their tumours, from four scanners.

Organs are wavy ellipsoids where anatomy has them, in their usual Hounsfield units. A clinic that annotates only one
organ is an option: ``mask`` then knows that organ and its tumour, ``all`` everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.ndimage import gaussian_filter

from zoo.data.case import Case
from zoo.data.phantoms.solid import Field, Point, Space, stored
from zoo.errors import DataError

LABELS = (
    *("kidney", "kidney tumour", "liver", "liver tumour", "pancreas", "pancreas tumour"),
    *("spleen", "stomach", "aorta", "gallbladder"),
)
"""Values 1 to 10 of the masks."""
Labelled = Literal["all", "kidney", "liver", "pancreas", "spleen", "stomach", "aorta", "gallbladder"]
ScannerName = Literal["any", "a", "b", "c", "d"]
WINDOW = (40.0, 400.0)  # centre and width of the soft-tissue window
DENSITY = {"kidney": 60, "liver": 62, "pancreas": 44, "spleen": 55, "stomach": 25, "aorta": 50, "gallbladder": 8}
UPTAKE = {"kidney": 125, "liver": 48, "pancreas": 55, "spleen": 65, "stomach": 4, "aorta": 110, "gallbladder": 0}
"""Hounsfield units without contrast medium, and what it adds in the portal venous phase."""


@dataclass(frozen=True)
class Scanner:
    """What differs between hospitals."""

    contrast: float  # share of the portal venous uptake
    noise: float  # deviation, HU
    kernel: float  # blur within a slice, mm
    slice_blur: float  # and across slices, mm
    shift: float  # calibration error, HU
    orientation: str  # how the voxels are stored


SCANNERS = {
    "a": Scanner(1.0, 12.0, 0.8, 1.5, 0.0, "LPS"),
    "b": Scanner(0.8, 22.0, 0.5, 1.0, 6.0, "LPS"),
    "c": Scanner(1.15, 9.0, 1.6, 4.0, -8.0, "RAS"),
    "d": Scanner(0.45, 16.0, 1.0, 2.5, 3.0, "LAS"),
}


def abdominal_ct(
    seed: int,
    *,
    size: int = 96,
    slices: int = 48,
    scanner: ScannerName = "any",
    labels: Labelled = "all",
    tumours: bool = True,
) -> Case:
    """CT volume of the upper abdomen: ten organs and their tumours, four scanners; in Hounsfield units.

    Args:
        seed: the phantom is a pure function of it and the options.
        size: width and depth, voxels (32 to 512).
        slices: 16 to 512.
        scanner: one of ``SCANNERS``; ``any`` takes the one that the seed says. The anatomy doesn't depend on it.
        labels: the one organ that ``mask`` knows, with its tumour.
        tumours: whether kidneys, liver and pancreas may bear one; each does in two of three patients.

    Returns:
        A case with an int16 [z h w] ``zoo.media.Image`` and uint8 masks (``LABELS``): ``mask`` and ``all``.
        Attributes: ``scanner``, ``labels``, and ``labelled``, the values that ``mask`` can have.

    Raises:
        DataError: ``size`` or ``slices`` is out of its range.
    """
    if not (32 <= size <= 512 and 16 <= slices <= 512):
        raise DataError(
            f"the abdominal-ct phantom draws 32 to 512 voxels and 16 to 512 slices, not {size} and {slices}"
        )
    rng = np.random.default_rng([0xABD0C7, seed])
    drawn = "abcd"[int(rng.integers(4))]
    name = drawn if scanner == "any" else scanner
    machine = SCANNERS[name]
    wide, tall = float(rng.uniform(330, 410)), float(rng.uniform(220, 260))
    space = Space(slices, size, rng)
    hu, cavity = _trunk(space)
    truth = np.zeros(space.shape, np.uint8)
    for organ, inside in _organs(space).items():
        here = (inside > 0) & cavity & (truth == 0)
        truth[here] = 1 + LABELS.index(organ)
        density = DENSITY[organ] + machine.contrast * UPTAKE[organ] + rng.normal(0, 5)
        hu[here] = (density + 5 * space.noise(0.06))[here]
        if organ == "kidney":
            hu[here & (inside > 0.6)] = -40  # fat of the sinus
        if organ == "stomach":
            hu[here & (inside > 0.2) & (space.y < -0.28)] = -800  # gas rises
        if f"{organ} tumour" in LABELS and rng.random() < 2 / 3:
            tumour, texture = _tumour(space, here, inside), space.noise(0.05)
            if tumours:
                hu[tumour] = (38 + 0.2 * machine.contrast * UPTAKE[organ] + 9 * texture)[tumour]
                truth[tumour] = 1 + LABELS.index(f"{organ} tumour")
    spacing = (tall / slices, wide / size, wide / size)
    blur = (machine.slice_blur, machine.kernel, machine.kernel)
    hu = gaussian_filter(hu, [b / s for b, s in zip(blur, spacing, strict=True)])
    grains = gaussian_filter(rng.standard_normal(space.shape), (0.3, 0.6, 0.6))
    hu += machine.shift + machine.noise / grains.std() * grains
    wanted = [v for v, label in enumerate(LABELS, start=1) if labels in ("all", label.removesuffix(" tumour"))]
    masks = {"mask": np.where(np.isin(truth, wanted), truth, 0).astype(np.uint8), "all": truth}
    values = np.clip(np.round(hu), -1024, 3071).astype(np.int16)
    image, masks = stored(values, masks, (wide, wide, tall), machine.orientation, {"modality": "CT", "window": WINDOW})
    attributes = {"scanner": name, "labels": LABELS, "labelled": wanted}
    return Case(image, f"abdominal-ct-{seed}", masks={**masks}, attributes=attributes)


def _trunk(space: Space) -> tuple[Field, np.ndarray]:
    """Air, fat, the wall's muscles, spine, ribs, lungs and bowel; and where organs have room."""
    rng = space.rng
    fat = rng.uniform(0.06, 0.14)
    body = space.tube((0.0, 0.0), (0.95, 0.88), 0.01)
    wall = space.tube((0.0, 0.01), (0.95 - fat, 0.88 - fat), 0.01)
    hu = np.full(space.shape, -1000, np.float32)
    hu[body > 0] = -100
    hu[wall > 0] = 55
    inner = wall > 0.11
    hu[inner] = (-90 + 35 * space.noise(0.08))[inner]
    bowel = inner & (space.noise(0.22) > 0.4 + 1.6 * (space.z + 0.1)) & (space.y < 0.2)
    hu[bowel] = (35 + 25 * space.noise(0.1))[bowel]
    hu[bowel & (space.noise(0.15) > 1.6)] = -700
    slope = rng.uniform(0.25, 0.45)
    ribs = (wall > 0.03) & (wall < 0.1) & (np.cos(18 * (space.z + slope * np.abs(space.x))) > 0.55)
    hu[ribs & (space.z > -0.35)] = 320
    for side in (-1, 1):
        hu[space.tube((0.27 * side, 0.66), (0.2, 0.15)) > 0] = 58  # muscles beside the spine
    spine = space.tube((0.0, 0.52), (0.17, 0.17), 0.01)
    disc = np.cos(14 * space.z + rng.uniform(0, 6)) > 0.93
    hu[spine > 0] = 190
    hu[(spine > 0) & (spine < 0.15)] = 430
    hu[(spine > 0) & disc] = 90
    hu[space.tube((0.0, 0.74), (0.1, 0.07), 0.01) > 0] = 400
    hu[space.tube((0.0, 0.71), (0.06, 0.05), 0.01) > 0] = 30  # the canal
    cava = space.tube((-0.1, 0.22), (0.07, 0.06))
    hu[cava > 0] = 130
    dome = space.z - 0.72 + 0.9 * (space.x**2 + 0.6 * space.y**2)
    lungs = inner & (dome > 0.35) & (np.abs(space.x) > 0.12)
    hu[lungs] = -840
    return hu, inner & (spine < -0.05) & (cava <= 0) & ~lungs


def _organs(space: Space) -> dict[str, Field]:
    """How far inside each organ a voxel lies, in the order in which they make room for each other."""

    def organ(centre: Point, radii: Point, tilt: float = 0.0) -> Field:
        return space.solid(space.near(centre), space.about(radii), tilt)

    kidneys = organ((0.38, 0.36, -0.12), (0.13, 0.15, 0.33)), organ((-0.37, 0.36, -0.2), (0.13, 0.15, 0.33))
    tail, head = organ((0.15, 0.04, 0.08), (0.3, 0.075, 0.1), 0.3), organ((-0.14, 0.03, -0.05), (0.1, 0.1, 0.15))
    right, left = organ((-0.4, 0.0, 0.3), (0.42, 0.47, 0.45)), organ((0.0, -0.3, 0.4), (0.38, 0.2, 0.26), 0.2)
    return {
        "aorta": space.tube((0.07, 0.26), (0.06, 0.07), 0.015),
        "kidney": np.maximum(*kidneys),
        "spleen": organ((0.6, 0.14, 0.38), (0.15, 0.26, 0.3), 0.2),
        "pancreas": np.maximum(tail, head),
        "gallbladder": organ((-0.33, -0.28, -0.06), (0.08, 0.1, 0.14)),
        "stomach": organ((0.36, -0.26, 0.4), (0.23, 0.2, 0.34), 0.4),
        "liver": np.maximum(right, left),
    }


def _tumour(space: Space, organ: np.ndarray, inside: Field) -> np.ndarray:
    """The part of an organ that a ball about one of its outer voxels takes; nothing where the organ is too small."""
    places = np.argwhere(organ & (inside > 0.1) & (inside < 0.55))
    chosen, radius = space.rng.random(), float(space.rng.uniform(0.06, 0.15))
    if not len(places):
        return np.zeros_like(organ)
    z, y, x = places[int(chosen * len(places))]
    centre = (float(space.x[0, 0, x]), float(space.y[0, y, 0]), float(space.z[z, 0, 0]))
    return organ & (space.solid(centre, (radius, radius * 1.15, radius * 1.5), roughness=0.05) > 0)
