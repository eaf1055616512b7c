"""What a case teaches, what is lost by an answer, and how an answer is scored."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from zoo import DataError, media
from zoo.data.case import Case

from .encoder import MyModelConfig, square
from .model import MyModel

METRIC = "closeness"


def lesson(case: Case, config: MyModelConfig) -> tuple[np.ndarray, ...]:
    """Image ``[1 side side]`` and its diameter as a share of the side."""
    image = media.read(case.image).require_2d("my-model")
    share = np.float32(_diameter(case) / (sum(image.size) / 2))
    return square(image.grey(), config.side)[None], share


def loss_of(found: Float[Tensor, "b 2"], share: Float[Tensor, " b"]) -> Float[Tensor, ""]:
    """Negative logarithm of a normal density."""
    mean, spread = found.unbind(1)
    spread = spread.clamp(-5, 3)
    return (0.5 * ((share - mean) / spread.exp()) ** 2 + spread).mean()


def score(model: MyModel, case: Case, options: Any) -> dict[str, float]:
    """1 less the relative error, 0 at least; the error in px; and whether the truth lies in the interval."""
    found = model.predict(case.image, **options).values["diameter"]
    truth = _diameter(case)
    error = abs(found.value - truth)
    low, high = found.interval or (found.value, found.value)
    return {METRIC: max(0.0, 1 - error / truth), "error_px": error, "within_interval": float(low <= truth <= high)}


def _diameter(case: Case) -> float:
    try:
        diameter = float(case.attributes["diameter"])
    except (KeyError, ValueError):
        diameter = 0.0
    if not 0 < diameter < float("inf"):
        raise DataError(f"case {case.id} has no number above 0 as its diameter; add the column diameter, in px")
    return diameter
