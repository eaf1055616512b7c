"""How the network is trained: the recipe, and the procedure from top to bottom."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from zoo import DataError, media
from zoo.data.case import Case
from zoo.data.sets import read_mask
from zoo.training import Run, TrainData, Training

from .model import MyModel, MyModelConfig


@dataclass(frozen=True)
class MyModelRecipe:
    """The defaults are the paper's values; ``demo`` below states what the small weights change."""

    network: MyModelConfig = field(default_factory=MyModelConfig)
    steps: int = field(default=2000, metadata={"min": 1, "max": 1_000_000})
    batch_size: int = field(default=8, metadata={"min": 1, "max": 65_536})
    lr: float = field(default=3e-3, metadata={"min": 0.0, "max": 100.0})
    crop: int = field(default=48, metadata={"min": 8, "max": 4096})
    """Side of the squares that are cut out of the images, px."""
    dtype: Literal["float32", "float16"] = "float32"  # of the saved weights


def train(recipe: MyModelRecipe, data: TrainData, run: Run) -> MyModel:
    """What ``zoo train`` calls."""
    return fit(recipe, data.train, run)


def fit(recipe: MyModelRecipe, cases: Iterable[Case], run: Run) -> MyModel:
    """Train on ``cases``; the update rule, and nothing else."""
    pairs = [_read(case) for case in cases]
    run.stage("network")
    model = MyModel(recipe.network)
    adam = torch.optim.Adam(model.parameters(), lr=recipe.lr)
    net, adam = run.track(model=model, adam=adam)
    net.train()
    for step in run.steps(recipe.steps):
        index = run.indices(len(pairs), recipe.batch_size, step)
        rng = run.generator("crop", step, run.accelerator.process_index)
        crops = np.stack([_crop(*pairs[i], recipe.crop, rng) for i in index])
        x, y = torch.from_numpy(crops).to(run.device).split(1, dim=1)
        logits = net(x)
        p = logits.sigmoid()
        dice = (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)
        loss = F.binary_cross_entropy_with_logits(logits, y) + 1 - dice
        adam.zero_grad()
        run.backward(loss)
        adam.step()
        run.log(loss=loss, dice=dice)
    return model.eval()


def _read(case: Case) -> tuple[np.ndarray, np.ndarray]:
    grey, mask = media.read(case.image).require_2d("my-model").grey(), read_mask(case) > 0
    if grey.shape != mask.shape:
        raise DataError(f"image and mask of case {case.id} differ in size: {grey.shape} and {mask.shape}")
    return grey, mask.astype(np.float32)


def _crop(grey: np.ndarray, mask: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A square ``[2 size size]`` of image and mask, turned and mirrored at random; small images are padded."""
    planes = np.stack([grey, mask])
    short = [max(0, size - side) for side in grey.shape]
    planes = np.pad(planes, ((0, 0), (0, short[0]), (0, short[1])), mode="edge")
    top, left = (rng.integers(side - size + 1) for side in planes.shape[1:])
    window = np.rot90(planes[:, top : top + size, left : left + size], rng.integers(4), (1, 2))
    return np.ascontiguousarray(window[..., :: rng.choice([-1, 1])])


training = Training(
    recipe=MyModelRecipe,
    presets={"paper": {}, "demo": {"steps": 400, "dtype": "float16"}},
    run=train,
)
