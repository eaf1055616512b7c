"""What ``zoo check`` asks of each kind of prediction beyond what its class refuses when it is made."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from zoo.kinds import Detection, Embedding, Measurement, MultiTask, Reconstruction, Report
from zoo.plugin import Plugin


def fault(prediction: Any, plugin: Plugin) -> str:
    """What is wrong with a prediction, as a sentence; nothing where all is well."""
    return next((found for kind, look in _KINDS.items() if isinstance(prediction, kind)
                 if (found := look(prediction, plugin))), "")  # fmt: skip


def _detection(found: Detection, plugin: Plugin) -> str:
    if found.labels != plugin.labels:
        return f"its classes are {', '.join(found.labels)}, those of the card {', '.join(plugin.labels)}"
    height, width = found.image.size
    outside = [box for box in found.boxes if min(box.x0, box.y0) < 0 or box.x1 > width or box.y1 > height]
    return f"a box reaches beyond the image of {width} x {height} pixels; clip it" if outside else ""


def _measurement(found: Measurement, plugin: Plugin) -> str:
    if plugin.labels and not set(found.values) <= set(plugin.labels):
        return f"it measures {', '.join(found.values)}, the card's labels are {', '.join(plugin.labels)}"
    lost = [
        name
        for name, one in found.values.items()
        if one.interval and not one.interval[0] <= one.value <= one.interval[1]
    ]
    return f"the interval of {lost[0]} leaves out its value" if lost else ""


def _report(found: Report, plugin: Plugin) -> str:
    if found.tokens and "".join(token.text for token in found.tokens) != found.text:
        return "its tokens joined are not its text"
    if not all(0 <= token.probability <= 1 for token in found.tokens):
        return "the probability of a token must lie in [0, 1]"
    rated = [value for value in found.findings_by_name.values() if not isinstance(value, str)]
    return "" if all(0 <= value <= 1 for value in rated) else "the probability of a finding must lie in [0, 1]"


def _reconstruction(found: Reconstruction, plugin: Plugin) -> str:
    if not np.isfinite(found.start).all():
        return "what it starts from holds NaN or infinite values"
    return "" if all(map(math.isfinite, found.scores.values())) else "a score is not finite"


def _embedding(found: Embedding, plugin: Plugin) -> str:
    return "" if found.space else "an embedding must name its space, so that unlike ones aren't compared"


def _multitask(found: MultiTask, plugin: Plugin) -> str:
    # A part may have other labels than the card's, which are the first part's or all parts' together.
    for name, part in found.parts.items():
        labels = tuple(getattr(part, "labels", getattr(part, "probabilities", ())))
        strange = [label for label in labels if label not in plugin.labels]
        if strange:
            return f"{name} gives {strange[0]}, which is none of the card's labels {', '.join(plugin.labels)}"
    return ""


_KINDS: dict[type, Callable[[Any, Plugin], str]] = {
    Detection: _detection,
    Measurement: _measurement,
    Report: _report,
    Reconstruction: _reconstruction,
    Embedding: _embedding,
    MultiTask: _multitask,
}
