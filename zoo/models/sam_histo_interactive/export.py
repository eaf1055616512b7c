"""The network as a file: an image, all clicks so far and the answer before to the next one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.export import Exportable
from zoo.models.sam_histo_interactive.model import FED_BACK, SamHistoInteractive
from zoo.nn.promptable import Tensors, mask_side
from zoo.nn.promptable.frame import MEAN, STD


class Clicks(nn.Module):
    """SAM's encoders and the decoder in one."""

    def __init__(self, model: SamHistoInteractive) -> None:
        super().__init__()
        self.model, self.sam = model, model.base.sam

    def forward(self, image: Tensor, points: Tensor, labels: Tensor, previous: Tensor, follows: Tensor) -> Tensor:
        features = self.sam.get_image_embeddings(image)
        first = self.model(features, Tensors(points=points, labels=labels))
        later = self.model(features, Tensors(points=points, labels=labels, masks=previous))
        return torch.where(follows > 0, later, first)


def exportable(model: SamHistoInteractive) -> Exportable:
    side, low = model.base.size, mask_side(model.base.sam)
    return Exportable(
        network=Clicks(model),
        inputs={
            "image": torch.randn(1, 3, side, side),
            "points": torch.tensor([[[[0.3, 0.4], [0.7, 0.6]]]]) * side,
            "labels": torch.ones(1, 1, 2, dtype=torch.long),
            "previous": torch.randn(1, 1, low, low),
            "follows": torch.ones(1),
        },
        outputs={"logits": f"of the object, in a square of {low} px"},
        varying={"points": {2: "clicks"}, "labels": {2: "clicks"}},
        meanings={
            "points": f"x, y in px of the square of {side}",
            "labels": "1 on the object, 0 on the background",
            "previous": f"the logits of the answer before; held within {FED_BACK:g}",
            "follows": "1 where there is an answer before, 0 for the first click",
        },
        preprocessing=[
            "8-bit RGB, 0 to 255",
            f"the longer side scaled to {side} px, bilinear with antialiasing",
            "minus mean, divided by std, channel by channel",
            "the rest of the square, below or to the right, is 0",
        ],
        postprocessing=[
            "scaled to the square, cut to the image, scaled to its size; the object is where sigmoid >= 0.5"
        ],
        facts={"mean": MEAN, "std": STD},
    )
