"""Masks of all that can be told apart in an image: SAM asked at every point of a grid (Kirillov et al. 2023)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from transformers import SamModel

from zoo.nn.promptable.frame import Frame
from zoo.nn.promptable.grid import Answers, answer_clicks, draw
from zoo.nn.promptable.promptable import Promptable


@dataclass(frozen=True)
class Grid:
    """How an image is searched; the defaults are Segment Anything's own."""

    points: int = field(default=32, metadata={"min": 1, "max": 256})  # per side
    quality: float = field(default=0.88, metadata={"min": -1e9, "max": 1.0})  # expected IoU above which a mask counts
    # share of a mask that a stricter and a laxer threshold agree on; above it a mask counts
    stability: float = field(default=0.95, metadata={"min": 0.0, "max": 1.0})
    offset: float = field(default=1.0, metadata={"min": 0.0, "max": 100.0})  # of these thresholds, in logits
    overlap: float = field(default=0.7, metadata={"min": 0.0, "max": 1.0})  # of boxes (IoU) from which one gives way

    def key(self) -> str:
        """These values as a text, to name what was made with them."""
        return f"grid {self.points} {self.quality} {self.stability} {self.offset} {self.overlap}"


@dataclass(frozen=True)
class AutoMask:
    """One of the masks, kept within its box."""

    box: tuple[int, int, int, int]  # x0, y0, x1, y1 in px; the last two are exclusive
    inside: Bool[np.ndarray, "bh bw"]
    size: tuple[int, int]  # of the image
    quality: float  # IoU that the network expects
    stability: float

    @property
    def area(self) -> int:
        """Pixels."""
        return int(np.count_nonzero(self.inside))

    def full(self) -> Bool[np.ndarray, "h w"]:
        """At the size of the image."""
        x0, y0, x1, y1 = self.box
        out = np.zeros(self.size, bool)
        out[y0:y1, x0:x1] = self.inside
        return out


@torch.no_grad()
def find_everything(
    base: Promptable, image: UInt8[np.ndarray, "h w 3"], grid: Grid = Grid(), *, batch: int = 16
) -> list[AutoMask]:
    """The masks that are good, stable and not the same as a better one, the best first; the image is embedded once.

    They are those of ``transformers``' pipeline ``mask-generation`` without its crops. ``batch``: clicks at a time,
    which says how much memory is taken. A mask without a pixel is left out.
    """
    embedded = base.embed(image)
    features, frame, sam = embedded.features, embedded.frame, base.sam
    found: list[AutoMask] = []
    steps = (np.arange(grid.points, dtype=np.float32) + 0.5) / grid.points
    x, y = np.meshgrid(steps * frame.width, steps * frame.height)
    points = frame.into(torch.from_numpy(np.stack([x.ravel(), y.ravel()], 1)).to(features))
    for some in points.split(batch):
        answers = answer_clicks(sam, features, some)
        found += _kept(sam, answers, frame, grid)
    if not found:
        return []
    # as there, the last row and column are the corner for the comparison of boxes
    boxes = torch.tensor([[x0, y0, x1 - 1, y1 - 1] for x0, y0, x1, y1 in (one.box for one in found)])
    order = _best_boxes(boxes.float(), torch.tensor([one.quality for one in found]), grid.overlap)
    return [found[i] for i in order]


def _kept(sam: SamModel, answers: Answers, frame: Frame, grid: Grid) -> Iterator[AutoMask]:
    good = answers.quality > grid.quality if grid.quality > 0 else torch.ones_like(answers.quality, dtype=torch.bool)
    if not good.any():
        return
    low = draw(sam, answers, good)
    for logits, quality in zip(low.split(8), answers.quality[good].split(8), strict=True):
        full = frame.logits(logits[:, None])[:, 0]
        for one, expected in zip(full.cpu().numpy(), quality.tolist(), strict=True):
            wide = np.count_nonzero(one > -grid.offset)
            stability = np.count_nonzero(one > grid.offset) / wide if wide else 0.0
            if grid.stability > 0 and not stability > grid.stability:
                continue
            inside = one > 0
            rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
            if not len(rows):
                continue
            y0, y1, x0, x1 = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
            crop = inside[y0:y1, x0:x1].copy()
            yield AutoMask((x0, y0, x1, y1), crop, inside.shape, expected, float(stability))


def _best_boxes(boxes: Float[Tensor, "n 4"], scores: Float[Tensor, " n"], overlap: float) -> list[int]:
    from torchvision.ops import nms

    return nms(boxes, scores, overlap).tolist()
