"""What skin methods share: colour constancy, diagnoses, sites of the body."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from zoo.diagnoses import ISIC_2019

DIAGNOSES = tuple(ISIC_2019)
"""ISIC 2019's classes, in its order."""

SITES = ("head/neck", "palms/soles", "oral/genital", "lower extremity", "upper extremity", "torso")
"""Where on the body a lesion lies, as the ISIC archive divides it."""


CARCINOMAS = ("BCC", "SCC")
MELANOMA_OR_BENIGN = ("benign", "melanoma")


def melanoma_class(label: str | int | None, labels: Sequence[str], where: str, remedy: str = "") -> int | None:
    """The class of a case; None for carcinomas, which are neither melanoma nor benign.

    Diagnoses of ISIC 2019 are melanoma or benign where these are the labels. Raises ``DataError`` for any other label.
    """
    if tuple(labels) == MELANOMA_OR_BENIGN and isinstance(label, str) and label in DIAGNOSES:
        return None if label in CARCINOMAS else int(label == "MEL")
    from zoo.data.images import label_index  # brings torch, which readers of tables don't need

    return label_index(label, labels, where, remedy)


def site_of(text: str) -> str | None:
    """The one of ``SITES`` that ``text`` names in the archive's spelling or a near one; None for "unknown" or nothing.

    Parts of the torso (anterior, posterior, lateral) are the torso. Raises ``ValueError`` for any other text.
    """
    plain = " ".join(text.lower().replace("-", " ").replace("/", " ").replace("_", " ").split())
    if plain in ("", "unknown", "nan", "na"):
        return None
    if plain.removesuffix(" torso") in ("anterior", "posterior", "lateral"):
        return "torso"
    for site in SITES:
        if plain == site.replace("/", " "):
            return site
    raise ValueError(f"{text!r} is no site; choose one of {', '.join(SITES)}, unknown")


def shades_of_gray(
    rgb: Float[np.ndarray, "h w 3"], *, p: float = 6.0, gamma: float | None = None
) -> Float[np.ndarray, "h w 3"]:
    """The picture as if taken in white light: the Minkowski mean of every channel becomes the same.

    The light's colour is estimated as e_c = (mean of I_c^p)^(1/p), scaled to unit length, and each channel is divided
    by sqrt(3) e_c. ``p`` = 1 is grey world, infinity is white patch. ``gamma`` (such as 2.2) linearises the picture
    before and undoes it afterwards. Input and output lie in [0, 1]; a channel that is black stays so.

    Raises:
        ValueError: ``p`` below 1, or ``gamma`` not positive.

    Source: G. Finlayson, E. Trezzi, Shades of Gray and Colour Constancy, 2004; for dermoscopy C. Barata et al.,
    Improving Dermoscopy Image Classification Using Color Constancy, 2015.
    """
    if p < 1:
        raise ValueError(f"p must be at least 1, not {p:g}")
    if gamma is not None and gamma <= 0:
        raise ValueError(f"gamma must be positive, not {gamma:g}")
    linear = rgb.astype(np.float32) ** gamma if gamma is not None else rgb.astype(np.float32)
    flat = linear.reshape(-1, 3).astype(np.float64)
    peak = flat.max(0)  # a high power of small numbers vanishes; of shares of the maximum it doesn't
    safe = np.where(peak > 0, peak, 1)
    light = peak if np.isinf(p) else safe * ((flat / safe) ** p).mean(0) ** (1 / p) * (peak > 0)
    length = np.linalg.norm(light)
    if length == 0:
        return rgb.astype(np.float32)
    light = light / length
    scale = np.where(light > 1e-6, 1 / np.maximum(np.sqrt(3) * light, 1e-6), 1).astype(np.float32)
    balanced = np.clip(linear * scale, 0, 1)
    return (balanced ** (1 / gamma) if gamma is not None else balanced).astype(np.float32)
