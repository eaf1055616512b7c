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
from zoo.metrics import segmentation_scores

from .model import MyModel, MyModelConfig, scaled

METRIC = "dice"


def lesson(case: Case, config: MyModelConfig) -> tuple[np.ndarray, ...]:
    """Volume and mask, ``[1 z h w]`` each."""
    array = case.image if isinstance(case.image, np.ndarray) else media.read(case.image).require_3d("my-model").array
    inside = scaled(read_mask(case) > 0, config.grid).numpy()
    return scaled(array, config.grid).numpy()[None], np.float32(inside > 0.5)[None]


def loss_of(logits: Float[Tensor, "b 1 z h w"], inside: Float[Tensor, "b 1 z h w"]) -> Float[Tensor, ""]:
    """Cross-entropy of each voxel and soft Dice."""
    p = logits.sigmoid()
    dice = (2 * (p * inside).sum() + 1) / (p.sum() + inside.sum() + 1)
    return F.binary_cross_entropy_with_logits(logits, inside) + 1 - dice


def score(model: MyModel, case: Case, options: Any) -> dict[str, float]:
    """Dice of the mask."""
    return {METRIC: float(segmentation_scores(model.predict(case, **options).mask, read_mask(case))["dice"])}
