"""A small model that tells how far it is and takes as long as it's told, and what tests send it."""

from __future__ import annotations

import io
import time
from typing import Any

import numpy as np
from PIL import Image

SIDE = 48

CARD = """
from zoo import Input, Output, Paper, Plugin

plugin = Plugin(
    name="toy-model", title="Bright places", summary="Marks what is brighter than a threshold.",
    paper=Paper("Bright places", ("A B",), "Workshop"), task="segmentation", modality="any",
    inputs=(
        Input("image", "image", "a picture", required=True),
        Input("threshold", "number", "cut", default=0.5, minimum=0, maximum=1),
        Input("mode", "choice", "how", default="fast", choices=("fast", "exact")),
        Input("invert", "flag", "dark places instead", default=False),
        Input("box", "box", "where", many=True),
        Input("region", "mask", "where to look"),
        Input("bank", "folder", "a folder"),
        Input("word", "text", "a word"),
        Input("layers", "integer", "of a hundredth of a second", default=1, minimum=1),
        Input("bars", "flag", "whether it tells how far it is", default=True),
        Input("fault", "flag", "whether it breaks", default=False),
    ),
    outputs=(Output("mask", "bright places"),), labels=("dark", "bright"), model="toy_network:Toy",
    sample="sample:retina",
)
"""

NETWORK = """
import time
from dataclasses import dataclass
import numpy as np
import torch
from toy_served import plugin
from zoo import Model, Segmentation
from zoo.progress import Bar

@dataclass(frozen=True)
class Config:
    size: int = 4


class Toy(Model[Segmentation]):
    plugin = plugin
    config_class = Config

    def __init__(self, config=None):
        super().__init__(config)
        self.layer = torch.nn.Linear(self.config.size, self.config.size)

    def _predict(self, images, *, threshold, mode, invert, box, region, bank, word, layers, bars, fault):
        if fault:
            raise RuntimeError("a fault of the plugin")
        with Bar("layers", layers, enabled=False) as bar:
            for number in range(layers):
                self.layer(torch.zeros(1, self.config.size))
                time.sleep(0.01)
                if bars:
                    bar.update(number + 1)
        return [
            Segmentation(image=one, mask=((one.grey() >= threshold) != invert).astype(np.uint8), labels=plugin.labels)
            for one in images
        ]
"""


def png(array: np.ndarray | None = None) -> bytes:
    """A picture with structure, or one of an array, as a PNG file."""
    if array is None:
        y, x = np.mgrid[:SIDE, :SIDE] / SIDE
        array = (127 + 120 * np.sin(9 * x + 4 * y)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "png")
    return stream.getvalue()


def wait(client: Any, job: str, *states: str) -> dict[str, Any]:
    """The state of a job once it is one of these."""
    for _ in range(1000):
        state = client.get(f"/jobs/{job}").json()
        if state["state"] in states:
            return state
        time.sleep(0.02)
    raise AssertionError(state)
