"""What the authors' code draws once for a whole epoch: five mixtures of every photograph, and squares of nine views."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.ndimage import correlate1d
from torch import Tensor

from zoo.data.images import pad_to
from zoo.models.map_vessel.data import Source

ALPHA_FLOOR = 0.1  # in place of a parameter that was drawn at 0 or below


class Epoch:
    """Views of the sources and the squares of all of them that one epoch trains on, twice (MetaSyn_func.py).

    ``alpha`` and ``spread``: mean and standard deviation of the Dirichlet parameters, drawn for the epoch. All squares
    of a photograph share its mixtures.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        mixtures: int,
        alpha: Sequence[float],
        spread: float,
        crop: int,
        crops_per_image: int,
        rng: np.random.Generator,
    ) -> None:
        drawn = rng.normal(alpha, spread)
        self.alpha = np.where(drawn <= 0, ALPHA_FLOOR, drawn)
        self.crop, self.per_image = crop, crops_per_image
        self.views, self.anchors, self.masks, self.corners = [], [], [], []
        for source in sources:
            d0, d1, d2, d3 = pad_to(source.grey, crop, (1, 2))
            weights = rng.dirichlet(self.alpha, mixtures).astype(np.float32)
            mixed = [rescaled(w[0] * d0 + w[1] * d2 + w[2] * d3) for w in weights]
            self.views.append(np.stack([*mixed, d0, d2, disturbed(d0, rng), d3]))
            self.anchors.append(d1)
            self.masks.append(pad_to(source.mask, crop))
            room = [side - crop for side in d0.shape]
            self.corners.append(rng.integers(0, [max(1, side) for side in room], (crops_per_image, 2)))

    def __len__(self) -> int:
        return len(self.views) * self.per_image

    def squares(
        self, index: np.ndarray
    ) -> tuple[Float[Tensor, "n v s s"], Float[Tensor, "n 1 s s"], Int[Tensor, "n s s"]]:
        """Views, anchor (D^1) and vessels of the squares with these numbers."""
        views, anchors, masks = [], [], []
        for place in index:
            image, number = divmod(int(place), self.per_image)
            top, left = self.corners[image][number]
            window = slice(top, top + self.crop), slice(left, left + self.crop)
            views.append(self.views[image][(slice(None), *window)])
            anchors.append(self.anchors[image][window][None])
            masks.append(self.masks[image][window].astype(np.int64))
        return tuple(torch.from_numpy(np.stack(part)) for part in (views, anchors, masks))  # type: ignore[return-value]


def rescaled(image: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """Min-max to [0, 1]."""
    low, high = float(image.min()), float(image.max())
    return (image - low) / max(high - low, 1e-6)


def disturbed(image: Float[np.ndarray, "h w"], rng: np.random.Generator) -> Float[np.ndarray, "h w"]:
    """Blur, noise, brightness (each every second time) and a weak contrast (every fifth time)."""
    if rng.random() < 0.5:
        side = np.exp(-0.5 / rng.uniform(0.25, 1.5) ** 2)
        kernel = np.array([side, 1, side]) / (1 + 2 * side)
        for axis in (0, 1):
            image = correlate1d(image, kernel, axis, mode="mirror")
    if rng.random() < 0.5:
        image = np.clip(image + rng.normal(0, rng.uniform(0.01, 0.15), image.shape), 0, 1)
    if rng.random() < 0.5:
        image = np.clip(image + rng.uniform(-0.1, 0.1), 0, 1)
    if rng.random() < 0.2:
        image = np.clip(rng.uniform(0.1, 0.8) * image + rng.uniform(-0.1, 0.1), 0, 1)
    return image.astype(np.float32)
