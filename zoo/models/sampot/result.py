"""What became of a click: both masks, the way between them, and a map of what other clicks would be worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image as PILImage
from PIL import ImageDraw
from torch import Tensor

from zoo import figure, media
from zoo.metrics import dice, iou
from zoo.models.sampot import plugin
from zoo.nn.promptable import Frame
from zoo.prediction import Segmentation

FIRST, LAST, TRUTH = figure.colour(5), figure.colour(1), (255, 255, 255)  # LAST: as the overlay paints it
LEAST_OVERLAP = 0.3  # IoU of first and last mask below which the last is suspicious; ours


class Path(NamedTuple):
    """Where ``n`` clicks went in ``t + 1`` scored steps; the first is where they started."""

    points: Float[Tensor, "t1 n 2"]  # px of SAM's square
    scores: Float[Tensor, "t1 n"]
    quality: Float[Tensor, "t1 n"]  # the IoU that SAM expects
    logits: Float[Tensor, "t1 n m m"]

    def best(self) -> tuple[Tensor, Tensor]:
        """For each click the step with the largest score, and that score (Sec. 2.3: over the whole path)."""
        scores, steps = self.scores.max(0)
        return steps, scores


@dataclass(kw_only=True)
class EvolvedSegmentation(Segmentation):
    """A segmentation at an evolved click. ``trajectory`` is that of the click that won."""

    first: Bool[np.ndarray, "h w"]  # the mask at the click as given
    trajectory: Float[np.ndarray, "t 2"]  # x and y, px of the image
    scores: Float[np.ndarray, " t"]  # the Dice that the regressor expects, at each step
    quality: tuple[float, float]  # the IoU that SAM expects, first and last
    step: int  # of the trajectory that won
    starts: int
    map: Float[np.ndarray, "g g"]  # scores of a grid of clicks
    suspicious: bool
    kept_first: bool = False
    drawn: bool = False  # by random search: the steps are no path
    dices: Float[np.ndarray, " t"] | None = None  # with the truth, at each step
    truth: Bool[np.ndarray, "h w"] | None = None

    @classmethod
    def of(
        cls, picture: media.Image, frame: Frame, path: Path, scores: np.ndarray, truth: np.ndarray | None, *,
        safeguard: bool, automatic: bool, drawn: bool = False,
    ) -> EvolvedSegmentation:  # fmt: skip
        steps, best = path.best()
        winner = int(best.argmax())
        step = int(steps[winner])

        def full(logits: torch.Tensor) -> torch.Tensor:
            return frame.logits(logits[:, None])[:, 0]

        first, last = full(torch.stack([path.logits[0, 0], path.logits[step, winner]]))
        trajectory = frame.out_of(path.points[:, winner]).cpu().numpy()
        x, y = (min(int(c), side - 1) for c, side in zip(trajectory[step], reversed(picture.size), strict=True))
        before, after = (first > 0).cpu().numpy(), (last > 0).cpu().numpy()
        suspicious = iou(before, after) < LEAST_OVERLAP or not bool(before[y, x])
        kept = suspicious and safeguard
        shown = first if kept else last
        notes = ["no click was given: the start is the best of a grid"] if automatic else []
        if suspicious:
            what = "the first mask was kept" if kept else "look at both, or ask with safeguard=overlap"
            notes.append(f"the evolved mask shares little with the first, or its click lies outside of it: {what}")
        dices = None
        measured: dict[str, Any] = {
            "expected Dice, first": path.scores[0, 0],
            "expected Dice, evolved": path.scores[step, winner],
        }
        if truth is not None:
            each = [full(path.logits[t, winner][None])[0] for t in range(len(path.logits))]
            dices = np.array([dice((one > 0).cpu().numpy(), truth) for one in each])
            measured |= {"Dice, first": dice(before, truth), "Dice, evolved": dice((shown > 0).cpu().numpy(), truth)}
        return cls(
            image=picture,
            mask=(shown > 0).cpu().numpy().astype(np.uint8),
            labels=plugin.labels,
            probability=shown.sigmoid().cpu().numpy().astype(np.float32),
            notes=tuple(notes),
            measurements={name: round(float(value), 4) for name, value in measured.items()},
            first=before,
            trajectory=trajectory.astype(np.float32),
            scores=path.scores[:, winner].cpu().numpy().astype(np.float32),
            quality=(float(path.quality[0, 0]), float(path.quality[step, winner])),
            step=step,
            starts=path.scores.shape[1],
            map=scores.astype(np.float32),
            suspicious=suspicious,
            kept_first=kept,
            drawn=drawn,
            dices=dices,
            truth=truth,
        )

    def summary(self) -> str:
        (x0, y0), (x1, y1) = self.trajectory[0], self.trajectory[self.step]
        first, last = self.measurements["expected Dice, first"], self.measurements["expected Dice, evolved"]
        moved = f"click {x0:.0f},{y0:.0f} to {x1:.0f},{y1:.0f}, expected Dice {first:.2f} to {last:.2f}"
        return f"{super().summary()}; {moved}{'; suspicious' if self.suspicious else ''}"

    def to_dict(self) -> dict[str, Any]:
        way = [
            {"step": t, "x": round(float(x), 2), "y": round(float(y), 2), "score": round(float(s), 5)}
            for t, ((x, y), s) in enumerate(zip(self.trajectory, self.scores, strict=True))
        ]
        return {
            **super().to_dict(),
            "trajectory": way,
            "chosen_step": self.step,
            "starts": self.starts,
            "suspicious": self.suspicious,
            "kept_first_mask": self.kept_first,
            "sam_expected_iou": [round(value, 4) for value in self.quality],
            "map": [[round(float(value), 4) for value in row] for row in self.map],
        }

    def legend(self) -> list[figure.LegendEntry]:
        entries = [figure.LegendEntry("first mask", FIRST), figure.LegendEntry("evolved mask", LAST)]
        return entries if self.truth is None else [*entries, figure.LegendEntry("truth", TRUTH)]

    def panels(self) -> list[figure.Panel]:
        picture = self.image.thumbnail(figure.PANEL_SIDE)
        marked = picture if self.truth is None else figure.contour(picture, self.truth.astype(np.uint8), TRUTH)
        marked = figure.contour(figure.contour(marked, self.first.astype(np.uint8), FIRST), self._evolved(), LAST)
        spacing = self.image.spacing[-1] if self.image.spacing else None
        scores = np.maximum.accumulate(self.scores) if self.drawn else self.scores
        lines = [figure.Curve("best score" if self.drawn else "score", scores.tolist(), figure.colour(5))]
        if self.dices is not None:
            lines.append(figure.Curve("Dice", self.dices.tolist(), figure.colour(3)))
        lowest = min(float(min(line.values)) for line in lines)
        worth = figure.heat_over(picture, self.map)
        return [
            figure.Panel(
                "clicks tried" if self.drawn else "the click's way",
                self._way(marked),
                spacing=spacing,
                pixels=self.mask.shape[1],
            ),
            figure.Panel(
                f"mask at step {0 if self.kept_first else self.step}", figure.overlay(picture, self.mask, 0.4)
            ),
            figure.Panel(
                "step by step", figure.curves({"": lines}, low=max(0.0, np.floor(10 * lowest - 1) / 10), x="steps")
            ),
            figure.Panel(
                f"expected Dice by click: {self.map.min():.2f} to {self.map.max():.2f}", self._dot(worth, self._ends())
            ),
        ]

    def _ends(self) -> list[tuple[float, float]]:
        return [(float(x), float(y)) for x, y in self.trajectory[[0, self.step]]]

    def _evolved(self) -> np.ndarray:
        return (self.first if self.kept_first else self.mask).astype(np.uint8)

    def _way(self, picture: PILImage.Image) -> PILImage.Image:
        """The trajectory, darker where the score is low, from a ring to a disc; dots where clicks were drawn."""
        shown = picture.copy()
        draw = ImageDraw.Draw(shown)
        sx, sy = shown.width / self.mask.shape[1], shown.height / self.mask.shape[0]
        at = [((float(x) + 0.5) * sx, (float(y) + 0.5) * sy) for x, y in self.trajectory]
        inks = np.asarray(figure.heatmap(self.scores[None].astype(np.float32)))[0]
        for width, black in ((6, True), (3, False)):
            for t in range(1, len(at)):
                ink = "black" if black else tuple(int(c) for c in inks[t])
                if self.drawn:
                    (u, v), r = at[t], width / 2 + 1
                    draw.ellipse((u - r, v - r, u + r, v + r), fill=ink)
                else:
                    draw.line((*at[t - 1], *at[t]), fill=ink, width=width)
        return self._dot(shown, self._ends())

    def _dot(self, picture: PILImage.Image, ends: Sequence[tuple[float, float]]) -> PILImage.Image:
        """The first click as a ring, the chosen one as a disc."""
        shown = picture.copy()
        draw = ImageDraw.Draw(shown)
        for (x, y), r, ink in zip(ends, (9, 7), (FIRST, LAST), strict=True):
            u = (float(x) + 0.5) * shown.width / self.mask.shape[1]
            v = (float(y) + 0.5) * shown.height / self.mask.shape[0]
            if ink == FIRST:
                draw.ellipse((u - r - 2, v - r - 2, u + r + 2, v + r + 2), outline="black", width=7)
                draw.ellipse((u - r, v - r, u + r, v + r), outline=ink, width=3)
            else:
                draw.ellipse((u - r, v - r, u + r, v + r), fill=ink, outline="white", width=2)
        return shown
