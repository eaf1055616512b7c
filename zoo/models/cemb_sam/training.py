"""How CEmb-SAM is trained: block and mask decoder, on the features of a frozen SAM, from boxes (Sec. 2 and 3).

``recipe="paper"`` follows the text, ``"released"`` the authors' code where it differs (``READINGS``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo.data.case import Case
from zoo.data.features import FeatureCache
from zoo.data.images import resize
from zoo.data.sets import read_mask
from zoo.data.splits import Split
from zoo.metrics import dice
from zoo.metrics.pixels import counts
from zoo.models.cemb_sam import plugin
from zoo.models.cemb_sam.block import Reading
from zoo.models.cemb_sam.condition import around_box, as_shares, fit_head
from zoo.models.cemb_sam.data import Item, box_of, condition_of, conditions_of, load, loose_box, loosened
from zoo.models.cemb_sam.model import CEmbSam, CEmbSamConfig, Method
from zoo.nn.losses import dice_bce
from zoo.nn.promptable import Box, DecoderConfig, Promptable, encode_prompts, load_sam
from zoo.nn.promptable.frame import Frame, Tensors
from zoo.seeds import derive_seed
from zoo.training import Run, TrainData, Training
from zoo.training.stopping import EarlyStopping


@dataclass(frozen=True)
class CEmbSamRecipe:
    """The paper's training, and the arms it is compared with."""

    recipe: Reading = "paper"
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
    leans: bool = False
    """Let the frozen SAM's own logits count beside the decoder's, as much as the validation cases allow, so that an
    answer isn't worse than SAM's where the decoder learnt little; not in the paper."""
    infers: bool = True  # train, after all else, a head that infers the condition; not in the paper
    lr: float = field(default=3e-4, metadata={"min": 0.0, "max": 100.0})  # Sec. 3.2, Adam
    epochs: int = field(default=100, metadata={"min": 1, "max": 1_000_000})  # not stated
    batch_size: int = field(default=16, metadata={"min": 1, "max": 65_536})  # not stated
    jitter: int = field(default=10, metadata={"min": 0, "max": 64})  # px of the working square; Sec. 3.2
    weight_decay: float = field(default=0.0, metadata={"min": 0.0, "max": 100.0})  # not stated
    # what is added to both parts of the Dice; not stated
    smooth: float = field(default=1.0, metadata={"min": 0.0, "max": 1e6})
    soft_masks: bool = False  # masks are brought to the working square bilinearly, so that their edges stay soft
    empty_box: Literal["image", "centre"] = "image"
    """The box of an image with nothing to find; not stated. ``centre``: a point in the middle, loosened as all are."""
    keep: Literal["best", "last"] = "best"
    """``best``: of all epochs, by validation Dice, and stop after ``patience`` epochs without a better one; not stated.
    ``last``: the rate falls and the training stops by the loss of the cut mask, seen every two epochs (``Plateau``)."""
    patience: int = field(default=20, metadata={"min": 1, "max": 1_000_000})
    unet_features: tuple[int, ...] = field(default=(32, 32, 64, 128, 256, 32), metadata={"min": 1, "max": 4096})
    dtype: Literal["float32", "float16"] = "float32"  # of the saved weights


def train(recipe: CEmbSamRecipe, data: TrainData, run: Run) -> CEmbSam:
    """Train on ``data.train``, keep the epoch with the best mean Dice on ``data.validation``.

    Raises ``DataError`` for a case without mask or sub-group.
    """
    names = recipe.conditions or conditions_of([*data.train, *data.validation])
    run.stage("training")
    model = build(recipe, names)
    train_items = [load(case, model.config, soft=recipe.soft_masks) for case in data.train]
    validation = [load(case, model.config, soft=recipe.soft_masks) for case in data.validation]
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
    if recipe.leans and recipe.method == "cemb-sam":
        model.config = replace(model.config, sam_share=best_share(model, validation))
    if model.head is not None:
        run.stage("condition")
        views = views_of(model, train_items, recipe, run.generator("boxes"))
        fit_head(model.head, views, views_of(model, validation, recipe, run.generator("boxes of validation")), run)
    if recipe.method != "u-net":
        model.base = Promptable(model.base.sam)  # what it predicts from here on rests on no halved features
    return model.eval()


def build(recipe: CEmbSamRecipe, names: Sequence[str]) -> CEmbSam:
    """A model with a new block and SAM's own decoder."""
    config = CEmbSamConfig(
        method=recipe.method,
        sam=recipe.sam,
        image_size=recipe.image_size,
        working_size=recipe.working_size,
        conditions=tuple(names),
        reading=recipe.recipe,
        infers=recipe.infers and recipe.method == "cemb-sam" and len(names) > 1,
        threshold=RELEASED_THRESHOLD if recipe.recipe == "released" else 0.5,
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
    trained = [p for name, p in model.named_parameters() if not name.startswith("head.")]
    adam = torch.optim.Adam(trained, lr=recipe.lr, weight_decay=recipe.weight_decay)
    net, adam = run.track(model=model, adam=adam)
    stopping = EarlyStopping(recipe.patience, module=model) if recipe.keep == "best" else Plateau(adam)
    run.keep(stopping=stopping)
    batch = min(recipe.batch_size, len(items))
    per_epoch = max(1, len(items) // batch)
    for step in run.steps(recipe.epochs * per_epoch, description=recipe.method):
        net.train()
        index = run.indices(len(items), batch, step)
        rng = run.generator("jitter", step, run.accelerator.process_index)
        loss = loss_of(model, [items[i] for i in index], recipe, rng, net=net)
        adam.zero_grad()
        run.backward(loss)
        adam.step()
        run.log(loss=loss)
        epoch, ended = divmod(step + 1, per_epoch)
        if ended or not validation or (recipe.keep == "last" and epoch % 2 == 0):
            continue
        if recipe.keep == "best":
            score = validation_dice(model, validation)
            run.log(validation_dice=score)
        else:
            score = cut_loss(model, validation, recipe, run.generator("validation", epoch))
            run.log(validation_loss=score)
        if stopping.update(score):
            run.stop()
    stopping.restore()


class Plateau(EarlyStopping):
    """As released: after 4 looks without a lower loss the rate falls to a hundredth, after 5 the training stops.

    What is tested is the network of the last epoch.
    """

    def __init__(self, adam: Any) -> None:
        super().__init__(5, maximise=False, min_delta=1e-3)
        self.schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            getattr(adam, "optimizer", adam), factor=0.01, patience=3
        )

    def update(self, value: float) -> bool:
        self.schedule.step(value)
        return super().update(value)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "schedule": self.schedule.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.schedule.load_state_dict(state["schedule"])


def loss_of(
    model: CEmbSam, items: list[Item], recipe: CEmbSamRecipe, rng: np.random.Generator, *, net: nn.Module | None = None
) -> Float[Tensor, ""]:
    """Dice and binary cross-entropy, one to one, on the decoder's own grid (Sec. 2.3); boxes are loosened anew.

    ``net``: the model as it was wrapped for several processes; the loss must go through it.
    """
    logits = logits_of(model, items, [loose_box(item, recipe.jitter, recipe.empty_box, rng) for item in items], net=net)
    return dice_bce(logits, targets_of(items, logits), squared=True, smooth=recipe.smooth)


def targets_of(items: Sequence[Item], like: Float[Tensor, "b 1 m m"]) -> Float[Tensor, "b 1 m m"]:
    """The masks at the size of the logits; soft ones bilinearly."""
    side = like.shape[-1]
    made = [
        resize(item.mask, side, "nearest").astype(np.float32) if item.target is item.mask
        else resize(item.target, side, "bilinear")
        for item in items
    ]  # fmt: skip
    return torch.from_numpy(np.stack(made))[:, None].to(like.device)


@torch.no_grad()
def cut_loss(model: CEmbSam, items: list[Item], recipe: CEmbSamRecipe, rng: np.random.Generator) -> float:
    """As released: the training's loss of the mask, cut at a logit of 0.5, as if its zeros and ones were logits."""
    losses = []
    for start in range(0, len(items), recipe.batch_size):
        part = items[start : start + recipe.batch_size]
        logits = logits_of(model, part, [loose_box(item, recipe.jitter, recipe.empty_box, rng) for item in part])
        cut = (logits > 0.5).float()
        losses.append(float(dice_bce(cut, targets_of(part, cut), squared=True, smooth=recipe.smooth)))
    return float(np.mean(losses))


def logits_of(
    model: CEmbSam, items: Sequence[Item], boxes: Sequence[Box], *, net: nn.Module | None = None
) -> Float[Tensor, "b 1 m m"]:
    """Low-resolution logits of one object for each item; ``boxes`` in pixels of the working square."""
    net = model if net is None else net
    if model.unet is not None:
        x = torch.from_numpy(np.stack([item.grey for item in items]))[:, None].to(model.device) / 255
        return net(x, None, None)[0]
    base = model.base
    images = [model.embed(item.grey) for item in items]
    frame: Frame = images[0].frame
    corners = torch.tensor([[[b.x0, b.y0], [b.x1, b.y1]] for b in boxes], dtype=torch.float32, device=model.device)
    prompts = encode_prompts(base.sam, Tensors(boxes=frame.into(corners).reshape(1, len(boxes), 4)))
    features = torch.cat([image.features for image in images])
    condition = torch.tensor([item.condition for item in items], device=model.device)
    return net(features, prompts, condition)[0]


DRAWS = 4


@torch.no_grad()
def views_of(
    model: CEmbSam, items: Sequence[Item], recipe: CEmbSamRecipe, rng: np.random.Generator
) -> tuple[Float[Tensor, "n v"], Int[Tensor, " n"]]:
    """What the head sees of images with objects, each in ``DRAWS`` loosened boxes; and their conditions."""
    found = [item for item in items if item.mask.any()] * DRAWS
    if not found:
        return torch.zeros(0, 0), torch.zeros(0, dtype=torch.long)
    boxes = [loosened(box_of(item.mask), recipe.jitter, item.mask.shape, rng) for item in found]
    shares = as_shares([(b.x0, b.y0, b.x1, b.y1) for b in boxes], found[0].mask.shape).to(model.device)
    views = [around_box(model.embed(item.grey).features, box[None]) for item, box in zip(found, shares, strict=True)]
    return torch.cat(views), torch.tensor([item.condition for item in found], device=model.device)


def validation_dice(model: CEmbSam, items: Sequence[Item]) -> float:
    """Mean Dice over the cases that have something to find."""
    scores = dice_of(model, [item for item in items if item.mask.any()])
    model.train()
    return float(np.mean(scores)) if len(scores) else 0.0


def dice_of(model: CEmbSam, items: Sequence[Item], batch_size: int = 1) -> Float[np.ndarray, " n"]:
    """Dice of every case in the working square, box as annotated. The model is left in eval mode."""
    found = full_logits(model, items, batch_size)
    return np.array([dice(one > 0, item.mask) for one, item in zip(found, items, strict=True)])


@torch.no_grad()
def full_logits(model: CEmbSam, items: Sequence[Item], batch_size: int = 1) -> list[Float[np.ndarray, "s s"]]:
    """Logits of every case in the working square, box as annotated. The model is left in eval mode."""
    model.eval()
    found: list[np.ndarray] = []
    for start in range(0, len(items), batch_size):
        part = items[start : start + batch_size]
        logits = logits_of(model, part, [box_of(item.mask) for item in part])
        found += [*F.interpolate(logits, part[0].mask.shape, mode="bilinear", align_corners=False)[:, 0].cpu().numpy()]
    return found


SHARES, COST = (0.0, 0.25, 0.5), 0.005


@torch.no_grad()
def best_share(model: CEmbSam, items: Sequence[Item]) -> float:
    """How much SAM's own logits are to count: as much as costs at most ``COST`` of the mean Dice of lesions."""
    if not (found := [item for item in items if item.mask.any()]):
        return 0.0
    frozen = CEmbSam(replace(model.config, method="decoder-only", infers=False)).to(model.device)
    assert frozen.decoder is not None
    frozen.decoder.load_state_dict(model.base.sam.mask_decoder.state_dict())
    frozen.base = model.base
    pairs = list(
        zip(*(full_logits(each, found) for each in (model, frozen)), [item.mask for item in found], strict=True)
    )
    scores = [float(np.mean([dice(own + s * (sam - own) > 0, mask) for own, sam, mask in pairs])) for s in SHARES]
    return max(share for share, score in zip(SHARES, scores, strict=True) if score >= max(scores) - COST)


def told(case: Case) -> dict[str, Any]:
    """What the network is told of a case when it is measured: the box around its mask, and its sub-group."""
    box = box_of(read_mask(case) > 0)
    return {"box": ((box.x0, box.y0, box.x1, box.y1),), "condition": condition_of(case)}


def score(model: CEmbSam, case: Case, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Dice and pixel accuracy, in percent as the paper reports them; Dice also by sub-group and of all pixels together.

    As released, also from a loosened box: the authors' code loosens boxes in its test, too.
    """
    asked = {**told(case), **options}
    found = model.predict(case.image, **asked).mask > 0
    truth = read_mask(case) > 0
    values = {"dsc": 100 * dice(found, truth), "pixel_accuracy": 100 * float((found == truth).mean())}
    if truth.any():
        values["dsc_of_lesions"] = values["dsc"]
    if truth.any() and model.config.reading == "released":
        jitter = READINGS["released"]["jitter"] * max(truth.shape) / model.config.working_size
        box = loosened(box_of(truth), round(jitter), truth.shape, np.random.default_rng(derive_seed(0, case.id)))
        loose = model.predict(case.image, **{**asked, "box": ((box.x0, box.y0, box.x1, box.y1),)})
        values["dsc_of_loosened_boxes"] = 100 * dice(loose.mask > 0, truth)
    table = counts(found.astype(int), truth.astype(int), 2)
    return {
        **values,
        f"dsc_{condition_of(case)}": values["dsc"],
        "counts": table.tolist(),
        "labels": list(plugin.labels),
    }


DEMO = {"sam": "demo", "leans": True, "lr": 1e-3, "epochs": 20, "batch_size": 16, "patience": 8, "dtype": "float16"}

RELEASED_THRESHOLD = 1 / (1 + math.exp(-0.5))  # logits are cut at 0.5
READINGS = {  # their train.py and dataset.py; the block and the encoder's input go by ``recipe`` itself
    "released": {"batch_size": 8, "weight_decay": 1e-3, "jitter": 9, "smooth": 1e-5, "soft_masks": True,
                 "empty_box": "centre", "keep": "last"},
}  # fmt: skip

training = Training(
    recipe=CEmbSamRecipe,
    presets={"paper": {}, "demo": DEMO},
    readings=READINGS,
    run=train,
    split=Split((0.64, 0.16, 0.20)),  # Sec. 3.2
    score=score,
)
