"""A plugin small enough to train in a second: a threshold on brightness, learned by gradient descent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from zoo import media
from zoo.claims import Claim, Comparison, spending
from zoo.data.sets import read_mask
from zoo.model import Model
from zoo.plugin import Input, Output, Paper, Plugin
from zoo.prediction import Segmentation
from zoo.training import Run, TrainData, Training


def card(**changes: Any) -> Plugin:
    facts: dict[str, Any] = {
        "name": "toy-threshold",
        "title": "A toy",
        "summary": "Finds what is bright.",
        "paper": Paper("Toy", ("A. Nobody",), "nowhere"),
        "task": "segmentation",
        "modality": "any",
        "inputs": (Input("image", "image", "a picture", required=True),),
        "outputs": (Output("mask", "what is bright"),),
        "labels": ("dark", "bright"),
        "model": "toy_plugin:Toy",
        "training": "toy_plugin:training",
        "claim": "toy_plugin:claim",
    }
    return Plugin(**{**facts, **changes})


plugin = card()


@dataclass(frozen=True)
class ToyConfig:
    scale: float = field(default=4.0, metadata={"min": 0.0})


@dataclass(frozen=True)
class ToyRecipe:
    steps: int = field(default=150, metadata={"min": 1})
    lr: float = field(default=0.3, metadata={"min": 0.0})
    batch_size: int = 4
    dtype: str = field(default="float32", metadata={"choices": ("float32", "float16")})


class Toy(Model):
    plugin = plugin
    config_class = ToyConfig

    def __init__(self, config: ToyConfig | None = None) -> None:
        super().__init__(config)
        self.weight = torch.nn.Parameter(torch.tensor(self.config.scale))
        self.bias = torch.nn.Parameter(torch.tensor(0.0))

    def forward(self, grey: torch.Tensor) -> torch.Tensor:
        return self.weight * grey + self.bias

    def _predict(self, images: Sequence[media.Image], **options: Any) -> list[Segmentation]:
        return [self._marked(image) for image in images]

    def _marked(self, picture: media.Image) -> Segmentation:
        probability = self(torch.from_numpy(picture.grey())).sigmoid().numpy()
        return Segmentation(
            image=picture,
            mask=(probability > 0.5).astype(np.uint8),
            labels=self.plugin.labels,
            probability=probability,
        )


def train(recipe: ToyRecipe, data: TrainData, run: Run) -> Toy:
    images = np.stack([media.read(case.image).grey() for case in data.train])
    masks = np.stack([read_mask(case) for case in data.train])
    run.stage("threshold")
    model = Toy()
    adam = torch.optim.Adam(model.parameters(), lr=recipe.lr)
    net, adam = run.track(model=model, adam=adam)
    for step in run.steps(recipe.steps):
        index = run.indices(len(images), recipe.batch_size, step)
        x, y = (torch.from_numpy(part[index]).float().to(run.device) for part in (images, masks))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(net(x), y)
        adam.zero_grad()
        run.backward(loss)
        adam.step()
        run.log(loss=loss)
    return model


training = Training(recipe=ToyRecipe, presets={"paper": {}, "demo": {"steps": 5}}, run=train)


def write_squares(root: Path) -> str:
    """Write 20 noisy pictures with a bright square each; returns the specification of the set."""
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    for i in range(20):
        mask = np.zeros((16, 16), bool)
        y, x = rng.integers(1, 9, 2)
        mask[y : y + 6, x : x + 6] = True
        grey = np.clip(80 + 100 * mask + rng.normal(0, 25, mask.shape), 0, 255).astype(np.uint8)
        Image.fromarray(grey).save(root / "images" / f"c{i:02}.png")
        Image.fromarray(np.uint8(255 * mask)).save(root / "masks" / f"c{i:02}.png")
    return f"pairs:{root}"


def arms(seed: int, *, quick: bool) -> dict[str, dict[str, float]]:
    rng = np.random.default_rng(seed)
    base = float(rng.normal(60, 1))
    weight = torch.nn.Parameter(torch.zeros(1))
    weight.grad = torch.ones(1)
    for arm in claim.arms:
        with spending(arm, examples=20):
            torch.optim.SGD([weight], lr=0.1).step()
    return {
        "plain": {"dice": base, "seconds": 2.0},
        "pooled": {"dice": base + float(rng.normal(3, 0.4)), "seconds": 2.5},
        "better": {"dice": base + float(rng.normal(3, 0.4)), "seconds": 3.0 + 0.01 * seed},
    }


claim = Claim(
    statement="The better method gains three points of Dice.",
    data="numbers drawn at random",
    arms={"plain": "the baseline", "pooled": "more data", "better": "the method"},
    run="toy_plugin:arms",
    primary=Comparison("better", "plain", "dice", margin=2.0, readings={"supported": "The gain is real."}),
    secondary=(
        Comparison("better", "pooled", "dice", readings={"inconclusive": "More data may explain the gain."}),
        Comparison("better", "plain", "seconds", direction="less"),
    ),
    falsified_if={
        "the better method is not better": ("better vs. plain, dice",),
        "it is no better than more data, and slower": ("better vs. pooled, dice", "better vs. plain, seconds"),
    },
    seeds=(0, 1, 2, 3, 4),
    paper={"plain": {"dice": 61.36}, "better": {"dice": 69.63}},
)
