"""A conversation about one image: it's encoded once, and every click is answered by the decoder alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from zoo.errors import OptionError
from zoo.nn.promptable.frame import Tensors
from zoo.nn.promptable.promptable import Embedded, Promptable, decode, encode_prompts, mask_side
from zoo.nn.promptable.prompts import Mask, Point, Prompt

Answer: TypeAlias = Callable[[Embedded, Tensors], Float[Tensor, "1 1 m m"]]
"""Logits of one object from its image and all clicks on it; ``masks`` of the prompts are the answer before, if any."""


@dataclass(frozen=True)
class Step:
    """A click and its answer."""

    point: Point
    logits: Float[Tensor, "1 1 m m"]  # at the decoder's own size
    seconds: float


class Session:
    """One object on one image, click by click. The answer to a click is fed back with the next one.

    ``image``: on 0 to 255. ``answer``: what decodes; None for SAM's own decoder. ``previous``: a mask to start from.
    """

    def __init__(
        self,
        promptable: Promptable,
        image: UInt8[np.ndarray, "h w 3"] | Float[np.ndarray, "h w 3"],
        answer: Answer | None = None,
        *,
        threshold: float = 0.5,
        previous: Bool[np.ndarray, "h w"] | None = None,
    ) -> None:
        self.promptable = promptable
        self.threshold = threshold
        self.steps: list[Step] = []
        self._answer = answer or partial(sam_answer, promptable)
        start = time.perf_counter()
        self.embedded = promptable.embed(image)
        self.seconds_to_encode = time.perf_counter() - start
        self._start: Tensor | None = None
        if previous is not None:
            self._start = self._tensors((), Mask(previous)).masks

    @property
    def clicks(self) -> tuple[Point, ...]:
        return tuple(step.point for step in self.steps)

    @torch.no_grad()
    def click(self, x: float, y: float, label: int | bool = 1) -> Bool[np.ndarray, "h w"]:
        """The mask after one more click at ``x``, ``y`` (px of the image): ``label`` 1 inside, 0 outside the object.

        Raises ``OptionError`` for what is no number, a place off the image and another label.
        """
        try:
            point = Point(float(x), float(y), inside_of(label))
        except (TypeError, ValueError):
            raise OptionError(f"a click is two numbers and a label, not {x!r}, {y!r}, {label!r}") from None
        point.check(self.embedded.frame.height, self.embedded.frame.width)
        start = time.perf_counter()
        prompts = replace(self._tensors((*self.clicks, point)), masks=self._before())
        logits = self._answer(self.embedded, prompts)
        mask = self._cut(logits)
        self.steps.append(Step(point, logits, time.perf_counter() - start))
        return mask

    def undo(self) -> None:
        """Take the last click back. Raises ``OptionError`` when there is none."""
        if not self.steps:
            raise OptionError("there is no click to take back")
        self.steps.pop()

    @property
    def mask(self) -> Bool[np.ndarray, "h w"]:
        """After the last click; empty before the first."""
        if not self.steps:
            return np.zeros((self.embedded.frame.height, self.embedded.frame.width), bool)
        return self.mask_after(len(self.steps))

    def mask_after(self, clicks: int) -> Bool[np.ndarray, "h w"]:
        return self._cut(self.steps[clicks - 1].logits)

    @property
    def probability(self) -> Float[np.ndarray, "h w"]:
        """Of the object, after the last click. Raises ``OptionError`` before the first."""
        if not self.steps:
            raise OptionError("there is no answer before the first click")
        return self.embedded.frame.logits(self.steps[-1].logits)[0, 0].sigmoid().cpu().numpy()

    def _cut(self, logits: Tensor) -> np.ndarray:
        full = self.embedded.frame.logits(logits)[0, 0]
        return (full > float(torch.logit(torch.tensor(self.threshold, dtype=torch.float64)))).cpu().numpy()

    def _before(self) -> Tensor | None:
        return self.steps[-1].logits if self.steps else self._start

    def _tensors(self, points: tuple[Point, ...], mask: Mask | None = None) -> Tensors:
        side = mask_side(self.promptable.sam)
        return self.embedded.frame.tensors([Prompt(points=points, mask=mask)], side, self.promptable.device)


def inside_of(label: float | bool) -> bool:
    """1 is inside, 0 (or -1, as some write it) outside. Raises ``OptionError`` for anything else."""
    if label not in (1, 0, -1):
        raise OptionError(f"the label of a click is 1 inside the object and 0 outside of it, not {label:g}")
    return label == 1


@torch.no_grad()
def sam_answer(promptable: Promptable, image: Embedded, prompts: Tensors) -> Float[Tensor, "1 1 m m"]:
    """SAM's own decoder: of one click alone the mask that it thinks best of three, then the single one."""
    sam = promptable.sam
    assert prompts.points is not None
    alone = prompts.points.shape[2] == 1 and prompts.masks is None
    logits, quality = decode(sam, image.features, encode_prompts(sam, prompts), multimask=alone)
    best = int(quality[0].argmax())
    return logits[:, best : best + 1]
