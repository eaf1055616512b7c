"""Skin lesions whose artifacts betray, or belie, the diagnosis: a trap for classifiers that take the short cut.

The lesions and the photographs are those of the phantom ``skin-lesion``; only which artifacts are laid on them is
chosen here, by the malignancy of the lesion.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from zoo.data.case import Case
from zoo.data.phantoms.skin import ARTIFACTS, MALIGNANT, skin_lesion
from zoo.errors import DataError


def skin_trap(
    seed: int,
    *,
    size: int = 256,
    bias: float = 0.95,
    trap: str = "ruler",
    others: str = "none",
    diagnosis: str = "MEL,NV",
) -> Case:
    """Dermoscopic photograph whose artifact tells malignant from benign as often as asked: trap sets for classifiers.

    Args:
        seed: the phantom is a pure function of it and the options.
        size: width and height of the square image, px (32 to 1024).
        bias: share of the pictures in which the artifact lies on malignant lesions and on no benign one; in all others
            it is the other way round. 0.5 tells nothing, 0.05 is the trap of 0.95.
        trap: the artifact, or several joined by commas, which then come together; names as ``skin-lesion`` has them.
        others: artifacts that lie on every picture, or ``none``.
        diagnosis: diagnoses of which one is drawn, all equally likely, joined by commas.

    Returns:
        A case as ``skin-lesion`` draws it: image, diagnosis, masks ``mask`` and ``artifact``.

    Raises:
        DataError: an option is out of its range.
    """
    if not 0 <= bias <= 1:
        raise DataError(f"the skin-trap phantom has a bias from 0 to 1, not {bias:g}; choose one within that range")
    traps = tuple(name for name in trap.split(",") if name)
    if not traps or not set(traps) <= set(ARTIFACTS):
        raise DataError(f"the skin-trap phantom has no trap {trap!r}; choose of {', '.join(ARTIFACTS)}")
    rng = np.random.default_rng([0x7AB5, seed])
    names = [name for name in diagnosis.split(",") if name]
    if not names:
        raise DataError("the skin-trap phantom needs a diagnosis, such as MEL,NV")
    drawn, follows = str(rng.choice(names)), bool(rng.random() < bias)
    laid = [name for name in others.split(",") if name not in ("", "none", *traps)]
    laid += traps if follows == (drawn in MALIGNANT) else ()
    case = skin_lesion(seed, size=size, diagnosis=drawn, artifacts=",".join(laid) or "none")
    return replace(case, id=f"skin-trap-{seed}")
