"""A procedural T2-weighted MR volume of the prostate with its zones, from four centres.

The peripheral zone is bright, the transition zone mixed with nodules; bladder above, rectum behind, muscles and hips
beside. Centre ``b`` uses an endorectal coil: a balloon in the rectum, and a gain that falls off with the distance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.ndimage import gaussian_filter

from zoo.data.case import Case
from zoo.data.phantoms.solid import Field, Space, stored
from zoo.errors import DataError

ZONES = ("transition zone", "peripheral zone")
"""Values 1 and 2 of the mask; the gland is both."""
CentreName = Literal["any", "a", "b", "c", "d"]


@dataclass(frozen=True)
class Centre:
    """What differs between hospitals."""

    wide: float  # field of view within a slice, mm
    gain: float  # of the receiver
    offset: float  # grey level of nothing, as a share of fat's
    noise: float  # deviation, as a share of fat's grey level
    bias: float  # how uneven the surface coils are
    coil: float  # gain at the wall of an endorectal coil, above 1; 0: none
    orientation: str  # how the voxels are stored


CENTRES = {
    "a": Centre(180.0, 1.0, 0.00, 0.03, 0.10, 0.0, "LPS"),
    "b": Centre(140.0, 0.6, 0.00, 0.04, 0.08, 3.0, "LPS"),
    "c": Centre(200.0, 0.8, 0.10, 0.06, 0.15, 0.0, "RAS"),
    "d": Centre(160.0, 1.2, 0.02, 0.02, 0.20, 0.0, "LAS"),
}


def prostate_mr(seed: int, *, size: int = 96, slices: int = 24, centre: CentreName = "any") -> Case:
    """MR volume of a prostate: its zones, four centres; with spacing and affine.

    Args:
        seed: the phantom is a pure function of it and the options.
        size: width and depth, voxels (32 to 512).
        slices: from below the apex into the bladder, 8 to 128.
        centre: one of ``CENTRES``; ``any`` takes the one that the seed says. Gland and patient don't depend on it.

    Returns:
        A case with an int16 [z h w] ``zoo.media.Image`` and uint8 masks: ``mask`` (``ZONES``), and
        ``gland``, ``tz`` and ``pz`` for themselves.
        Attribute: ``centre``.

    Raises:
        DataError: ``size`` or ``slices`` is out of its range.
    """
    if not (32 <= size <= 512 and 8 <= slices <= 128):
        raise DataError(f"the prostate-mr phantom draws 32 to 512 voxels and 8 to 128 slices, not {size} and {slices}")
    rng = np.random.default_rng([0x9205747E, seed])
    drawn = "abcd"[int(rng.integers(4))]
    name = drawn if centre == "any" else centre
    site = CENTRES[name]
    space = Space(slices, size, rng, wide=site.wide / 180)
    signal, wall = _pelvis(space, site.coil > 0)
    zones = _gland(space, signal)
    mm = (site.wide, site.wide, float(rng.uniform(72, 84)))
    spacing = (mm[2] / slices, mm[1] / size, mm[0] / size)
    signal = gaussian_filter(signal, [b / s for b, s in zip((1.0, 0.45, 0.45), spacing, strict=True)])
    signal *= 1 + site.bias * space.noise(1.0)
    if site.coil:
        signal *= 1 + site.coil * np.exp(-np.maximum(-wall, 0) / 0.9)
    signal = site.offset + site.gain * signal
    real, imaginary = rng.normal(0, site.noise, (2, *space.shape))
    values = np.clip(np.round(600 * np.hypot(signal + real, imaginary)), 0, 32767).astype(np.int16)
    parts = {"gland": zones > 0, "tz": zones == 1, "pz": zones == 2}
    masks = {"mask": zones, **{name: inside.astype(np.uint8) for name, inside in parts.items()}}
    image, masks = stored(values, masks, mm, site.orientation, {"modality": "MR"})
    return Case(image, f"prostate-mr-{seed}", masks={**masks}, attributes={"centre": name})


def _pelvis(space: Space, coil: bool) -> tuple[Field, Field]:
    """Fat, muscles, hips, bladder and rectum in T2's grey levels; and how far inside the rectum a voxel lies."""
    rng = space.rng
    signal = 0.75 + 0.08 * space.noise(0.15)
    for side in (-1, 1):
        hip = space.solid((0.86 * side, 0.0, 0.1), (0.3, 0.34, 1.1), roughness=0.02)
        signal[hip > 0] = 0.5
        signal[(hip > 0) & (hip < 0.1)] = 0.06  # the bone's shell
        for at, reach in (((0.5, 0.05, -0.1), (0.1, 0.42, 1.3)), ((0.33, 0.28, -0.5), (0.07, 0.3, 0.9))):
            muscle = space.solid((at[0] * side, at[1], at[2]), reach, 0.1 * side)
            signal[muscle > 0] = 0.2
    symphysis = space.solid((0.0, -0.78, -0.3), (0.2, 0.2, 0.8))
    signal[symphysis > 0] = 0.12
    bladder = space.solid(space.near((0.0, -0.22, 1.05)), space.about((0.42, 0.36, 0.62)))
    signal[bladder > 0] = 1.15
    signal[(bladder > 0) & (bladder < 0.1)] = 0.25
    radii, content = rng.uniform(0.12, 0.18, 2), 0.35 + 0.25 * space.noise(0.12)
    if coil:
        radii, content = np.array([0.26, 0.2]), np.full_like(content, 0.04)
    rectum = space.tube((0.0, 0.52), (float(radii[0]), float(radii[1])), 0.03)
    signal[rectum > 0] = 0.3
    signal[rectum > 0.2] = content[rectum > 0.2]
    return signal, rectum


def _gland(space: Space, signal: Field) -> np.ndarray:
    """Draws the prostate into ``signal`` and returns its zones."""
    rng = space.rng
    middle = space.near((0.0, 0.06, 0.02), 0.025)
    radii = space.about((0.29, 0.23, 0.48), 0.15)
    gland = space.solid(middle, radii, roughness=0.02)
    share = rng.uniform(0.55, 0.8)  # of the transition zone, which grows with age
    inner = (middle[0], middle[1] - (1 - share) * radii[1] * 0.85, middle[2] + 0.2 * radii[2])
    transition = space.solid(inner, (radii[0] * share, radii[1] * share, radii[2] * share * 0.95), roughness=0.03)
    zones = np.where(gland > 0, np.where(transition > 0, 1, 2), 0).astype(np.uint8)
    signal[zones == 2] = (0.95 + 0.06 * space.noise(0.06))[zones == 2]
    signal[zones == 1] = (0.42 + 0.07 * space.noise(0.08))[zones == 1]
    places = np.argwhere(transition > 0.2)
    for pick, grey, size in rng.uniform((0.0, 0.2, 0.04), (1, 0.8, 0.1), (6, 3)):  # nodules
        z, y, x = places[int(pick * len(places))] if len(places) else (0, 0, 0)
        at = (float(space.x[0, 0, x]), float(space.y[0, y, 0]), float(space.z[z, 0, 0]))
        nodule = space.solid(at, (size, size, 2 * size))
        signal[(nodule > 0) & (zones == 1)] = grey
        signal[(nodule > 0) & (nodule < 0.15) & (zones == 1)] = 0.18
    for surface in (gland, transition):  # capsule and pseudocapsule
        signal[(surface > 0) & (surface < 0.06) & (zones > 0)] = 0.16
    return zones
