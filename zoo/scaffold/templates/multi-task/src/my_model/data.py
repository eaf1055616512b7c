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
from zoo.metrics import segmentation_scores

from .encoder import MyModelConfig, square
from .model import MyModel

METRIC = "dice"


def lesson(case: Case, config: MyModelConfig) -> tuple[np.ndarray, ...]:
    """Image ``[1 side side]``, the number of its class, and its mask ``[1 side side]``."""
    grey = media.read(case.image).require_2d("my-model").grey()
    inside = square((read_mask(case) > 0).astype(np.float32), config.side)
    return square(grey, config.side)[None], np.int64(_class(case)), np.float32(inside > 0.5)[None]


def loss_of(found: tuple[Tensor, Tensor], classes: Tensor, inside: Tensor) -> Float[Tensor, ""]:
    """Cross-entropy of the class and of each pixel."""
    kind, place = found
    return F.cross_entropy(kind, classes) + F.binary_cross_entropy_with_logits(place, inside)


def score(model: MyModel, case: Case, options: Any) -> dict[str, float]:
    """Dice of the mask, and whether the class is right."""
    parts = model.predict(case.image, **options).parts
    dice = segmentation_scores(parts["nodule"].mask, read_mask(case))["dice"]
    return {METRIC: float(dice), "right_class": float(parts["diagnosis"].most_probable == case.label)}


def _class(case: Case) -> int:
    if str(case.label) not in MyModel.plugin.labels[:2]:
        raise DataError(f"case {case.id} has the label {case.label!r}; use smooth or spiculated")
    return MyModel.plugin.labels.index(str(case.label))
