"""A procedural FLAIR volume of a brain with lesions of multiple sclerosis, from three sites.

White matter inside a brighter cortex, dark ventricles and sulci; lesions lie about the ventricles and in the white
matter, brighter than both. Sites differ in contrast, gain, bias field, noise and slices. The skull is stripped, or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.ndimage import gaussian_filter

from zoo.data.case import Case
from zoo.data.phantoms.solid import Field, Space, stored
from zoo.errors import DataError

SiteName = Literal["any", "a", "b", "c"]


@dataclass(frozen=True)
class Site:
    """What differs between clinics."""

    white: float  # grey level of white matter, as a share of the cortex's
    lesion: float  # and of lesions
    gain: float  # of the receiver
    gamma: float  # how the scanner bends its scale
    bias: float  # how uneven the coils are
    noise: float  # deviation, as a share of the cortex's grey level
    orientation: str  # how the voxels are stored


SITES = {
    "a": Site(0.78, 1.55, 1.0, 1.0, 0.10, 0.04, "LPS"),
    "b": Site(0.82, 1.40, 0.5, 0.8, 0.15, 0.06, "RAS"),
    "c": Site(0.74, 1.60, 1.6, 1.25, 0.12, 0.07, "LAS"),
}


def flair(
    seed: int, *, size: int = 96, slices: int = 80, site: SiteName = "any", skull: bool = False, lesions: bool = True
) -> Case:
    """FLAIR volume of a brain with lesions of multiple sclerosis, three sites; the skull stripped or not.

    Args:
        seed: the phantom is a pure function of it and the options.
        size: width and depth, voxels (32 to 512).
        slices: 24 to 512.
        site: one of ``SITES``; ``any`` takes the one that the seed says. The anatomy doesn't depend on it.
        skull: whether skull, scalp and the air's noise are left in.
        lesions: whether there are any.

    Returns:
        A case with an int16 [z h w] ``zoo.media.Image`` and uint8 masks: ``mask`` (lesions are 1) and ``brain``.
        Attributes: ``site``, and ``lesions``, how many were drawn; some may touch.

    Raises:
        DataError: ``size`` or ``slices`` is out of its range.
    """
    if not (32 <= size <= 512 and 24 <= slices <= 512):
        raise DataError(f"the flair phantom draws 32 to 512 voxels and 24 to 512 slices, not {size} and {slices}")
    rng = np.random.default_rng([0xF1A12, seed])
    drawn = "abc"[int(rng.integers(3))]
    name = drawn if site == "any" else site
    clinic = SITES[name]
    space = Space(slices, size, rng)
    signal, brain, white, ventricles = _brain(space, clinic)
    mask, count = _lesions(space, white, ventricles)
    texture = clinic.lesion * (1 + 0.06 * space.noise(0.1))
    if lesions:
        signal[mask > 0] = texture[mask > 0]
    else:
        mask, count = np.zeros_like(mask), 0
    head = _head(space)
    if skull:
        signal = np.where(brain, signal, head)
    mm = (190.0, 237.5, 160.0)  # the space is a quarter deeper than wide
    spacing = (mm[2] / slices, mm[1] / size, mm[0] / size)
    signal = gaussian_filter(signal, [b / s for b, s in zip((1.2, 0.8, 0.8), spacing, strict=True)])
    signal *= np.exp(clinic.bias * space.noise(0.9))
    real, imaginary = rng.normal(0, clinic.noise, (2, *space.shape))
    signal = np.hypot(np.maximum(signal, 0) + real, imaginary)
    values = 400 * clinic.gain * (signal / 1.5) ** clinic.gamma
    values = np.clip(np.round(values), 0 if skull else 1, 32767).astype(np.int16)
    if not skull:
        values[~brain] = 0
    image, masks = stored(
        values, {"mask": mask, "brain": brain.astype(np.uint8)}, mm, clinic.orientation,
        {"modality": "MR", "description": "FLAIR"},
    )  # fmt: skip
    return Case(image, f"flair-{seed}", masks={**masks}, attributes={"site": name, "lesions": count})


def _brain(space: Space, clinic: Site) -> tuple[Field, np.ndarray, np.ndarray, Field]:
    """Grey levels, the brain, its white matter, and how far inside the ventricles a voxel lies."""
    outer = space.solid(space.near((0.0, 0.0, 0.0)), space.about((0.72, 0.78, 0.78), 0.05), roughness=0.02)
    brain = outer > 0
    folds = 0.16 + 0.05 * space.noise(0.1)
    signal = np.zeros(space.shape, np.float32)
    signal[brain] = (1.0 + 0.05 * space.noise(0.08))[brain]
    signal[brain & (outer < 0.05) & (space.noise(0.1) > 0.4)] = 0.25  # fluid between the folds
    white = brain & (outer > folds)
    signal[white] = (clinic.white * (1 + 0.04 * space.noise(0.2)))[white]
    fissure = brain & (np.abs(space.x) < 0.02) & (space.z > 0.0)
    signal[fissure] = 0.35
    horns = [
        space.solid(space.near((0.13 * side, 0.02, 0.08)), space.about((0.08, 0.34, 0.16), 0.2), 0.25 * side)
        for side in (-1, 1)
    ]
    ventricles = np.maximum(*horns)
    signal[ventricles > 0] = 0.2
    rim = (ventricles > -0.12) & (ventricles <= 0)
    signal[rim & white] = 0.5 * (1.0 + clinic.white)  # the usual brighter rim, which is no lesion
    nuclei = [space.solid((0.26 * side, 0.0, -0.1), (0.1, 0.2, 0.14)) for side in (-1, 1)]
    grey = np.maximum(*nuclei) > 0
    signal[grey & white] = 0.95
    return signal, brain, white & ~grey & ~fissure & (ventricles <= 0), ventricles


def _lesions(space: Space, white: np.ndarray, ventricles: Field) -> tuple[np.ndarray, int]:
    """Wavy ellipsoids of 3 to 9 mm radius, half of them at the ventricles, and how many were drawn."""
    rng = space.rng
    mask = np.zeros(space.shape, np.uint8)
    inner = np.zeros_like(white)
    inner[1:-1, 1:-1, 1:-1] = white[1:-1, 1:-1, 1:-1]
    near, count = inner & (ventricles > -0.6), 0
    for pick, radius, reach in rng.uniform((0, 0.03, 0.8), (1, 0.09, 1.6), (int(rng.integers(6, 16)), 3)):
        places = np.argwhere(near if count % 2 == 0 and near.any() else inner)
        if not len(places):
            break
        z, y, x = places[int(pick * len(places))]
        at = (float(space.x[0, 0, x]), float(space.y[0, y, 0]), float(space.z[z, 0, 0]))
        lesion = space.solid(at, (radius, radius * reach, radius * 1.15), roughness=0.06) > 0
        mask[lesion & white] = 1
        mask[z, y, x] = 1  # one that is smaller than a voxel still has one
        count += 1
    return mask, count


def _head(space: Space) -> Field:
    """Skull and scalp, and air outside."""
    outer = space.solid((0.0, 0.0, 0.0), (0.9, 0.98, 0.95), roughness=0.01)
    head = np.zeros(space.shape, np.float32)
    head[outer > 0] = 0.1
    head[(outer > 0) & (outer < 0.07)] = 0.8
    return head
