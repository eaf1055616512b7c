"""The lesions of ``skin-lesion`` by four kinds of camera, which differ far more than dermatoscopes do.

One task whose images shift from domain to domain, for learners of many domains.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float, UInt8

from zoo.data.case import Case
from zoo.data.phantoms.skin import skin_lesion
from zoo.errors import DataError

HAM = "AK,BCC,BKL,DF,NV,MEL,VASC"  # the diagnoses of HAM10000
CAMERAS = ("colour", "ultraviolet", "infrared", "negative")


def skin_domains(seed: int, *, size: int = 256, camera: str | None = None, diagnosis: str = HAM) -> Case:
    """Skin lesions by four kinds of camera: colour, ultraviolet, infrared, and a negative film.

    Args:
        seed: the phantom is a pure function of it and the options.
        size: width and height of the square image, px (32 to 1024).
        camera: one of ``CAMERAS``; drawn from the seed when not given.
        diagnosis: diagnoses of which one is drawn, all equally likely, joined by commas.

    Returns:
        A case as ``skin-lesion`` draws it, without artifacts; its attribute ``camera`` is the domain.

    Raises:
        DataError: an option is out of its range.
    """
    if camera is not None and camera not in CAMERAS:
        raise DataError(f"the skin-domains phantom has no camera {camera!r}; choose one of {', '.join(CAMERAS)}")
    names = [name for name in diagnosis.split(",") if name]
    if not names:
        raise DataError("the skin-domains phantom needs a diagnosis, such as MEL,NV")
    rng = np.random.default_rng([0x5CD0, seed])
    drawn, kind = str(rng.choice(names)), camera or str(rng.choice(CAMERAS))
    case = skin_lesion(seed, size=size, diagnosis=drawn, device="polarised", artifacts="none")
    image = photographed(np.asarray(case.image), kind, rng)
    return replace(case, image=image, id=f"skin-domains-{seed}", attributes={**case.attributes, "camera": kind})


def photographed(rgb: UInt8[np.ndarray, "h w 3"], camera: str, rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """A colour photograph as another camera would have taken it, roughly, with that camera's noise."""
    x = rgb.astype(np.float32) / 255
    if camera == "ultraviolet":  # melanin absorbs short waves most; seen through a violet filter
        seen: Float[np.ndarray, "h w 3"] = x[..., 2:] ** 0.8 * np.array([0.55, 0.40, 1.00], np.float32)
        noise = 0.03
    elif camera == "infrared":  # long waves pass through most of it; without colours, and grainy
        seen, noise = np.repeat(0.25 + 0.75 * x[..., :1], 3, axis=2), 0.05
    elif camera == "negative":
        seen, noise = 1 - x, 0.01
    else:
        seen, noise = x, 0.0
    seen = seen + noise * rng.standard_normal(seen.shape).astype(np.float32)
    return (np.clip(seen, 0, 1) * 255 + 0.5).astype(np.uint8)
