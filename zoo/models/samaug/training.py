"""How SAMAug is trained: priors once for every image, then M on augmented images, or on both (Sec. 3.3 and 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Integer, UInt8
from scipy import ndimage
from torch import Tensor

from zoo import media
from zoo.data.augment import random_square
from zoo.data.case import Case
from zoo.data.features import FeatureCache
from zoo.data.images import resize, rgb_bytes
from zoo.data.sets import read_mask
from zoo.data.splits import Split
from zoo.errors import DataError
from zoo.metrics import dice
from zoo.metrics.instances import aji, object_dice, object_f1, overlaps
from zoo.models.samaug.model import Inputs, Network, Samaug, SamaugConfig, Task, is_grey
from zoo.models.samaug.priors import Boundary, Compose, PriorMaker, fuse
from zoo.nn.promptable import Grid, Promptable, load_sam
from zoo.training import Run, TrainData, Training

PERMISSIVE = Grid(quality=0.5, stability=0.95, overlap=0.5)  # the authors' code; SAM's defaults leave tissue blank


@dataclass(frozen=True)
class SamaugRecipe:
    """The paper's training on MoNuSeg, and the fields in which its other experiments differ."""

    task: Task = "nuclei"
    network: Network = "u-net"
    features: tuple[int, ...] = field(default=(64, 128, 256, 512, 1024, 64), metadata={"min": 1, "max": 4096})
    backbone: str = "pvt_v2_b2"
    corners: bool = True
    pretrained: bool = False  # HSNet's encoder starts from ImageNet
    inputs: Inputs = "aug"  # Eq. 1; both: Eq. 2 with beta = lambda = 1; raw: the baseline
    two_steps: bool = False  # of both inputs: an update on each, as in the authors' code, not one on the sum
    sam: str = "facebook/sam-vit-huge"  # the authors' code; the paper is silent
    image_size: int | None = field(default=None, metadata={"min": 16, "max": 4096})
    grid: Grid = PERMISSIVE
    compose: Compose = "sum"
    boundary: Boundary = "exterior"
    scored: bool = True
    shuffle_priors: bool = False  # every image gets another's priors: a control that isn't in the paper
    fuse_first: bool = True
    choice: Literal["entropy", "margin"] = "entropy"
    border: int = field(default=1, metadata={"min": 1, "max": 32})
    least: int = field(default=10, metadata={"min": 0, "max": 1_000_000})
    size: int = field(default=256, metadata={"min": 32, "max": 4096})  # crops, Sec. 4.1
    scales: tuple[float, ...] = field(default=(1.0,), metadata={"min": 0.1, "max": 4.0})  # each batch at each of them
    loss: Literal["cross-entropy", "structure", "plain"] = "cross-entropy"  # Sec. 4.1
    optimiser: Literal["adam", "adamw"] = "adam"  # Sec. 4.1
    lr: float = field(default=5e-4, metadata={"min": 0.0, "max": 100.0})  # Sec. 4.1
    weight_decay: float = field(default=0.0, metadata={"min": 0.0, "max": 100.0})
    clip: float = field(default=0.0, metadata={"min": 0.0, "max": 1e6})  # of each entry of the gradient; 0: none
    decay_at: int = field(
        default=0, metadata={"min": 0, "max": 1_000_000}
    )  # epoch from which lr is times 0.2; 0: never
    batch_size: int = field(default=8, metadata={"min": 1, "max": 65_536})  # Sec. 4.1
    steps: int = field(default=50_000, metadata={"min": 1, "max": 100_000_000})  # Sec. 4.1
    epochs: int = field(default=0, metadata={"min": 0, "max": 1_000_000})  # if above 0, in place of steps
    turns: bool = True  # crops are turned and mirrored; not in the paper
    dtype: Literal["float32", "float16"] = "float32"  # of the saved weights


@dataclass(frozen=True)
class Item:
    """An image in memory with its priors and what is to be found."""

    rgb: UInt8[np.ndarray, "h w 3"]
    priors: Float[np.ndarray, "2 h w"]
    target: UInt8[np.ndarray, "h w"]  # 0 background, 1 object, 2 its rim (of polyps never)
    grey: bool


def train(recipe: SamaugRecipe, data: TrainData, run: Run) -> Samaug:
    """Make the priors of ``data.train``, then train M. Raises ``DataError`` for a case without a mask."""
    maker = prior_maker(recipe, FeatureCache(None if run.out is None else run.out / "priors", half=True))
    items = [load(case, recipe, maker) for case in data.train]
    if recipe.shuffle_priors:
        items = shuffled(items, run.generator("shuffle"))
    model = fit(recipe, items, run)
    if maker is not None:
        model.priors = maker
    return model


def fit(recipe: SamaugRecipe, items: list[Item], run: Run) -> Samaug:
    """The loop. What changes from step to step is drawn from the seed and the step alone."""
    run.stage("training")
    model = build(recipe, items)
    kind = torch.optim.AdamW if recipe.optimiser == "adamw" else torch.optim.Adam
    optimiser = kind(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    net, optimiser = run.track(model=model, optimiser=optimiser)
    batch = min(recipe.batch_size, len(items))
    per_epoch = max(1, -(-len(items) // batch))
    steps = recipe.epochs * per_epoch if recipe.epochs else recipe.steps
    for step in run.steps(steps, description=recipe.inputs):
        net.train()
        late = recipe.decay_at and step // per_epoch >= recipe.decay_at
        optimiser.param_groups[0]["lr"] = recipe.lr * (0.2 if late else 1.0)
        index = run.indices(len(items), batch, step)
        rng = run.generator("crop", step, run.accelerator.process_index)
        x, priors, y, grey = (tensor.to(run.device) for tensor in draw(items, index, recipe, rng))
        for scale in recipe.scales:
            views = model.views(*scaled(x, priors, scale), grey)
            truth = y if scale == 1 else F.interpolate(y, views.raw.shape[2:], mode="bilinear", align_corners=True)
            # Eq. 1, or the two terms of Eq. 2
            inputs = {"aug": [views.aug], "raw": [views.raw], "both": [views.raw, views.aug]}[recipe.inputs]
            for group in [[one] for one in inputs] if recipe.two_steps else [inputs]:
                loss = torch.stack([loss_of(model.maps(view), truth, recipe.loss) for view in group]).sum()
                optimiser.zero_grad()
                run.backward(loss)
                run.average(model.parameters())
                if recipe.clip:
                    torch.nn.utils.clip_grad_value_(model.parameters(), recipe.clip)
                optimiser.step()
        run.log(loss=loss)
    return model.eval()


def build(recipe: SamaugRecipe, items: Sequence[Item]) -> Samaug:
    """M with random weights; nuclei and glands are normalised by the statistics of the inputs M is trained on."""
    same = ("task", "network", "features", "backbone", "corners", "inputs", "sam", "image_size", "grid", "compose",
            "boundary", "scored", "fuse_first", "choice", "size", "border", "least")  # fmt: skip
    config = SamaugConfig(**{name: getattr(recipe, name) for name in same})
    if recipe.task != "polyp":
        mean, std = statistics(items, recipe.inputs)
        config = replace(config, mean=mean, std=std)
    return Samaug(config, pretrained=recipe.pretrained)


def statistics(items: Sequence[Item], inputs: Inputs) -> tuple[tuple[float, float, float], ...]:
    """Mean and standard deviation by channel: of the raw images for ``raw``, else of the augmented ones."""
    sums, squares, count = np.zeros(3), np.zeros(3), 0
    for item in items:
        x = torch.from_numpy(item.rgb).permute(2, 0, 1)[None] / 255
        if inputs != "raw":
            x = fuse(x, torch.from_numpy(item.priors)[None], torch.tensor([item.grey]))
        values = x[0].flatten(1).double().numpy()
        sums, squares, count = sums + values.sum(1), squares + (values**2).sum(1), count + values.shape[1]
    mean = sums / max(count, 1)
    std = np.sqrt(np.maximum(squares / max(count, 1) - mean**2, 1e-4))
    return tuple(map(float, mean)), tuple(map(float, std))  # type: ignore[return-value]


# ---- losses ----------------------------------------------------------------------------------------------------------


def loss_of(maps: Sequence[Float[Tensor, "b k h w"]], y: Float[Tensor, "b 1 h w"], kind: str) -> Float[Tensor, ""]:
    """Summed over the maps. ``cross-entropy`` of pixels (Sec. 4.1); HSNet's for polyps: see ``structure_loss``."""
    if kind == "cross-entropy" and maps[0].shape[1] > 1:
        return torch.stack([F.cross_entropy(one, y[:, 0].round().long()) for one in maps]).sum()
    truth = (y > 0).float() if kind == "cross-entropy" else y
    if kind == "cross-entropy":
        return torch.stack([F.binary_cross_entropy_with_logits(one, truth) for one in maps]).sum()
    return torch.stack([structure_loss(one, truth, weighted=kind == "structure") for one in maps]).sum()


def structure_loss(
    logits: Float[Tensor, "b 1 h w"], y: Float[Tensor, "b 1 h w"], *, weighted: bool
) -> Float[Tensor, ""]:
    """Binary cross-entropy plus soft IoU. ``weighted``: IoU counts pixels near a border up to six times.

    HSNet's released code means to weight the cross-entropy too, but its call takes the mean first; so does this.
    """
    weight = 1 + 5 * (F.avg_pool2d(y, 31, stride=1, padding=15) - y).abs() if weighted else torch.ones_like(y)
    p = logits.sigmoid()
    shared = (p * y * weight).sum((2, 3))
    union = ((p + y) * weight).sum((2, 3)) - shared
    return F.binary_cross_entropy_with_logits(logits, y) + (1 - (shared + 1) / (union + 1)).mean()


# ---- data ------------------------------------------------------------------------------------------------------------


def prior_maker(recipe: SamaugRecipe, cache: FeatureCache) -> PriorMaker | None:
    """What makes the priors; None for the baseline, which needs no SAM."""
    if recipe.inputs == "raw":
        return None

    def base() -> Promptable:
        return Promptable(load_sam(recipe.sam, needed_by="samaug", image_size=recipe.image_size))

    return PriorMaker(base, recipe.grid, recipe.compose, recipe.boundary, cache, scored=recipe.scored)


def load(case: Case, recipe: SamaugRecipe, maker: PriorMaker | None) -> Item:
    """Polyps are brought to a square, after their priors. Raises ``DataError`` for no mask or one of another size."""
    picture = media.read(case.image).require_2d("samaug")
    rgb = rgb_bytes(picture)
    priors = np.zeros((2, *rgb.shape[:2]), np.float32) if maker is None else maker(rgb)[0]
    if recipe.task == "polyp":
        target = (read_mask(case) > 0).astype(np.uint8)
    else:
        target = rimmed(objects_of(case), recipe.border)
    if target.shape != rgb.shape[:2]:
        raise DataError(f"image and mask of case {case.id} differ in size: {rgb.shape[:2]} and {target.shape}")
    if recipe.task == "polyp":
        grey, size = is_grey(rgb), recipe.size
        moved = np.stack([resize(one, size, "bilinear") for one in priors])
        return Item(resize(rgb, size, "bilinear"), moved, resize(target > 0, size, "nearest").astype(np.uint8), grey)
    return Item(rgb, priors, target, is_grey(rgb))


def objects_of(case: Case) -> Integer[np.ndarray, "h w"]:
    """A number for each object: of the mask that numbers them, else of the connected parts of the mask."""
    for name in ("instances", "nuclei", "glands"):
        if name in case.masks:
            return read_mask(case, name)
    return ndimage.label(read_mask(case) > 0)[0]


def rimmed(objects: Integer[np.ndarray, "h w"], border: int) -> UInt8[np.ndarray, "h w"]:
    """0 background, 1 object, 2 where anything else is within ``border`` px (Sec. 3.2)."""
    window = 2 * border + 1
    low, high = ndimage.minimum_filter(objects, window), ndimage.maximum_filter(objects, window)
    return np.where(objects > 0, np.where(low == high, 1, 2), 0).astype(np.uint8)


def shuffled(items: Sequence[Item], rng: np.random.Generator) -> list[Item]:
    """Every image with the priors of another, at its own size."""
    order = rng.permutation(len(items))
    other = dict(zip(order, np.roll(order, 1), strict=True))
    moved = []
    for place, item in enumerate(items):
        priors = np.stack([resize(one, item.rgb.shape[:2], "bilinear") for one in items[other[place]].priors])
        moved.append(replace(item, priors=priors))
    return moved


def draw(
    items: Sequence[Item], index: np.ndarray, recipe: SamaugRecipe, rng: np.random.Generator
) -> tuple[Float[Tensor, "b 3 s s"], Float[Tensor, "b 2 s s"], Float[Tensor, "b 1 s s"], Bool[Tensor, " b"]]:
    """Images in [0, 1], priors and targets; crops for nuclei and glands, all planes of an image alike."""
    windows = []
    for i in index:
        item = items[i]
        planes = np.concatenate([np.moveaxis(item.rgb, 2, 0) / np.float32(255), item.priors, item.target[None]])
        turned = recipe.task != "polyp" and recipe.turns
        windows.append(random_square(planes, recipe.size, rng) if turned else _corner(planes, recipe.size, rng))
    batch = torch.from_numpy(np.stack(windows).astype(np.float32))
    return batch[:, :3], batch[:, 3:5], batch[:, 5:], torch.tensor([items[i].grey for i in index])


def _corner(planes: Float[np.ndarray, "c h w"], size: int, rng: np.random.Generator) -> Float[np.ndarray, "c s s"]:
    top, left = (int(rng.integers(max(0, side - size) + 1)) for side in planes.shape[1:])
    window = planes[:, top : top + size, left : left + size]
    return np.pad(window, ((0, 0), *((0, size - side) for side in window.shape[1:])))


def scaled(
    x: Float[Tensor, "b 3 h w"], priors: Float[Tensor, "b 2 h w"], scale: float
) -> tuple[Float[Tensor, "b 3 h2 w2"], Float[Tensor, "b 2 h2 w2"]]:
    """At ``scale`` of the size, to the nearest multiple of 32 px."""
    if scale == 1:
        return x, priors
    side = max(32, round(x.shape[-1] * scale / 32) * 32)
    return tuple(F.interpolate(one, (side, side), mode="bilinear", align_corners=True) for one in (x, priors))  # type: ignore[return-value]


# ---- measures --------------------------------------------------------------------------------------------------------


def score(model: Samaug, case: Case, options: Mapping[str, Any]) -> Mapping[str, float]:
    """Polyps: Dice of the mask, and of the probabilities as HSNet's code has it. Nuclei and glands: AJI, pixel F1
    (which is Dice), object F1 and object Dice. All in percent."""
    found = model.predict(case.image, **options)
    truth = read_mask(case) > 0
    values = {"dice": 100 * dice(found.mask > 0, truth)}
    if found.instances is None:
        assert found.probability is not None
        p, y = found.probability, truth.astype(np.float32)
        soft = 100 * float((2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1))
        name = case.attributes.get("set")
        return {**values, "soft_dice": soft, **({f"dice_{name}": values["dice"]} if name else {})}
    table = overlaps(found.instances, objects_of(case))
    values |= {"aji": 100 * aji(table), "object_f1": 100 * object_f1(table), "object_dice": 100 * object_dice(table)}
    return {"pixel_f1": values.pop("dice"), **values}


POLYP = {
    "task": "polyp", "network": "hsnet", "pretrained": True, "inputs": "both", "size": 352,
    "scales": (0.75, 1.0, 1.25), "loss": "structure", "optimiser": "adamw", "lr": 1e-4, "weight_decay": 1e-4,
    "clip": 0.5, "batch_size": 8, "epochs": 99, "turns": False,
}  # fmt: skip
"""As HSNet's code stood when the paper was written, with Eq. 2 and the choice by entropy (Sec. 4.1)."""

RELEASED_POLYP = {
    **POLYP, "loss": "plain", "optimiser": "adam", "lr": 5e-5, "weight_decay": 0.0, "clip": 0.0, "decay_at": 20,
    "epochs": 39, "two_steps": True, "fuse_first": False, "boundary": "thick", "choice": "margin",
    "corners": False,
}  # fmt: skip
"""As the authors' own script has it."""

DEMO = {
    "features": (8, 16, 32, 32, 32, 8), "inputs": "both", "sam": "demo",
    "grid": Grid(points=16, quality=0.4, stability=0.6, overlap=0.5), "size": 128, "lr": 2e-3, "steps": 300,
    "dtype": "float16",
}  # fmt: skip

training = Training(
    recipe=SamaugRecipe,
    presets={
        "paper": {},
        "glands": {"task": "glands", "border": 3, "least": 200},
        "polyp": POLYP,
        "polyp-released": RELEASED_POLYP,
        "demo": DEMO,
    },
    run=train,
    split=Split((0.8, 0.0, 0.2)),
    score=score,
)
