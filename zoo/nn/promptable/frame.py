"""Where an image lies in SAM's square input, and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from zoo.nn.promptable.prompts import Prompt

MEAN = (123.675, 116.28, 103.53)  # of SAM's training images, on 0 to 255
STD = (58.395, 57.12, 57.375)
MASK_LOGIT = 8.0
"""What a mask prompt says inside (and, negative, outside): SAM expects the logits of an earlier answer."""

Fit = Literal["pad", "stretch"]


@dataclass(frozen=True)
class Tensors:
    """Prompts as ``SamModel`` takes them, for ``n`` objects of one image; all in the pixels of its square."""

    boxes: Float[Tensor, "1 n 4"] | None = None
    points: Float[Tensor, "1 n p 2"] | None = None
    labels: Tensor | None = None  # [1 n p]: 1 inside, 0 background, -10 nothing there
    masks: Float[Tensor, "n 1 m m"] | None = None


@dataclass(frozen=True)
class Frame:
    """An image of ``height`` x ``width`` px in a square of ``size`` px.

    ``pad``: the longer side is scaled to ``size`` and the rest filled below or to the right, as SAM does.
    ``stretch``: both sides are scaled to ``size``.
    """

    height: int
    width: int
    size: int
    fit: Fit = "pad"

    @property
    def inner(self) -> tuple[int, int]:
        """Height and width of the image within the square, px."""
        if self.fit == "stretch":
            return self.size, self.size
        longest = max(self.height, self.width)
        return tuple(max(1, int(side * self.size / longest + 0.5)) for side in (self.height, self.width))  # type: ignore[return-value]

    def into(self, xy: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 2"]:
        """Coordinates of the original image to those of the square. Differentiable."""
        return xy * self._scale(xy)

    def out_of(self, xy: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 2"]:
        """Coordinates of the square to those of the original image."""
        return xy / self._scale(xy)

    def _scale(self, like: Tensor) -> Tensor:
        height, width = self.inner
        return like.new_tensor([width / self.width, height / self.height])

    def pixels(self, image: UInt8[Tensor, "h w 3"] | Float[Tensor, "h w 3"]) -> Float[Tensor, "1 3 s s"]:
        """The image as the encoder wants it: scaled, SAM's mean and deviation taken out, filled with zeros.

        ``image`` is on 0 to 255, as bytes or as float.
        """
        x = image.permute(2, 0, 1)[None].float()
        x = F.interpolate(x, self.inner, mode="bilinear", antialias=True)
        x = (x - x.new_tensor(MEAN)[:, None, None]) / x.new_tensor(STD)[:, None, None]
        return F.pad(x, (0, self.size - self.inner[1], 0, self.size - self.inner[0]))

    def logits(self, low: Float[Tensor, "n c m m"]) -> Float[Tensor, "n c h w"]:
        """The decoder's small logits at the size of the original image."""
        full = F.interpolate(low, (self.size, self.size), mode="bilinear", align_corners=False)
        height, width = self.inner
        return F.interpolate(
            full[..., :height, :width], (self.height, self.width), mode="bilinear", align_corners=False
        )

    def low(self, mask: Float[Tensor, "n h w"], side: int) -> Float[Tensor, "n 1 side side"]:
        """A map of the original image at the decoder's size ``side``, zero where there is no image."""
        inner = F.interpolate(mask[:, None].float(), self.inner, mode="bilinear", antialias=True)
        height, width = self.inner
        square = F.pad(inner, (0, self.size - width, 0, self.size - height))
        return F.interpolate(square, (side, side), mode="bilinear", antialias=True)

    def tensors(self, prompts: Sequence[Prompt], mask_side: int, device: torch.device | str = "cpu") -> Tensors:
        """Prompts for several objects as one batch. Raises ``OptionError`` for one that doesn't fit the image.

        All have a box or none has; likewise a mask. Points may differ in number: the missing are marked as nothing.
        """
        for prompt in prompts:
            prompt.check(self.height, self.width)
        boxes = [prompt.box for prompt in prompts if prompt.box is not None]
        masks = [prompt.mask for prompt in prompts if prompt.mask is not None]
        if len(boxes) not in (0, len(prompts)) or len(masks) not in (0, len(prompts)):
            raise ValueError("either all prompts of a batch have a box, or none; and so for masks")
        corners = points = labels = dense = None
        if boxes:
            flat = torch.tensor([[[b.x0, b.y0], [b.x1, b.y1]] for b in boxes], dtype=torch.float32, device=device)
            corners = self.into(flat).reshape(1, len(boxes), 4)
        most = max((len(prompt.points) for prompt in prompts), default=0)
        if most:
            xy = torch.zeros(1, len(prompts), most, 2, device=device)
            labels = torch.full((1, len(prompts), most), -10, device=device)
            for i, prompt in enumerate(prompts):
                for j, point in enumerate(prompt.points):
                    xy[0, i, j, 0], xy[0, i, j, 1] = point.x, point.y
                    labels[0, i, j] = int(point.inside)
            points = self.into(xy)
        if masks:
            inside = torch.stack([torch.from_numpy(mask.inside.astype("float32")) for mask in masks]).to(device)
            dense = self.low(MASK_LOGIT * (2 * inside - 1), mask_side)
        return Tensors(corners, points, labels, dense)
