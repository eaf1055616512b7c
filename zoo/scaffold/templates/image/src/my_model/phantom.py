"""One nodule, smooth or spiculated: a pure function of its seed, with all that is true of it."""

from __future__ import annotations

import numpy as np

from zoo.data.case import Case
from zoo.errors import DataError

KINDS = ("smooth", "spiculated")


def draw(seed: int, *, size: int = 64, kind: str | None = None) -> Case:
    """A uint8 ``[size size]`` image of one nodule; its label, mask, diameter and report, and the image without noise.

    ``kind``: ``smooth`` or ``spiculated``; by turns when not given. The diameter is that of a disc of its area, px.
    """
    if kind not in (None, *KINDS):
        raise DataError(f"there is no nodule of the kind {kind!r}; choose {' or '.join(KINDS)}")
    rng = np.random.default_rng(seed)
    label = kind or KINDS[seed % 2]
    y, x = np.mgrid[:size, :size] / size
    cy, cx = rng.uniform(0.35, 0.65, 2)
    angle, distance = np.arctan2(y - cy, x - cx), np.hypot(y - cy, x - cx)
    lobes = 0.08 * np.cos(2 * angle + rng.uniform(0, 2 * np.pi))
    spikes = 0.3 * np.cos(rng.integers(9, 15) * angle + rng.uniform(0, 2 * np.pi)) if label == "spiculated" else 0.0
    mask = distance < rng.uniform(0.1, 0.26) * (1 + lobes + spikes)
    clean = rng.uniform(0.2, 0.4) + rng.uniform(0.2, 0.4) * mask
    pixels, reference = (
        np.uint8(255 * np.clip(one, 0, 1)) for one in (clean + 0.05 * rng.standard_normal((size, size)), clean)
    )
    diameter = float(2 * np.sqrt(mask.sum() / np.pi))
    words = "large" if diameter > 0.36 * size else "small"
    return Case(
        pixels,
        f"my-model-{seed}",
        masks={"mask": mask.astype(np.uint8)},
        label=label,
        attributes={"diameter": diameter, "report": f"A {words}, {label} nodule."},
        inputs={"reference": reference},
    )
