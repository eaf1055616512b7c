"""The network as a file: an image and boxes to masks, for one sub-group each."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.export import Exportable
from zoo.models.cemb_sam.model import CEmbSam
from zoo.nn.promptable import Tensors, encode_prompts
from zoo.nn.promptable.frame import MEAN, STD


class Boxes(nn.Module):
    """SAM's encoders, the block and the decoder in one."""

    def __init__(self, model: CEmbSam) -> None:
        super().__init__()
        self.model, self.sam = model, model.base.sam

    def forward(self, image: Tensor, boxes: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        features = self.sam.get_image_embeddings(image)
        return self.model(features, encode_prompts(self.sam, Tensors(boxes=boxes)), condition)


def exportable(model: CEmbSam) -> Exportable:
    c = model.config
    wide = [
        "scaled to a square of {} px, {}".format(c.working_size, "bilinear" if c.reading == "released" else "bicubic")
    ]
    if c.method == "u-net":
        side = c.working_size
        assert model.unet is not None
        return Exportable(
            network=model.unet, inputs={"image": torch.rand(1, 1, side, side)}, outputs={"logits": "of the object"},
            preprocessing=["grey, its darkest pixel 0 and its brightest 1", *wide], postprocessing=["sigmoid"],
        )  # fmt: skip
    side = model.base.size
    normal = ["minus mean, divided by std, channel by channel"] if c.reading == "paper" else []
    return Exportable(
        network=Boxes(model),
        inputs={
            "image": torch.randn(1, 3, side, side),
            "boxes": torch.tensor([[[0.2, 0.3, 0.6, 0.7]]]) * side,
            "condition": torch.zeros(1, dtype=torch.long),
        },
        outputs={"logits": "of the object in the square", "quality": "the IoU that SAM expects"},
        meanings={
            "boxes": f"x0, y0, x1, y1 in px of the square of {side}",
            "condition": f"the sub-group by number: {', '.join(c.conditions)}",
        },
        preprocessing=[
            "grey, from 0 for its darkest to 255 for its brightest pixel", *wide,
            f"three equal channels, scaled to {side} x {side} px, bilinear with antialiasing", *normal,
        ],
        postprocessing=["sigmoid, scaled to the image's size, bilinear; the object is where it reaches the threshold"],
        facts={"mean": MEAN, "std": STD, "threshold": c.threshold},
    )  # fmt: skip
