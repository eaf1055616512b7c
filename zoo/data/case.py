"""One item of a data set."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Case:
    """An image with what is known about it, or several that are looked at together.

    ``image`` and each mask are arrays, or paths that ``zoo.media.read`` opens when they are needed. The mask that a
    model trains on is called ``"mask"`` (integers [h w] or [z h w], 0 is background). ``attributes`` holds whatever
    else a data set states: patient, site, split, age, device.

    ``inputs``: what else a model is given, by the names of its card: the image before, one of another kind, a text,
    rows. ``model.predict(case)`` takes them with the image.

    ``images``: where a model judges several images as one case, such as all lesions of a patient (``zoo.data.patients``
    makes such cases). Each is a case of its own, with its label and attributes; ``image`` is then ``None`` and
    ``attributes`` holds what they share.
    """

    image: np.ndarray | str | Any
    id: str
    masks: dict[str, np.ndarray | str] = field(default_factory=dict)
    label: str | int | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    images: tuple[Case, ...] = ()
    inputs: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.id
