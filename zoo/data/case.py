"""One item of a data set."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Case:
    """An image with what is known about it.

    ``image`` and each mask are arrays, or paths that ``zoo.media.read`` opens when they are needed; where a plugin
    predicts on several images at once, the image may be what it makes of them (see ``Training.group``). The mask that a
    model trains on is called ``"mask"`` (integers [h w] or [z h w], 0 is background). ``attributes`` holds whatever
    else a data set states: patient, site, split, age, device.
    """

    image: np.ndarray | str | Any
    id: str
    masks: dict[str, np.ndarray | str] = field(default_factory=dict)
    label: str | int | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
