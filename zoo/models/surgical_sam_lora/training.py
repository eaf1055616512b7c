"""How SurgicalSAM is trained (Sec. 6), and how it and the plain SAM are measured (Sec. 2)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from scipy import ndimage
from torch import Tensor

from zoo import media
from zoo.data.case import Case
from zoo.data.images import resize, rgb_bytes
from zoo.data.layouts.endovis18 import TYPES as ENDOVIS18
from zoo.data.sets import read_mask
from zoo.data.splits import Split
from zoo.errors import DataError
from zoo.metrics import dice, iou
from zoo.models.surgical_sam_lora.model import (
    PHANTOM,
    EncoderConfig,
    Method,
    SurgicalSam,
    SurgicalSamConfig,
)
from zoo.nn.promptable import DecoderConfig, Grid, add_mask_tokens, box_around, load_sam
from zoo.nn.promptable.frame import MEAN, STD
from zoo.training import Run, TrainData, Training
from zoo.training.stopping import EarlyStopping


@dataclass(frozen=True)
class SurgicalSamRecipe:
    """The paper's training; where the paper is silent, that of SAMed, which it follows."""

    method: Method = "lora"
    sam: str = "facebook/sam-vit-base"  # Sec. 6
    prompted: str = "facebook/sam-vit-huge"  # Sec. 2: for boxes, points and the grid; nothing of it is trained
    grid: Grid = field(default_factory=Grid)  # Sec. 5: SAM's own
    classes: tuple[str, ...] = ENDOVIS18
    image_size: int | None = field(default=512, metadata={"min": 32, "max": 4096})  # px, Sec. 6
    rank: int = field(default=4, metadata={"min": 1, "max": 1024})  # r, Sec. 6
    dice_weight: float = field(default=0.8, metadata={"min": 0.0, "max": 1.0})  # lambda, Eq. 2
    lr: float = field(default=1e-3, metadata={"min": 0.0, "max": 100.0})  # Sec. 6, AdamW
    weight_decay: float = field(default=0.1, metadata={"min": 0.0, "max": 100.0})  # Sec. 6
    batch_size: int = field(default=12, metadata={"min": 1, "max": 65_536})  # Sec. 6
    epochs: int = field(default=160, metadata={"min": 1, "max": 1_000_000})  # Sec. 6
    warmup: int = field(default=250, metadata={"min": 0, "max": 1_000_000})  # steps, Sec. 6
    decay: Literal["polynomial", "exponential"] = "polynomial"
    """After the warm-up. Sec. 6 says exponential, which is what SAMed calls its polynomial of degree 0.9;
    ``exponential`` falls to a hundredth at the end."""
    turn: float = field(default=20.0, metadata={"min": 0.0, "max": 180.0})  # degrees; not stated
    crop: float = field(default=0.75, metadata={"min": 0.1, "max": 1.0})  # smallest side that stays; not stated
    token_noise: float = field(default=0.02, metadata={"min": 0.0, "max": 10.0})  # of new mask tokens; not stated
    patience: int = field(default=160, metadata={"min": 1, "max": 1_000_000})  # epochs; not stated
    unet_features: tuple[int, ...] = field(default=(32, 32, 64, 128, 256, 32), metadata={"min": 1, "max": 4096})
    dtype: Literal["float32", "float16"] = "float32"  # of the saved weights


@dataclass(frozen=True)
class Item:
    """A frame in the network's square."""

    rgb: UInt8[np.ndarray, "s s 3"]
    mask: UInt8[np.ndarray, "s s"]


def train(recipe: SurgicalSamRecipe, data: TrainData, run: Run) -> SurgicalSam:
    """Train on ``data.train``, keep the epoch with the best instrument IoU on ``data.validation``.

    Raises ``DataError`` for a case without mask, or with values beyond the classes.
    """
    run.stage("training")
    model = build(recipe)
    items = [load(case, recipe.classes, model.side) for case in data.train]
    validation = [load(case, recipe.classes, model.side) for case in data.validation]
    fit(model, recipe, items, validation, run)
    return model.eval()


def build(recipe: SurgicalSamRecipe) -> SurgicalSam:
    """A model that starts from SAM's own decoder and default prompt, with updates of zero."""
    config = SurgicalSamConfig(
        method=recipe.method,
        sam=recipe.sam,
        image_size=recipe.image_size,
        prompted=recipe.prompted,
        grid=recipe.grid,
        classes=recipe.classes,
        rank=recipe.rank,
        unet_features=recipe.unet_features,
    )
    if recipe.method in ("u-net", "ternausnet"):
        return SurgicalSam(config)
    sam = load_sam(recipe.sam, needed_by="surgical-sam-lora", image_size=recipe.image_size)
    model = SurgicalSam(replace(config, encoder=EncoderConfig.of(sam), decoder=DecoderConfig.of(sam)))
    assert model.decoder is not None
    assert model.default is not None
    add_mask_tokens(sam.mask_decoder, len(recipe.classes) + 1, noise=recipe.token_noise)
    model.decoder.load_state_dict(sam.mask_decoder.state_dict())
    with torch.no_grad():
        model.default.copy_(sam.prompt_encoder.no_mask_embed.weight[0])
    return model


def fit(model: SurgicalSam, recipe: SurgicalSamRecipe, items: list[Item], validation: list[Item], run: Run) -> None:
    """The loop. What changes from step to step is drawn from the seed and the step alone."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    stopping = EarlyStopping(recipe.patience, module=model)
    net, optimizer = run.track(model=model, optimizer=optimizer)
    run.keep(stopping=stopping)
    batch = min(recipe.batch_size, len(items))
    per_epoch = max(1, len(items) // batch)
    steps = recipe.epochs * per_epoch
    for step in run.steps(steps, description=recipe.method):
        net.train()
        rng = run.generator("augment", step, run.accelerator.process_index)
        some = [augmented(items[i], recipe, rng) for i in run.indices(len(items), batch, step)]
        x, y = tensors(some, run.device)
        loss = loss_of(net(x), y, recipe.dice_weight)
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * rate(step, steps, recipe)
        optimizer.zero_grad()
        run.backward(loss)
        optimizer.step()
        run.log(loss=loss)
        if (step + 1) % per_epoch == 0 and validation:
            score = validation_iou(model, validation)
            run.log(validation_instrument_iou=score)
            if stopping.update(score):
                run.stop()
    stopping.restore()


def loss_of(logits: Float[Tensor, "b k m m"], y: Int[Tensor, "b s s"], dice_weight: float) -> Float[Tensor, ""]:
    """lambda L_Dice + (1 - lambda) L_CE (Eq. 2) on the decoder's own grid, labels by the nearest pixel, as in SAMed.

    Dice: of the softmax, squares in the denominator, of background and every class over the whole batch, averaged.
    """
    target = F.interpolate(y[:, None].float(), logits.shape[-2:], mode="nearest")[:, 0].long()
    p, t = logits.softmax(1), F.one_hot(target, logits.shape[1]).permute(0, 3, 1, 2).float()
    together = (p * t).sum((0, 2, 3))
    lost = 1 - (2 * together + 1e-5) / ((p * p).sum((0, 2, 3)) + (t * t).sum((0, 2, 3)) + 1e-5)
    return dice_weight * lost.mean() + (1 - dice_weight) * F.cross_entropy(logits, target)


def rate(step: int, steps: int, recipe: SurgicalSamRecipe) -> float:
    """Share of the initial rate: up in a line over the warm-up, then down."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    share = (step - recipe.warmup) / max(1, steps)
    return (1 - share) ** 0.9 if recipe.decay == "polynomial" else 0.01**share


def augmented(item: Item, recipe: SurgicalSamRecipe, rng: np.random.Generator) -> Item:
    """Flipped, turned and cropped at random (Sec. 6); what is turned in from outside is black and background."""
    side = len(item.mask)
    rgb, mask = item.rgb, item.mask
    for axis in (0, 1):
        if rng.random() < 0.5:
            rgb, mask = np.flip(rgb, axis), np.flip(mask, axis)
    angle = math.radians(rng.uniform(-recipe.turn, recipe.turn)) if rng.random() < 0.5 else 0.0
    share = rng.uniform(recipe.crop, 1)
    shift = rng.uniform(-1, 1, 2) * (1 - share) * side / 2
    turn = share * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    middle = np.full(2, (side - 1) / 2)
    offset = middle + shift - turn @ middle
    moved = [ndimage.affine_transform(rgb[..., c], turn, offset, order=1) for c in range(3)]
    return Item(np.stack(moved, axis=-1), ndimage.affine_transform(mask, turn, offset, order=0))


def tensors(items: Sequence[Item], device: torch.device | str) -> tuple[Float[Tensor, "b 3 s s"], Int[Tensor, "b s s"]]:
    """What the network takes, as ``model.pixels_of`` makes it of frames that are squares already; and the classes."""
    x = torch.from_numpy(np.stack([item.rgb for item in items])).to(device).permute(0, 3, 1, 2).float()
    x = (x - x.new_tensor(MEAN)[:, None, None]) / x.new_tensor(STD)[:, None, None]
    return x, torch.from_numpy(np.stack([item.mask for item in items])).to(device).long()


def load(case: Case, classes: Sequence[str], side: int) -> Item:
    """Squashed to the square. Raises ``DataError`` for a mask of another size or with values beyond the classes."""
    picture = media.read(case.image).require_2d("surgical-sam-lora")
    mask = read_mask(case)
    if mask.shape != picture.size:
        raise DataError(f"image and mask of case {case.id} differ in size: {picture.size} and {mask.shape}")
    if mask.max(initial=0) > len(classes):
        raise DataError(
            f"the mask of case {case.id} has the value {mask.max()}, but there are {len(classes)} classes: "
            f"{', '.join(classes)}; name them with --set classes=..."
        )
    small = resize(rgb_bytes(picture), side, "bilinear")
    return Item(small, resize(mask.astype(np.uint8), side, "nearest"))


# ---- measuring (Sec. 2) ----------------------------------------------------------------------------------------------


def instrument_scores(
    found: UInt8[np.ndarray, "h w"], truth: Int[np.ndarray, "h w"], classes: Sequence[str]
) -> dict[str, float]:
    """IoU and Dice of one frame in [0, 1], as in the EndoVis 2017 challenge.

    ``instrument``: mean over the classes that the frame's truth has; a class that is found and not there costs nothing
    by itself. ``binary``: any instrument. ``iou_<class>``: NaN where the frame doesn't have it.
    """
    scores: dict[str, float] = {}
    masks = [(found == value, truth == value) for value in range(1, len(classes) + 1)]
    for name, measure in (("iou", iou), ("dice", dice)):
        each = [measure(a, b) if b.any() else math.nan for a, b in masks]
        there = [value for value in each if math.isfinite(value)]
        scores[f"instrument_{name}"] = float(np.mean(there)) if there else math.nan
        scores[f"binary_{name}"] = measure(found > 0, truth > 0) if there else math.nan
    of_class = zip(classes, masks, strict=True)
    return {**scores, **{f"iou_{name}": iou(a, b) if b.any() else math.nan for name, (a, b) in of_class}}


@torch.no_grad()
def validation_iou(model: SurgicalSam, items: Sequence[Item], batch_size: int = 8) -> float:
    """Mean instrument IoU over the frames with an instrument, in the network's square."""
    model.eval()
    classes, scores = model.config.classes, []
    for start in range(0, len(items), batch_size):
        some = items[start : start + batch_size]
        x, y = tensors(some, model.device)
        found = F.interpolate(model(x), y.shape[-2:], mode="bilinear", align_corners=False).argmax(1)
        for one, item in zip(found.to(torch.uint8).cpu().numpy(), some, strict=True):
            scores.append(instrument_scores(one, item.mask.astype(np.int64), classes)["instrument_iou"])
    return float(np.nanmean(scores)) if np.isfinite(scores).any() else 0.0


def told(case: Case, mode: str, classes: Sequence[str]) -> dict[str, Any]:
    """Prompts for every instrument of a case with its class, from its masks (Sec. 2): the box around it or its centre.

    Instruments are those of the mask ``instances`` where the set has it, else connected regions of a class.
    """
    truth = read_mask(case)
    numbered = read_mask(case, "instances") if "instances" in case.masks else None
    prompts: list[tuple[float, ...]] = []
    labels: list[str] = []
    for value in range(1, len(classes) + 1):
        of_class = truth == value
        regions = ndimage.label(of_class)[0] if numbered is None else np.where(of_class, numbered, 0)
        for region in np.unique(regions[regions > 0]):
            inside = regions == region
            y, x = ndimage.center_of_mass(inside)
            box = box_around(inside)
            prompts.append((box.x0, box.y0, box.x1, box.y1) if mode == "box" else (float(x), float(y)))
            labels.append(classes[value - 1])
    return {mode: tuple(prompts), "label": tuple(labels)}


def score(model: SurgicalSam, case: Case, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """By class without prompts; with ``mode=box`` or ``mode=point`` the plain SAM, told every instrument's class."""
    classes, mode = model.config.classes, options.get("mode") or "auto"
    truth = read_mask(case).astype(np.int64)
    if mode == "amg":
        raise DataError("masks of all that can be told apart have no classes to measure; leave out mode=amg")
    given = told(case, mode, classes) if mode in ("box", "point") else {}
    if mode != "auto" and not given["label"]:
        found = np.zeros(truth.shape, np.uint8)  # nothing to ask for
    else:
        answer = model.predict(case.image, **{**given, **options})
        place = np.array([0, *(1 + classes.index(name) for name in answer.labels[1:])], dtype=np.uint8)
        found = place[answer.mask]
    return instrument_scores(found, truth, classes)


DEMO = {
    "sam": "demo", "prompted": "demo", "image_size": 192, "classes": PHANTOM, "epochs": 11, "batch_size": 4, "lr": 2e-3,
    "warmup": 50, "dtype": "float16",
    "grid": Grid(points=16, quality=0.4, stability=0.6, overlap=0.6),  # the small SAM expects little of its masks
}  # fmt: skip

training = Training(
    recipe=SurgicalSamRecipe,
    presets={"paper": {}, "demo": DEMO},
    run=train,
    split=Split((0.8, 0.1, 0.1)),
    score=score,
)
