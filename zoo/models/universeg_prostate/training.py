"""How a UniverSeg is taught to be taught, and how the paper's U-Nets are trained on labelled volumes.

The paper trains no UniverSeg: it takes the released weights (``zoo convert``). The recipe here is that of UniverSeg's
own paper (V. I. Butoi et al., ICCV 2023) as far as it is stated, for whoever has many labelled sets: an episode is one
slice of a task with others of it as its support set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from zoo import media
from zoo.data.case import Case
from zoo.data.splits import Split
from zoo.errors import DataError
from zoo.metrics import dice
from zoo.models.universeg_prostate import DEMO_SUPPORT
from zoo.models.universeg_prostate.baselines import LARGE, SMALL, NnUNetRecipe, fit_unet
from zoo.models.universeg_prostate.data import Task, episodes, made_up, tasks_of
from zoo.models.universeg_prostate.model import Method, UniverSegConfig, UniverSegProstate
from zoo.models.universeg_prostate.support import region
from zoo.nn.losses import dice_losses
from zoo.nn.schedules import cosine_schedule
from zoo.training import Run, TrainData, Training
from zoo.training.stopping import EarlyStopping


@dataclass(frozen=True)
class UniverSegRecipe:
    """Defaults are those of UniverSeg's own paper; the paper at hand trains only the U-Nets, by nnU-Net's defaults."""

    method: Method = "universeg"
    channels: tuple[int, ...] = field(default=(64, 64, 64, 64), metadata={"min": 1, "max": 1024})
    side: int = field(default=128, metadata={"min": 16, "max": 1024})  # px; Sec. 3.1
    regions: tuple[str, ...] = ("tz", "pz")  # masks or labels of the data that are tasks; of the U-Nets the first
    made_up: int = field(default=2000, metadata={"min": 0, "max": 1_000_000})  # images of objects: a stand-in
    absent: float = field(default=0.0, metadata={"min": 0.0, "max": 0.9})  # share of queries without the region
    supports: int = field(default=64, metadata={"min": 1, "max": 4096})  # S
    steps: int = field(default=100_000, metadata={"min": 1, "max": 10_000_000})  # not stated
    batch_size: int = field(default=1, metadata={"min": 1, "max": 4096})  # tasks
    lr: float = field(default=1e-4, metadata={"min": 0.0, "max": 10.0})  # Adam
    floor: float = field(default=1.0, metadata={"min": 0.0, "max": 1.0})  # of the rate, reached by half a cosine
    loss: Literal["dice", "dice_bce"] = "dice"  # soft Dice of the sigmoid
    validate_every: int = field(default=1000, metadata={"min": 1, "max": 10_000_000})  # steps
    scaling: Literal["percentiles", "min-max"] = "percentiles"
    nnunet: NnUNetRecipe = field(default_factory=NnUNetRecipe)
    dtype: Literal["float32", "float16"] = "float32"  # of the saved weights


def train(recipe: UniverSegRecipe, data: TrainData, run: Run) -> UniverSegProstate:
    """Tasks are the regions of ``data.train`` and made-up ones; the best on ``data.validation`` is kept.

    Raises ``DataError`` where the data have none of the regions.
    """
    if recipe.method != "universeg":
        return train_unet(recipe, data, run)
    names, regions, side = data.train.labels, recipe.regions, recipe.side
    how = regions, side, recipe.scaling, names, recipe.absent > 0
    tasks, validation = (tasks_of(part, *how) for part in (data.train, data.validation))
    if recipe.made_up:
        invented = made_up(recipe.made_up, side, run.generator("made-up"))
        tasks = tasks * max(1, len(invented) // max(1, len(tasks))) + invented  # about as often as the data's
    if not tasks:
        raise DataError(f"{data.train.spec} shows none of the regions {', '.join(regions)} in two slices")
    run.stage("training")
    model = UniverSegProstate(UniverSegConfig("universeg", recipe.channels, side))
    fit(model, recipe, tasks, validation, run)
    return model.eval()


def fit(
    model: UniverSegProstate, recipe: UniverSegRecipe, tasks: Sequence[Task], validation: Sequence[Task], run: Run
) -> None:
    """At each step some tasks, of each a slice to segment and ``supports`` others."""
    adam = torch.optim.Adam(model.parameters(), lr=recipe.lr)
    falling = cosine_schedule(adam, recipe.steps, floor=recipe.floor)
    net, adam, schedule = run.track(model=model, adam=adam, schedule=falling)
    stopping = EarlyStopping(recipe.steps + 1, maximise=True, module=model)
    run.keep(stopping=stopping)
    for step in run.steps(recipe.steps, description="episodes"):
        net.train()
        index = run.indices(len(tasks), recipe.batch_size, step)
        rngs = [run.generator("episode", step, place, int(i)) for place, i in enumerate(index)]
        some = [part.to(run.device) for part in episodes(tasks, index, recipe.supports, rngs, absent=recipe.absent)]
        loss = loss_of(net(some[0], *some[2:]), some[1], recipe.loss)
        adam.zero_grad()
        run.backward(loss)
        adam.step()
        schedule.step()
        run.log(loss=loss)
        if validation and (step + 1) % recipe.validate_every == 0:
            value = held_out_dice(model, validation, recipe.supports)
            run.log(validation_dice=value)
            stopping.update(value)
    stopping.restore()


def loss_of(logits: Float[Tensor, "b 1 s s"], truth: Float[Tensor, "b 1 s s"], kind: str) -> Float[Tensor, ""]:
    loss = dice_losses(logits, truth).mean()
    return loss if kind == "dice" else loss + F.binary_cross_entropy_with_logits(logits, truth)


@torch.no_grad()
def held_out_dice(model: UniverSegProstate, tasks: Sequence[Task], supports: int, each: int = 16) -> float:
    """Mean Dice of some episodes of every task, always the same ones."""
    model.eval()
    found = []
    for place in range(len(tasks)):
        for draw in range(each):
            some = episodes(tasks, np.array([place]), supports, [np.random.default_rng([place, draw])], augment=False)
            logits = model(*(part.to(model.device) for part in (some.query, some.images, some.labels)))
            found.append(dice((logits[0, 0] > 0).cpu().numpy(), some.truth[0, 0].numpy() > 0))
    return float(np.mean(found))


def train_unet(recipe: UniverSegRecipe, data: TrainData, run: Run) -> UniverSegProstate:
    """A U-Net for each fold of the slices that show the first of the regions (Sec. 3.3)."""
    task = tasks_of(data.train, recipe.regions[:1], recipe.side, recipe.scaling, data.train.labels)
    if not task:
        raise DataError(f"{data.train.spec} shows no {recipe.regions[0]} in two slices")
    channels = LARGE if recipe.method == "nnunet" else SMALL
    folds = recipe.nnunet.folds
    run.stage("networks")
    model = UniverSegProstate(UniverSegConfig(recipe.method, channels, recipe.side, folds)).to(run.device)
    nets: Any = model.net
    for fold, net in enumerate(nets):
        fit_unet(net, task[0].images, task[0].labels, recipe.nnunet, run, fold, f"fold-{fold}")
    return model.eval()


def score(model: UniverSegProstate, case: Case, options: Mapping[str, Any]) -> list[dict[str, float]]:
    """3-D Dice of the volume, and the Dice of every slice that shows the region (Sec. 3.4), on the scan's own grid.

    A row for the volume and one for each slice, so that means are over subjects and over slices. Without a support set
    the packaged one is taken.
    """
    given = {"support": DEMO_SUPPORT, **{name: value for name, value in options.items() if value is not None}}
    roi = str(given.get("roi", "gland"))
    image = media.read(case.image)
    truth = region(case, roi)
    if truth.shape != image.size:
        raise DataError(f"image and mask of case {case.id} differ in size: {image.size} and {truth.shape}")
    found = model.predict(image, **given)
    mask = found.mask > 0
    rows = [{"dice_3d": dice(mask, truth), "volume_ml": found.measurements.get("volume ml", float("nan"))}]
    if truth.ndim == 3:
        ours, theirs = found.scan.turned(mask), found.scan.turned(truth)
        rows += [{"dice_2d": dice(a, b)} for a, b in zip(ours, theirs, strict=True) if b.any()]
    return rows


DEMO = {
    "channels": (8, 12, 16), "side": 48, "made_up": 40, "supports": 4, "steps": 120, "batch_size": 4, "lr": 3e-3,
    "loss": "dice_bce", "validate_every": 40, "dtype": "float16", "nnunet": {"folds": 2, "steps": 100, "batch_size": 8},
}  # fmt: skip

training = Training(
    recipe=UniverSegRecipe,
    presets={"paper": {}, "demo": DEMO, "check": {**DEMO, "steps": 40, "made_up": 40, "validate_every": 20}},
    run=train,
    split=Split((0.7, 0.1, 0.2)),
    score=score,
)
