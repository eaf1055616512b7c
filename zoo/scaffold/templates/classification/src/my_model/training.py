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
from zoo.training import Run, TrainData, Training

from . import plugin
from .model import MyModel, MyModelConfig, square


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
    pairs = [(square(media.read(case.image).grey(), recipe.network.side), _class(case)) for case in cases]
    images, labels = np.stack([image for image, _ in pairs]), np.array([label for _, label in pairs])
    run.stage("network")
    model = MyModel(recipe.network)
    adam = torch.optim.Adam(model.parameters(), lr=recipe.lr)
    net, adam = run.track(model=model, adam=adam)
    net.train()
    for step in run.steps(recipe.steps):
        index = run.indices(len(images), recipe.batch_size, step)
        turns = run.generator("turn", step, run.accelerator.process_index).integers(4, size=len(index))
        views = np.stack([np.rot90(images[i], k) for i, k in zip(index, turns, strict=True)])
        x = torch.from_numpy(views)[:, None].to(run.device)
        y = torch.from_numpy(labels[index]).to(run.device)
        logits = net(x)
        loss = F.cross_entropy(logits, y)
        adam.zero_grad()
        run.backward(loss)
        adam.step()
        run.log(loss=loss, accuracy=(logits.argmax(1) == y).float().mean())
    return model.eval()


def _class(case: Case) -> int:
    """A label as a name, or as its place among them, which a table may write as text."""
    text = str(case.label)
    if text in plugin.labels:
        return plugin.labels.index(text)
    if text.isdigit() and int(text) < len(plugin.labels):
        return int(text)
    raise DataError(f"case {case.id} has the label {case.label!r}; use one of {', '.join(plugin.labels)}")


training = Training(
    recipe=MyModelRecipe,
    presets={"paper": {}, "demo": {"steps": 250, "dtype": "float16"}},
    run=train,
)
