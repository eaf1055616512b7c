"""How the network is trained: the recipe, and the procedure from top to bottom."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from zoo.data.case import Case
from zoo.training import Run, TrainData, Training

from .data import lesson, loss_of, score
from .model import MyModel, MyModelConfig


@dataclass(frozen=True)
class MyModelRecipe:
    """The defaults are the paper's values; ``demo`` below states what the small weights change."""

    network: MyModelConfig = field(default_factory=MyModelConfig)
    steps: int = field(default=2000, metadata={"min": 1, "max": 1_000_000})
    batch_size: int = field(default=16, metadata={"min": 1, "max": 65_536})
    lr: float = field(default=3e-3, metadata={"min": 0.0, "max": 100.0})
    dtype: Literal["float32", "float16"] = "float32"  # of the saved weights


def train(recipe: MyModelRecipe, data: TrainData, run: Run) -> MyModel:
    """What ``zoo train`` calls."""
    return fit(recipe, data.train, run)


def fit(recipe: MyModelRecipe, cases: Iterable[Case], run: Run) -> MyModel:
    """Train on ``cases``; the update rule, and nothing else."""
    lessons = [lesson(case, recipe.network) for case in cases]
    parts = [np.stack(part) for part in zip(*lessons, strict=True)]
    run.stage("network")
    model = MyModel(recipe.network)
    adam = torch.optim.Adam(model.parameters(), lr=recipe.lr)
    net, adam = run.track(model=model, adam=adam)
    net.train()
    for step in run.steps(recipe.steps):
        index = run.indices(len(lessons), recipe.batch_size, step)
        x, *truth = (torch.from_numpy(part[index]).to(run.device) for part in parts)
        loss = loss_of(net(x), *truth)
        adam.zero_grad()
        run.backward(loss)
        adam.step()
        run.log(loss=loss)
    return model.eval()


training = Training(
    recipe=MyModelRecipe,
    presets={"paper": {}, "demo": {"steps": 150, "dtype": "float16"}},
    run=train,
    score=score,
)
