"""How CEmb-SAM is trained: block and mask decoder, on the features of a frozen SAM, from boxes (Sec. 2 and 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from zoo import media
from zoo.data.case import Case
from zoo.data.features import FeatureCache
from zoo.data.images import resize
from zoo.data.sets import read_mask
from zoo.data.splits import Split
from zoo.errors import DataError
from zoo.metrics import dice
from zoo.models.cemb_sam.model import BUSI, CEmbSam, CEmbSamConfig, DecoderConfig, Method, working_image
from zoo.nn.losses import dice_bce
from zoo.nn.promptable import Box, Promptable, box_around, encode_prompts, load_sam
from zoo.nn.promptable.frame import Frame, Tensors
from zoo.training import Run, TrainData, Training
from zoo.training.stopping import EarlyStopping


@dataclass(frozen=True)
class CEmbSamRecipe:
    """The paper's training, and the arms it is compared with."""

    method: Method = "cemb-sam"
    sam: str = "facebook/sam-vit-base"  # Sec. 3.2
    image_size: int | None = field(default=None, metadata={"min": 16, "max": 4096})
    # px; every image is brought to this square, Sec. 3.2
    working_size: int = field(default=256, metadata={"min": 32, "max": 8192})
    conditions: tuple[str, ...] = ()
    """Names of the sub-groups in the order of their numbers; none: those that the training cases state."""
    shuffle_conditions: bool = False  # every case gets another's condition: a control that isn't in the paper
    gamma_offset: float = field(default=1.0, metadata={"min": -100.0, "max": 100.0})
    residual: bool = False
    lr: float = field(default=3e-4, metadata={"min": 0.0, "max": 100.0})  # Sec. 3.2, Adam
    epochs: int = field(default=100, metadata={"min": 1, "max": 1_000_000})  # not stated
    batch_size: int = field(default=16, metadata={"min": 1, "max": 65_536})  # not stated
    jitter: int = field(default=10, metadata={"min": 0, "max": 64})  # px of the working square; Sec. 3.2
    # epochs without a better validation Dice; not stated
    patience: int = field(default=20, metadata={"min": 1, "max": 1_000_000})
    unet_features: tuple[int, ...] = field(default=(32, 32, 64, 128, 256, 32), metadata={"min": 1, "max": 4096})
    dtype: Literal["float32", "float16"] = "float32"  # of the saved weights


@dataclass(frozen=True)
class Item:
    """A case in the working square."""

    grey: Float[np.ndarray, "s s"]
    mask: Bool[np.ndarray, "s s"]
    condition: int
    id: str


def train(recipe: CEmbSamRecipe, data: TrainData, run: Run) -> CEmbSam:
    """Train on ``data.train``, keep the epoch with the best mean Dice on ``data.validation``.

    Raises ``DataError`` for a case without mask or sub-group.
    """
    names = recipe.conditions or conditions_of([*data.train, *data.validation])
    run.stage("training")
    model = build(recipe, names)
    side = model.config.working_size
    train_items = [load(case, names, side) for case in data.train]
    validation = [load(case, names, side) for case in data.validation]
    if recipe.shuffle_conditions:
        order = run.generator("conditions").permutation(len(train_items))
        moved = [train_items[i].condition for i in order]
        train_items = [replace(item, condition=c) for item, c in zip(train_items, moved, strict=True)]
    if recipe.method == "zero-shot":
        return model.eval()
    if recipe.method != "u-net":
        cache = FeatureCache(run.out / "embeddings" if run.out is not None else None, half=True)
        model.base = Promptable(model.base.sam, cache=cache)
    fit(model, recipe, train_items, validation, run)
    return model.eval()


def build(recipe: CEmbSamRecipe, names: Sequence[str]) -> CEmbSam:
    """A model with a new block and SAM's own decoder."""
    config = CEmbSamConfig(
        method=recipe.method,
        sam=recipe.sam,
        image_size=recipe.image_size,
        working_size=recipe.working_size,
        conditions=tuple(names),
        gamma_offset=recipe.gamma_offset,
        residual=recipe.residual,
        unet_features=recipe.unet_features,
    )
    if recipe.method == "u-net":
        return CEmbSam(config)
    sam = load_sam(recipe.sam, needed_by="cemb-sam", image_size=recipe.image_size)
    model = CEmbSam(replace(config, decoder=DecoderConfig.of(sam)))
    assert model.decoder is not None
    model.decoder.load_state_dict(sam.mask_decoder.state_dict())
    model.base = Promptable(sam)
    return model


def fit(model: CEmbSam, recipe: CEmbSamRecipe, items: list[Item], validation: list[Item], run: Run) -> None:
    """The loop. What changes from step to step is drawn from the seed and the step alone."""
    adam = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=recipe.lr)
    net, adam = run.track(model=model, adam=adam)
    stopping = EarlyStopping(recipe.patience, module=model)
    run.keep(stopping=stopping)
    batch = min(recipe.batch_size, len(items))
    per_epoch = max(1, len(items) // batch)
    for step in run.steps(recipe.epochs * per_epoch, description=recipe.method):
        net.train()
        index = run.indices(len(items), batch, step)
        rng = run.generator("jitter", step, run.accelerator.process_index)
        loss = loss_of(model, [items[i] for i in index], recipe, rng)
        adam.zero_grad()
        run.backward(loss)
        adam.step()
        run.log(loss=loss)
        if (step + 1) % per_epoch == 0 and validation:
            score = validation_dice(model, validation)
            run.log(validation_dice=score)
            if stopping.update(score):
                run.stop()
    stopping.restore()


def loss_of(model: CEmbSam, items: list[Item], recipe: CEmbSamRecipe, rng: np.random.Generator) -> Float[Tensor, ""]:
    """Dice and binary cross-entropy, one to one, on the decoder's own grid (Sec. 2.3); boxes are loosened anew."""
    logits = logits_of(
        model, items, [loosened(box_of(item.mask), recipe.jitter, item.mask.shape, rng) for item in items]
    )
    side = logits.shape[-1]
    truth = np.stack([resize(item.mask, side, "nearest") for item in items]).astype(np.float32)
    return dice_bce(logits, torch.from_numpy(truth)[:, None].to(logits.device), squared=True)


def logits_of(model: CEmbSam, items: Sequence[Item], boxes: Sequence[Box]) -> Float[Tensor, "b 1 m m"]:
    """Low-resolution logits of one object for each item; ``boxes`` in pixels of the working square."""
    if model.unet is not None:
        x = torch.from_numpy(np.stack([item.grey for item in items]))[:, None].to(model.device) / 255
        return model.unet(x)
    base = model.base
    images = [base.embed(np.repeat(item.grey[..., None], 3, axis=2)) for item in items]
    frame: Frame = images[0].frame
    corners = torch.tensor([[[b.x0, b.y0], [b.x1, b.y1]] for b in boxes], dtype=torch.float32, device=model.device)
    prompts = encode_prompts(base.sam, Tensors(boxes=frame.into(corners).reshape(1, len(boxes), 4)))
    features = torch.cat([image.features for image in images])
    condition = torch.tensor([item.condition for item in items], device=model.device)
    return model(features, prompts, condition)[0]


def validation_dice(model: CEmbSam, items: Sequence[Item]) -> float:
    """Mean Dice over the cases that have something to find."""
    scores = dice_of(model, [item for item in items if item.mask.any()])
    model.train()
    return float(np.mean(scores)) if len(scores) else 0.0


@torch.no_grad()
def dice_of(model: CEmbSam, items: Sequence[Item], batch_size: int = 1) -> Float[np.ndarray, " n"]:
    """Dice of every case in the working square, box as annotated. The model is left in eval mode."""
    model.eval()
    scores = []
    for start in range(0, len(items), batch_size):
        part = items[start : start + batch_size]
        logits = logits_of(model, part, [box_of(item.mask) for item in part])
        full = torch.nn.functional.interpolate(logits, part[0].mask.shape, mode="bilinear", align_corners=False)
        scores += [dice(found, item.mask) for found, item in zip((full[:, 0] > 0).cpu().numpy(), part, strict=True)]
    return np.array(scores)


def box_of(mask: Bool[np.ndarray, "h w"]) -> Box:
    """Around the mask; the whole image where there is nothing, as BUSI's normal images have it."""
    return box_around(mask) if mask.any() else Box(0, 0, mask.shape[1], mask.shape[0])


def loosened(box: Box, jitter: int, size: tuple[int, ...], rng: np.random.Generator) -> Box:
    """Each side moved outwards by 0 to ``jitter`` px, within the image (Sec. 3.2)."""
    x0, y0, x1, y1 = map(int, rng.integers(0, jitter + 1, 4))
    return Box(max(0, box.x0 - x0), max(0, box.y0 - y0), min(size[1], box.x1 + x1), min(size[0], box.y1 + y1))


def conditions_of(cases: Sequence[Case]) -> tuple[str, ...]:
    """The sub-groups that cases state; BUSI's in its own order. Raises ``DataError`` when one states none."""
    found = sorted({condition_of(case) for case in cases})
    return tuple(BUSI) if set(found) <= set(BUSI) else tuple(found)


def condition_of(case: Case) -> str:
    """The attribute ``condition`` of a case, else its label. Raises ``DataError``."""
    value = case.attributes.get("condition", case.label)
    if value in (None, ""):
        raise DataError(
            f"case {case.id} states no sub-group; cemb-sam needs a column 'condition' or a label for every case"
        )
    return str(value)


def load(case: Case, names: Sequence[str], side: int) -> Item:
    """Raises ``DataError`` for a case without mask, of an unknown sub-group, or whose mask has another size."""
    picture = media.read(case.image).require_2d("cemb-sam")
    mask = read_mask(case) > 0
    if mask.shape != picture.size:
        raise DataError(f"image and mask of case {case.id} differ in size: {picture.size} and {mask.shape}")
    name = condition_of(case)
    if name not in names:
        raise DataError(f"case {case.id} is of the sub-group {name!r}, which is none of {', '.join(names)}")
    return Item(working_image(picture, side), resize(mask, side, "nearest"), names.index(name), case.id)


def told(case: Case) -> dict[str, Any]:
    """What the network is told of a case when it is measured: the box around its mask, and its sub-group."""
    box = box_of(read_mask(case) > 0)
    return {"box": ((box.x0, box.y0, box.x1, box.y1),), "condition": condition_of(case)}


def score(model: CEmbSam, case: Case, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Dice and pixel accuracy, in percent as the paper reports them; Dice also by sub-group."""
    found = model.predict(case.image, **{**told(case), **options}).mask > 0
    truth = read_mask(case) > 0
    values = {"dsc": 100 * dice(found, truth), "pixel_accuracy": 100 * float((found == truth).mean())}
    if truth.any():
        values["dsc_of_lesions"] = values["dsc"]
    return {**values, f"dsc_{condition_of(case)}": values["dsc"]}


DEMO = {
    "sam": "demo",
    "lr": 1e-3,
    "epochs": 30,
    "batch_size": 16,
    "patience": 10,
    "dtype": "float16",
}

training = Training(
    recipe=CEmbSamRecipe,
    presets={"paper": {}, "demo": DEMO},
    run=train,
    split=Split((0.64, 0.16, 0.20)),  # Sec. 3.2
    score=score,
)
