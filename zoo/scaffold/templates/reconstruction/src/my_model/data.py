"""What a case teaches, what is lost by an answer, and how an answer is scored."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from zoo import DataError, media
from zoo.data.case import Case

from .encoder import MyModelConfig, square
from .model import MyModel

METRIC = "gain"


def lesson(case: Case, config: MyModelConfig) -> tuple[np.ndarray, ...]:
    """Image and reference, ``[1 side side]`` each."""
    grey = media.read(case.image).require_2d("my-model").grey()
    return square(grey, config.side)[None], square(_reference(case), config.side)[None]


def loss_of(output: Float[Tensor, "b 1 h w"], reference: Float[Tensor, "b 1 h w"]) -> Float[Tensor, ""]:
    """Mean absolute error, in hundredths."""
    return 100 * F.l1_loss(output, reference)


def score(model: MyModel, case: Case, options: Any) -> dict[str, float]:
    """Share of the error of the image that is gone, and what is left."""
    found, truth = model.predict(case, **options), _reference(case)
    before, after = (float(np.sqrt(np.mean((one - truth) ** 2))) for one in (found.start, found.output))
    return {METRIC: 1 - after / max(before, 1e-9), "rmse": after}


def _reference(case: Case) -> Float[np.ndarray, "h w"]:
    if "reference" not in case.inputs:
        raise DataError(f"case {case.id} has no reference; name one for each image in a table csv:FILE")
    return media.read(case.inputs["reference"]).require_2d("my-model").grey()
