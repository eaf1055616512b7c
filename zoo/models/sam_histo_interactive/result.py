"""What the clicks came to: the mask, the way to it, and its measures where the truth is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image as PILImage

from zoo import figure, media
from zoo.models.sam_histo_interactive import plugin
from zoo.nn.promptable import Point, Prompt, Session, Trace, click_scores
from zoo.nn.promptable.drawing import draw_prompts
from zoo.prediction import Segmentation

TRUTH = (255, 255, 255)
SHOWN = 9  # answers in the strip


@dataclass(kw_only=True)
class ClickedSegmentation(Segmentation):
    """A segmentation with the clicks that led to it."""

    clicks: Sequence[Point]
    answers: Bool[np.ndarray, "t h w"]  # the mask after each click
    truth: Bool[np.ndarray, "h w"] | None = None
    trace: Trace | None = None
    most: int = 20

    @classmethod
    def of(
        cls, picture: media.Image, session: Session, truth: np.ndarray | None, trace: Trace | None, most: int
    ) -> ClickedSegmentation:
        answers = np.stack([session.mask_after(t + 1) for t in range(len(session.clicks))])
        measured = {}
        if trace is not None:
            named = {"IoU": trace.after(most), **click_scores(trace, most=most)}
            measured = {name: round(value, 4) for name, value in named.items() if name not in _SECONDS}
        return cls(
            image=picture,
            mask=answers[-1].astype(np.uint8),
            labels=plugin.labels,
            probability=session.probability.astype(np.float32),
            measurements=measured,
            clicks=session.clicks,
            answers=answers,
            truth=truth,
            trace=trace,
            most=most,
        )

    def summary(self) -> str:
        count = f"{len(self.clicks)} click{'s' if len(self.clicks) > 1 else ''}: {super().summary()}"
        return count if self.trace is None else f"{count}, IoU {self.trace.iou[-1]:.2f}"

    def to_dict(self) -> dict[str, Any]:
        clicks: list[dict[str, Any]] = [{"x": p.x, "y": p.y, "label": int(p.inside)} for p in self.clicks]
        for t, click in enumerate(clicks):
            click["area_fraction"] = round(float(self.answers[t].mean()), 6)
            if self.trace is not None:
                click |= {"iou": round(self.trace.iou[t], 4), "seconds": round(self.trace.seconds[t], 5)}
        record = {**super().to_dict(), "clicks": clicks, "simulated": self.trace is not None}
        if self.trace is not None:
            scores = click_scores(self.trace, most=self.most)
            record |= {name: round(scores[name], 5) for name in _SECONDS}
        return record

    def panels(self) -> list[figure.Panel]:
        picture = self.image.thumbnail(figure.PANEL_SIDE)
        asked = picture if self.truth is None else figure.contour(picture, self.truth.astype(np.uint8), TRUTH)
        asked = draw_prompts(asked, [Prompt(points=tuple(self.clicks))], self.mask.shape)
        found = figure.overlay(picture, self.mask, opacity=0.4)
        if self.truth is not None:
            found = figure.contour(found, self.truth.astype(np.uint8), TRUTH)
        spacing = self.image.spacing[-1] if self.image.spacing else None
        white = "" if self.truth is None else "; white: the truth"
        panels = [
            figure.Panel(f"input and clicks{white}", asked, spacing=spacing, pixels=self.mask.shape[1]),
            figure.Panel(f"after {len(self.clicks)} click{'s' if len(self.clicks) > 1 else ''}", found),
        ]
        if len(self.clicks) > 1:
            panels.append(figure.Panel("click by click", self._strip(picture)))
        if self.trace is not None:
            line = figure.Curve("IoU", [0.0, *self.trace.iou], figure.colour(5))
            panels.append(figure.Panel("IoU over clicks", figure.curves({"": [line]}, low=0.0, x="clicks")))
        return panels

    def _strip(self, picture: PILImage.Image) -> PILImage.Image:
        """The answers after the first clicks and after the last, each with the click that it answers."""
        count = len(self.clicks)
        shown = list(range(count)) if count <= SHOWN else [*range(SHOWN - 1), count - 1]
        tiles = []
        for t in shown:
            small = figure.overlay(picture, self.answers[t].astype(np.uint8), opacity=0.4)
            small = draw_prompts(small, [Prompt(points=(self.clicks[t],))], self.mask.shape)
            score = "" if self.trace is None else f": IoU {self.trace.iou[t]:.2f}"
            tiles.append(figure.Tile(small, [f"{t + 1}{score}"], bold=t == count - 1))
        return figure.tiles(tiles)


_SECONDS = ("spc", "seconds_to_encode")
