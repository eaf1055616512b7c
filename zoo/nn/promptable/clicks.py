"""Clicks as a patient user would make them, and how many a model needs until its mask is good.

The protocol is that of interactive segmentation (N. Xu et al., 2016, as K. Sofiuk et al., RITM, 2022, run it): the next
click goes to the middle of the largest error, until the mask is good enough or ``MOST`` clicks are made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import distance_transform_edt

from zoo.metrics import iou
from zoo.nn.promptable.prompts import Point
from zoo.nn.promptable.session import Session

MOST = 20
TARGETS = (0.80, 0.85, 0.90)


def next_click(
    truth: Bool[np.ndarray, "h w"],
    found: Bool[np.ndarray, "h w"] | None = None,
    clicked: Sequence[Point] = (),
    rng: np.random.Generator | None = None,
) -> Point | None:
    """Where ``found`` is wrong in the deepest place: inside if the object was missed there, outside if it's too much.

    Without ``found`` nothing was found yet. Pixels that were ``clicked`` aren't clicked again. ``None`` when no error
    is left. With ``rng`` the click is drawn among all places that are more than half as deep as the deepest, as users
    are simulated in training.
    """
    found = np.zeros_like(truth) if found is None else found
    missed, surplus = _depth(truth & ~found, clicked), _depth(found & ~truth, clicked)
    inside = bool(missed.max() > surplus.max())
    depth = missed if inside else surplus
    deepest = depth.max()
    if deepest <= 0:
        return None
    places = np.flatnonzero(depth == deepest if rng is None else depth > deepest / 2)
    place = int(places[0] if rng is None else places[rng.integers(len(places))])
    row, column = divmod(place, truth.shape[1])
    return Point(float(column), float(row), inside)


def _depth(error: Bool[np.ndarray, "h w"], clicked: Sequence[Point]) -> Float[np.ndarray, "h w"]:
    """Distance to the nearest pixel without this error, or off the image; 0 where there was a click, px."""
    if not error.any():
        return np.zeros(error.shape)
    depth = distance_transform_edt(np.pad(error, 1))[1:-1, 1:-1]
    for point in clicked:
        depth[int(point.y), int(point.x)] = 0
    return depth


@dataclass(frozen=True)
class Trace:
    """What became of one image: after each click the IoU, and the seconds that its answer took."""

    clicks: tuple[Point, ...]
    iou: tuple[float, ...]
    seconds: tuple[float, ...]
    seconds_to_encode: float

    def clicks_to(self, target: float, most: int = MOST) -> int:
        """How many clicks the IoU ``target`` took; ``most`` where it wasn't reached."""
        return next((t for t, value in enumerate(self.iou, start=1) if value >= target), most)

    def fails(self, target: float) -> bool:
        return max(self.iou, default=0.0) < target

    def after(self, clicks: int) -> float:
        """IoU after so many clicks; that of the last one where it ended before."""
        return self.iou[min(clicks, len(self.iou)) - 1] if self.iou else 0.0


def follow(session: Session, truth: Bool[np.ndarray, "h w"], *, most: int = MOST, until: float = 1.0) -> Trace:
    """Let a simulated user click in ``session`` until the IoU is ``until``, no error is left, or ``most`` clicks."""
    scores: list[float] = []
    while len(scores) < most and (not scores or scores[-1] < until):
        point = next_click(truth, session.mask, session.clicks)
        if point is None:
            break
        session.click(point.x, point.y, point.inside)
        scores.append(iou(session.mask, truth))
    seconds = tuple(step.seconds for step in session.steps)
    return Trace(session.clicks, tuple(scores), seconds, session.seconds_to_encode)


def click_scores(trace: Trace, *, targets: Sequence[float] = TARGETS, most: int = MOST) -> dict[str, float]:
    """The measures of one image, whose means over images are those of the literature.

    ``noc_80`` ...: clicks to IoU 0.80, failures count as ``most``. ``nof_80`` ...: 1 where it wasn't reached, so the
    mean is NoF / n. ``spc``: seconds per click without the encoder, which ``seconds_to_encode`` has. ``iou_1`` ...:
    after so many clicks.
    """
    scores: dict[str, float] = {f"noc_{round(100 * q)}": float(trace.clicks_to(q, most)) for q in targets}
    scores |= {f"nof_{round(100 * q)}": float(trace.fails(q)) for q in targets}
    scores |= {f"iou_{t}": trace.after(t) for t in (1, 3, 5, 10, 20) if t <= most}
    scores["spc"] = float(np.mean(trace.seconds)) if trace.seconds else 0.0
    scores["seconds_to_encode"] = trace.seconds_to_encode
    return scores
