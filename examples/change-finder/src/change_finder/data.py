"""What a case teaches, what is lost by an answer, and how an answer is scored."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from zoo import media
from zoo.data.case import Case
from zoo.data.sets import read_mask

from .encoder import ChangeFinderConfig, square
from .model import ChangeFinder

METRIC = "found"


def lesson(case: Case, config: ChangeFinderConfig) -> tuple[np.ndarray, ...]:
    """Both images ``[2 side side]`` and, at each of their places, whether something is new there."""
    pair = [media.read(one).require_2d("change-finder").grey() for one in (case.image, case.inputs["prior"])]
    inside = square((read_mask(case) > 0).astype(np.float32), config.side) > 0.5
    return np.stack([square(one, config.side) for one in pair]), inside.astype(np.int64)


def loss_of(logits: Float[Tensor, "b classes h w"], classes: Tensor) -> Float[Tensor, ""]:
    """Cross-entropy at each place of the map, against the share of each class in what the place covers."""
    shares = F.one_hot(classes, logits.shape[1]).movedim(3, 1).float()
    return F.cross_entropy(logits, F.adaptive_avg_pool2d(shares, logits.shape[2:]))


def score(model: ChangeFinder, case: Case, options: Any) -> dict[str, float]:
    """Whether the best box hits what is new, or none is shown where nothing is; and how many boxes are too many."""
    boxes, new = model.predict(case, **options).boxes, read_mask(case) > 0
    hits = [new[int(box.y0) : int(box.y1) + 1, int(box.x0) : int(box.x1) + 1].any() for box in boxes]
    return {
        METRIC: float(hits[0] if boxes and new.any() else not boxes and not new.any()),
        "false": float(len(hits) - sum(hits)),
    }
