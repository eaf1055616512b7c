"""How the score is learned: from masks that are wrong in known ways, and from SAM's own at clicks of all kinds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from zoo import media
from zoo.data.case import Case
from zoo.data.features import FeatureCache
from zoo.data.sets import read_mask
from zoo.data.splits import Split
from zoo.errors import DataError
from zoo.metrics import dice
from zoo.models.sampot.model import Sampot, SampotConfig, grey_of
from zoo.nn.promptable import Promptable, load_sam
from zoo.training import Run, TrainData, Training
from zoo.training.stopping import EarlyStopping


@dataclass(frozen=True)
class SampotRecipe:
    """The paper's training; SAM itself is never trained."""

    sam: str = "facebook/sam-vit-base"  # Sec. 3
    image_size: int | None = field(default=None, metadata={"min": 16, "max": 4096})
    target: str = "mask"  # name of the mask in the data set
    widths: tuple[int, ...] = field(default=(16, 32, 64, 128), metadata={"min": 1, "max": 4096})  # not stated
    slope: float = field(default=5.0, metadata={"min": 0.1, "max": 100.0})  # not stated
    # masks too large and masks too small of each image, each; 16 + 6 give the paper's 901 samples of 41 images
    levels: int = field(default=8, metadata={"min": 1, "max": 64})
    dice: tuple[float, float] = field(default=(0.30, 0.97), metadata={"min": 0.0, "max": 1.0})  # over which they spread
    outside: int = field(default=3, metadata={"min": 0, "max": 64})  # clicks beside the object, of six in all
    offset: float = field(default=5.0, metadata={"min": 0.0, "max": 1000.0})  # px that they keep away; Sec. 2.2
    lr: float = field(default=1e-3, metadata={"min": 0.0, "max": 100.0})  # Adam, Sec. 3
    epochs: int = field(default=200, metadata={"min": 1, "max": 1_000_000})  # Sec. 3
    batch_size: int = field(default=32, metadata={"min": 1, "max": 65_536})  # Sec. 3
    dtype: Literal["float32", "float16"] = "float32"  # of the saved weights


@dataclass(frozen=True)
class Samples:
    """Masks with their Dice; ``image`` says of which image each is. All in SAM's square, at the decoder's size."""

    grey: Float[Tensor, "k 1 m m"]
    masks: Bool[Tensor, "n m m"]
    dice: Float[Tensor, " n"]
    image: Tensor  # n whole numbers below k

    def batch(self, index: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Image, mask and Dice."""
        at = torch.from_numpy(index)
        mask = self.masks[at][:, None].float()
        return self.grey[self.image[at]].to(device), mask.to(device), self.dice[at].to(device)


def train(recipe: SampotRecipe, data: TrainData, run: Run) -> Sampot:
    """Train on ``data.train``, keep the epoch with the least squared error on ``data.validation`` (Sec. 3).

    Raises ``DataError`` for a case without the mask, or where none has anything in it.
    """
    run.stage("training")
    model = build(recipe)
    cache = FeatureCache(run.out / "embeddings" if run.out is not None else None, half=True)
    model.base = Promptable(model.base.sam, cache=cache)
    model.base.sam.to(run.device)
    parts = [samples_of(model, recipe, part, run.generator("clicks", name)) for part, name in
             ((data.train, "train"), (data.validation, "validation"))]  # fmt: skip
    if parts[0] is None:
        raise DataError(f"no case to train on has anything in its mask {recipe.target!r}")
    fit(model, recipe, parts[0], parts[1], run)
    model.base = Promptable(model.base.sam)  # predictions see features that aren't rounded
    return model.eval()


def build(recipe: SampotRecipe) -> Sampot:
    """A model with a new regressor."""
    sam = load_sam(recipe.sam, needed_by="sampot", image_size=recipe.image_size)
    model = Sampot(SampotConfig(recipe.sam, recipe.image_size, recipe.widths, recipe.slope, recipe.target))
    model.base = Promptable(sam)
    return model


# ---- the samples (Sec. 2.2) ------------------------------------------------------------------------------------------


def samples_of(model: Sampot, recipe: SampotRecipe, cases: Sequence[Case], rng: np.random.Generator) -> Samples | None:
    """Of every case: level sets of its mask, and what SAM makes of clicks within and beside it."""
    grey: list[Tensor] = []
    masks: list[Tensor] = []
    scores: list[float] = []
    image: list[int] = []
    for case in cases:
        picture, truth = load(case, recipe.target)
        if not truth.any():
            continue
        with torch.no_grad():
            scene = model.scene(grey_of(picture))
            clicks = torch.from_numpy(np.array(clicks_for(truth, recipe.outside, recipe.offset, rng), np.float32))
            logits = model.masks(scene, scene.frame.into(clicks.to(model.device)))[0][:, 0]
        side = logits.shape[-1]
        wanted = (scene.frame.low(torch.from_numpy(truth).float()[None], side)[0, 0] > 0.5).numpy()
        if not wanted.any():
            continue  # smaller than a cell of the decoder's grid
        valid = scene.valid[0, 0].cpu().numpy() > 0
        found = [*level_sets(wanted, recipe.levels, recipe.dice), *((logits > 0).cpu().numpy() & valid)]
        image += [len(grey)] * len(found)
        grey.append(scene.grey[0].cpu())
        masks += [torch.from_numpy(mask) for mask in found]
        scores += [dice(mask, wanted) for mask in found]
    if not grey:
        return None
    return Samples(torch.stack(grey), torch.stack(masks), torch.tensor(scores).float(), torch.tensor(image))


def level_sets(truth: Bool[np.ndarray, "h w"], count: int, spread: tuple[float, float]) -> list[np.ndarray]:
    """``count`` masks that are too large and as many too small: level sets of the signed distance to the outline.

    Their Dice values lie evenly over ``spread``. Of the k deepest pixels the Dice is 2k / (k + A) for k below the area
    A and 2A / (k + A) above, so k is known beforehand; pixels of the same depth go together.
    """
    depth = distance_transform_edt(truth) - distance_transform_edt(~truth)
    ordered = np.sort(depth, axis=None)[::-1]
    area = int(truth.sum())
    made = []
    for wanted in np.linspace(*spread, count):
        for k in (area * wanted / (2 - wanted), 2 * area / wanted - area):
            made.append(depth >= ordered[int(np.clip(round(k), 1, truth.size)) - 1])
    return made


def clicks_for(
    truth: Bool[np.ndarray, "h w"], outside: int, offset: float, rng: np.random.Generator
) -> list[tuple[float, float]]:
    """Clicks x, y: the centres of three horizontal bands of equal height, and random ones ``offset`` px beside it."""
    rows = np.flatnonzero(truth.any(1))
    edges = np.linspace(rows[0], rows[-1] + 1, 4)
    clicks = [centre_of(truth & _between(truth.shape, a, b)) for a, b in pairwise(edges)]
    clicks = [click for click in clicks if click is not None]
    beside = np.argwhere(distance_transform_edt(~truth) >= max(offset, 1.0))
    for _ in range(outside if len(beside) else 0):
        row, column = beside[rng.integers(len(beside))]
        clicks.append((float(column), float(row)))
    return clicks  # type: ignore[return-value]


def _between(shape: tuple[int, ...], first: float, last: float) -> np.ndarray:
    rows = np.arange(shape[0]) + 0.5
    return np.broadcast_to(((rows >= first) & (rows < last))[:, None], shape)


def centre_of(inside: Bool[np.ndarray, "h w"]) -> tuple[float, float] | None:
    """x and y of the centroid, or of the nearest pixel inside where it lies outside; None of an empty mask."""
    places = np.argwhere(inside)
    if not len(places):
        return None
    row, column = places[np.square(places - places.mean(0)).sum(1).argmin()]
    return float(column), float(row)


# ---- learning --------------------------------------------------------------------------------------------------------


def fit(model: Sampot, recipe: SampotRecipe, samples: Samples, validation: Samples | None, run: Run) -> None:
    """The loop: mean squared error between the guessed and the true Dice."""
    adam = torch.optim.Adam(model.regressor.parameters(), lr=recipe.lr)
    net, adam = run.track(regressor=model.regressor, adam=adam)
    stopping = EarlyStopping(recipe.epochs + 1, maximise=False, module=model.regressor)
    run.keep(stopping=stopping)
    batch = min(recipe.batch_size, len(samples.dice))
    per_epoch = max(1, len(samples.dice) // batch)
    for step in run.steps(recipe.epochs * per_epoch, description="score"):
        model.train()
        grey, mask, wanted = samples.batch(run.indices(len(samples.dice), batch, step), model.device)
        loss = F.mse_loss(net(grey, mask), wanted)
        adam.zero_grad()
        run.backward(loss)
        adam.step()
        run.log(loss=loss)
        if (step + 1) % per_epoch == 0 and validation is not None:
            error = float((guessed(model, validation) - validation.dice).square().mean())
            run.log(validation_error=error)
            stopping.update(error)
    stopping.restore()


@torch.no_grad()
def guessed(model: Sampot, samples: Samples) -> Float[Tensor, " n"]:
    """The score of binary masks. The model is left in eval mode."""
    model.eval()
    rows = []
    for start in range(0, len(samples.dice), 64):
        index = np.arange(start, min(start + 64, len(samples.dice)))
        grey, mask, _ = samples.batch(index, model.device)
        rows.append(model.regressor(grey, mask).cpu())
    return torch.cat(rows)


def load(case: Case, target: str) -> tuple[media.Image, Bool[np.ndarray, "h w"]]:
    """Raises ``DataError`` for a case without that mask, or with one of another size."""
    picture = media.read(case.image).require_2d("sampot")
    mask = read_mask(case, target) > 0
    if mask.shape != picture.size:
        raise DataError(f"image and mask of case {case.id} differ in size: {picture.size} and {mask.shape}")
    return picture, mask


def score(model: Sampot, case: Case, options: Mapping[str, Any]) -> list[dict[str, float]]:
    """Dice at the centre of the truth and at the evolved click; no row for a case that has nothing to click on."""
    truth = load(case, model.config.target)[1]
    start = centre_of(truth)
    if start is None:
        return []
    given = {name: value for name, value in options.items() if value is not None and name != "gt"}
    found = model.predict(case.image, **{"point": start, **given, "gt": truth.astype(np.uint8)})
    before, after = found.measurements["Dice, first"], found.measurements["Dice, evolved"]
    return [
        {
            "dice_first": before,
            "dice": after,
            "gain": after - before,
            "improved": float(after > before),
            "error_of_score": abs(found.measurements["expected Dice, evolved"] - after),
            "suspicious": float(found.suspicious),
        }
    ]


DEMO = {"sam": "demo", "target": "left_lung", "epochs": 20, "dtype": "float16"}

training = Training(
    recipe=SampotRecipe,
    presets={"paper": {}, "demo": DEMO},
    run=train,
    split=Split((41 / 122, 28 / 122, 53 / 122)),  # 41, 28 and 53 subjects, Sec. 3
    score=score,
)
