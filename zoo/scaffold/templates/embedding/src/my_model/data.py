"""What a case teaches, what is lost by an answer, and how an answer is scored."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from zoo import DataError, media
from zoo.data.case import Case

from .encoder import MyModelConfig, square
from .model import MyModel

METRIC = "nearest_is_own"


def lesson(case: Case, config: MyModelConfig) -> tuple[np.ndarray, ...]:
    """Image ``[1 side side]`` and the number of its class."""
    grey = media.read(case.image).require_2d("my-model").grey()
    return square(grey, config.side)[None], np.int64(_class(case))


def loss_of(cosines: Float[Tensor, "b classes"], classes: Tensor) -> Float[Tensor, ""]:
    """Cross-entropy of the cosines, sharpened."""
    return F.cross_entropy(10 * cosines, classes)


def score(model: MyModel, case: Case, options: Any) -> dict[str, float]:
    """Whether the direction of its own class is the nearest."""
    vector = torch.from_numpy(model.predict(case.image, **options).vector)
    cosines = F.normalize(model.classes.detach().float().cpu(), dim=1) @ vector
    return {METRIC: float(int(cosines.argmax()) == _class(case))}


def _class(case: Case) -> int:
    labels = MyModel.plugin.labels
    if str(case.label) not in labels:
        raise DataError(f"case {case.id} has the label {case.label!r}; use one of {', '.join(labels)}")
    return labels.index(str(case.label))
