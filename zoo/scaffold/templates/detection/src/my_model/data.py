"""What a case teaches, what is lost by an answer, and how an answer is scored."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from zoo import DataError, media
from zoo.data.case import Case
from zoo.data.sets import read_mask

from .encoder import MyModelConfig, square
from .model import MyModel

METRIC = "iou"


def lesson(case: Case, config: MyModelConfig) -> tuple[np.ndarray, ...]:
    """Image ``[1 side side]`` and, at each of its places, 0 or the number of the class from 1."""
    grey = media.read(case.image).require_2d("my-model").grey()
    labels = MyModel.plugin.labels
    if str(case.label) not in labels:
        raise DataError(f"case {case.id} has the label {case.label!r}; use one of {', '.join(labels)}")
    inside = square((read_mask(case) > 0).astype(np.float32), config.side) > 0.5
    return square(grey, config.side)[None], (1 + labels.index(str(case.label))) * inside.astype(np.int64)


def loss_of(logits: Float[Tensor, "b classes h w"], classes: Tensor) -> Float[Tensor, ""]:
    """Cross-entropy at each place of the map, against the share of each class in what the place covers."""
    shares = F.one_hot(classes, logits.shape[1]).movedim(3, 1).float()
    return F.cross_entropy(logits, F.adaptive_avg_pool2d(shares, logits.shape[2:]))


def score(model: MyModel, case: Case, options: Any) -> dict[str, float]:
    """Intersection over union of the best box with the true one, and whether its class is right."""
    boxes = model.predict(case.image, **options).boxes
    rows, columns = np.nonzero(read_mask(case))
    truth = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    if not boxes:
        return {METRIC: 0.0, "right_class": 0.0}
    best = boxes[0]
    width = min(best.x1, truth[2]) - max(best.x0, truth[0])
    height = min(best.y1, truth[3]) - max(best.y0, truth[1])
    shared = max(width, 0) * max(height, 0)
    areas = (best.x1 - best.x0) * (best.y1 - best.y0) + (truth[2] - truth[0]) * (truth[3] - truth[1])
    return {METRIC: float(shared / (areas - shared)), "right_class": float(best.label == case.label)}
