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
from .model import WORDS, MyModel

METRIC = "right_words"


def lesson(case: Case, config: MyModelConfig) -> tuple[np.ndarray, ...]:
    """Image ``[1 side side]`` and the place of each word among those of its place."""
    grey = media.read(case.image).require_2d("my-model").grey()
    places = [words.index(said) for words, said in zip(WORDS, _words(case), strict=True)]
    return square(grey, config.side)[None], np.array(places)


def loss_of(found: tuple[Tensor, ...], words: Tensor) -> Float[Tensor, ""]:
    """Cross-entropy of each word."""
    places = zip(found, words.unbind(1), strict=True)
    return torch.stack([F.cross_entropy(logits, said) for logits, said in places]).sum()


def score(model: MyModel, case: Case, options: Any) -> dict[str, float]:
    """Share of the words that are right."""
    said = model.predict(case.image, **options).text.lower()
    return {METRIC: float(np.mean([word in said for word in _words(case)]))}


def _words(case: Case) -> list[str]:
    said = str(case.attributes.get("report", "")).lower()
    found = [next((word for word in words if word in said), "") for words in WORDS]
    if "" in found:
        raise DataError(f"case {case.id} has the report {said!r}; name a size and an outline in the column report")
    return found
