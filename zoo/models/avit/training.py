"""How AViT is trained (Sec. 3): all that is new and the layer norms, by Dice and cross-entropy; the rest is frozen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from zoo import media
from zoo.data.augment import warped
from zoo.data.case import Case
from zoo.data.images import IMAGENET_MEAN, IMAGENET_STD, normalise, resize
from zoo.data.sets import read_mask
from zoo.data.splits import Split
from zoo.errors import DataError
from zoo.metrics import segmentation_scores
from zoo.metrics.pixels import by_several, counts
from zoo.models.avit.data import pretrain
from zoo.models.avit.model import TINY, Avit, AvitConfig, bare, digest, public, shape_of, view_of
from zoo.models.avit.network import TINY_SHAPE, Method, Shape
from zoo.nn.backbones import normalisation, timm_network
from zoo.training import EarlyStopping, Run, TrainData, Training

RESNET = "resnet34.tv_in1k"  # the authors' code; the paper names no weights
FIVE = 5  # images that the authors' code measures together


@dataclass(frozen=True)
class Augment:
    """Each with probability 1/2; the authors' code has albumentations' defaults, the paper states no sizes."""

    shift: float = field(default=0.0625, metadata={"min": 0.0, "max": 1.0})  # of the side
    scale: float = field(default=0.1, metadata={"min": 0.0, "max": 0.9})
    turn: float = field(default=45.0, metadata={"min": 0.0, "max": 180.0})  # degrees
    noise: tuple[float, float] = field(default=(10.0, 50.0), metadata={"min": 0.0, "max": 65_025.0})  # variance of 255
    light: float = field(default=0.2, metadata={"min": 0.0, "max": 1.0})  # brightness and contrast


@dataclass(frozen=True)
class AvitRecipe:
    """The paper's training; where it is silent, the authors' code."""

    recipe: Literal["paper", "released"] = "paper"
    method: Method = "avit"
    backbone: str = "vit_base_patch16_224.augreg_in21k"  # Sec. 3 says ViT-B/16 on ImageNet-21k
    pretrained: bool = True
    tiny: Shape = TINY_SHAPE  # of backbone=tiny
    pretext_steps: int = field(default=600, metadata={"min": 0, "max": 10_000_000})  # of backbone=tiny
    pretext_batch: int = field(default=32, metadata={"min": 2, "max": 65_536})
    pretext_lr: float = field(default=1e-3, metadata={"min": 0.0, "max": 100.0})
    normalisation: Literal["imagenet", "backbone"] = "imagenet"  # the authors' code, for every backbone
    size: int = field(default=224, metadata={"min": 32, "max": 1024})  # Sec. 3
    first: int | None = field(default=None, metadata={"min": 32, "max": 4096})
    reduction: int = field(default=4, metadata={"min": 1, "max": 1024})  # r, Sec. 3
    skip: bool = True
    tokens: int = field(default=100, metadata={"min": 1, "max": 10_000})  # of VPT, Sec. 3
    prompt_width: int = field(default=64, metadata={"min": 4, "max": 4096})  # Sec. 2.2: ResNet-34's first stage
    prompt_blocks: int = field(default=3, metadata={"min": 1, "max": 64})
    rates: tuple[int, ...] = field(default=(6, 12, 18), metadata={"min": 1, "max": 64})
    channels: int = field(default=256, metadata={"min": 4, "max": 4096})  # of ASPP, Sec. 3
    head: int = field(default=64, metadata={"min": 4, "max": 4096})
    drop_path: float = field(default=0.2, metadata={"min": 0.0, "max": 0.9})
    lr: float = field(default=1e-4, metadata={"min": 0.0, "max": 100.0})  # Sec. 3
    decay: float = field(default=0.5, metadata={"min": 0.0, "max": 1.0})  # Sec. 3: gamma, of the rate
    decay_every: int = field(default=50, metadata={"min": 1, "max": 1_000_000})  # epochs, Sec. 3
    weight_decay: float = field(default=0.05, metadata={"min": 0.0, "max": 100.0})  # the authors' code
    batch_size: int = field(default=16, metadata={"min": 2, "max": 65_536})  # Sec. 3
    epochs: int = field(default=200, metadata={"min": 1, "max": 1_000_000})  # Sec. 3
    augment: Augment = Augment()
    choose: Literal["last", "test"] = "last"
    """Which epoch is kept. ``test``: that with the best IoU on the fold that is reported, as the authors' code has it;
    what is reported is then too good."""
    folds: int = field(default=5, metadata={"min": 2, "max": 100})  # Sec. 3
    fold: int = field(default=0, metadata={"min": 0, "max": 99})  # the one to test on, from 0
    dtype: Literal["float32", "float16"] = "float32"  # of the saved weights


@dataclass(frozen=True)
class Items:
    """Views as the network sees them and their masks, in memory."""

    views: UInt8[np.ndarray, "n s s 3"]
    masks: UInt8[np.ndarray, "n s s"]  # 0 or 1

    def __len__(self) -> int:
        return len(self.views)


def train(recipe: AvitRecipe, data: TrainData, run: Run) -> Avit:
    """Train on ``data.train``. Raises ``DataError`` for a case without a mask, ``WeightsError`` for no backbone."""
    model = build(recipe, run)
    items = load(data.train, model.config)
    return fit(recipe, model, items, load(data.test, model.config) if recipe.choose == "test" else None, run)


def build(recipe: AvitRecipe, run: Run) -> Avit:
    """The model that training starts from: on a public backbone, or on a tiny ViT that is pretrained here."""
    run.stage("transformer")
    commit = stated = ""
    if recipe.backbone == TINY:
        vit = bare(TINY, recipe.tiny, recipe.size)
    elif recipe.pretrained:
        vit, commit = public(recipe.backbone, recipe.size)
        stated = digest(vit)
    else:
        vit = bare(recipe.backbone, recipe.tiny, recipe.size)
    if recipe.backbone == TINY and recipe.pretrained and recipe.pretext_steps:
        pretrain(vit, recipe.size, recipe.pretext_steps, recipe.pretext_batch, recipe.pretext_lr, run)
    return assembled(recipe, vit, run, commit, stated)


def assembled(recipe: AvitRecipe, vit: nn.Module, run: Run, commit: str = "", stated: str = "") -> Avit:
    """The model around a transformer, at the start of its training; ``vit`` itself isn't changed."""
    run.stage("segmentation")
    same = ("backbone", "method", "size", "first", "reduction", "skip", "tokens", "prompt_width", "prompt_blocks",
            "rates", "channels", "head", "drop_path")  # fmt: skip
    config = AvitConfig(
        **{name: getattr(recipe, name) for name in same}, commit=commit, digest=stated,
        shape=shape_of(vit, recipe.backbone),
    )  # fmt: skip
    own = recipe.normalisation == "backbone" and recipe.backbone != TINY
    mean, std = normalisation(recipe.backbone) if own else (IMAGENET_MEAN, IMAGENET_STD)
    model = Avit(replace(config, mean=(mean[0], mean[1], mean[2]), std=(std[0], std[1], std[2])))
    if model.vit is None:
        model.attach(vit, start=True)
    else:
        model.vit.load_state_dict(vit.state_dict())
    if model.prompt is not None and recipe.pretrained and recipe.backbone != TINY:
        stem = timm_network(RESNET, needed_by="avit", pretrained=True)
        model.prompt.load_state_dict({name: stem.state_dict()[name] for name in model.prompt.state_dict()})
    return model


def fit(recipe: AvitRecipe, model: Avit, items: Items, test: Items | None, run: Run) -> Avit:
    """The loop. Raises ``DataError`` for fewer than two images: batch norm of the pooled branch needs them."""
    if len(items) < 2:
        raise DataError("avit needs at least two images to train on")
    tuned = [one for one in model.parameters() if one.requires_grad]
    adamw = torch.optim.AdamW(tuned, lr=recipe.lr, weight_decay=recipe.weight_decay)
    net, adamw = run.track(model=model, adamw=adamw)
    best = EarlyStopping(recipe.epochs + 1, module=model)
    run.keep(best=best)
    batch = min(recipe.batch_size, len(items))
    per_epoch = len(items) // batch  # what is left of an epoch is dropped
    for step in run.steps(recipe.epochs * per_epoch, description=recipe.method):
        net.train()
        epoch, place = divmod(step, per_epoch)
        adamw.param_groups[0]["lr"] = recipe.lr * recipe.decay ** (epoch // recipe.decay_every)
        index = run.indices(len(items), batch, place, key=f"epoch-{epoch}")
        x = torch.from_numpy(items.views[index]).to(run.device).permute(0, 3, 1, 2).float() / 255
        y = torch.from_numpy(items.masks[index]).to(run.device)[:, None].float()
        x, y = augmented(x, y, run.generator("augment", step, run.accelerator.process_index), recipe.augment)
        logits = net(normalise(x, model.config.mean, model.config.std))
        entropy, dice = F.binary_cross_entropy_with_logits(logits, y), dice_loss(logits, y)
        adamw.zero_grad()
        run.backward(entropy + dice)  # Sec. 3, both with weight 1
        adamw.step()
        run.log(loss=entropy + dice, entropy=entropy, dice=dice)
        if test is not None and place == per_epoch - 1:
            best.update(by_several(tables_of(model, test), FIVE)["iou"])
            run.log(test_iou=best.best)
    if test is not None:
        best.restore()
    return model.eval()


def dice_loss(logits: Float[Tensor, "b 1 h w"], y: Float[Tensor, "b 1 h w"]) -> Float[Tensor, ""]:
    """1 - 2 Σ p y / (Σ p² + Σ y²) over all pixels of the batch, as in the authors' code; the paper gives no formula."""
    p = logits.sigmoid()
    return 1 - (2 * (p * y).sum() + 1e-5) / (p.square().sum() + y.square().sum() + 1e-5)


# ---- data ------------------------------------------------------------------------------------------------------------


def load(cases: Sequence[Case], config: AvitConfig) -> Items:
    """Raises ``DataError`` for a case without a mask, or with one of another size than its image."""
    views, masks = [], []
    for case in cases:
        picture = media.read(case.image).require_2d("avit")
        mask = read_mask(case) > 0
        if mask.shape != picture.size:
            raise DataError(f"image and mask of case {case.id} differ in size: {picture.size} and {mask.shape}")
        views.append(view_of(picture, config))
        masks.append(small_mask(mask, config))
    size = config.size
    none = np.zeros((0, size, size, 3), np.uint8), np.zeros((0, size, size), np.uint8)
    return Items(np.stack(views), np.stack(masks)) if views else Items(*none)


def small_mask(mask: np.ndarray, config: AvitConfig) -> UInt8[np.ndarray, "s s"]:
    """The mask at the network's size, by the nearest pixel."""
    if config.first is not None:
        mask = resize(mask, config.first, "nearest")
    return resize(mask, config.size, "nearest").astype(np.uint8)


def augmented(
    x: Float[Tensor, "b 3 s s"], y: Float[Tensor, "b 1 s s"], rng: np.random.Generator, how: Augment
) -> tuple[Float[Tensor, "b 3 s s"], Float[Tensor, "b 1 s s"]]:
    """Noise, both flips, shift with scale and rotation, brightness with contrast: each image has each or not."""
    b = len(x)

    def chosen(values: np.ndarray, otherwise: float) -> np.ndarray:
        keep = rng.random(b) < 0.5
        return np.where(keep.reshape(b, *[1] * (values.ndim - 1)), values, otherwise)

    def column(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(x).view(b, 1, 1, 1)

    spread = chosen(np.sqrt(rng.uniform(*how.noise, b)) / 255, 0.0)
    x = (x + column(spread) * torch.from_numpy(rng.standard_normal(x.shape, np.float32)).to(x)).clamp(0, 1)
    flips = np.stack([chosen(np.full(b, -1.0), 1.0) for _ in range(2)], 1)
    moved = chosen(np.ones(b), 0.0)
    angle = moved * np.deg2rad(rng.uniform(-how.turn, how.turn, b))
    scale = 1 + moved * rng.uniform(-how.scale, how.scale, b)
    shift = 2 * moved[:, None] * rng.uniform(-how.shift, how.shift, (b, 2))
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    matrix = np.stack([flips[:, 0] * cos, -flips[:, 0] * sin, shift[:, 0],
                       flips[:, 1] * sin, flips[:, 1] * cos, shift[:, 1]], 1).reshape(b, 2, 3)  # fmt: skip
    both = warped(torch.cat([x, y], 1), matrix)
    x, y = both[:, :3], (both[:, 3:] > 0.5).float()
    lit = chosen(np.ones(b), 0.0)
    contrast, brightness = (lit * rng.uniform(-how.light, how.light, b) for _ in range(2))
    return (x * column(1 + contrast) + column(brightness)).clamp(0, 1), y


# ---- measures --------------------------------------------------------------------------------------------------------


def score(model: Avit, case: Case, options: Mapping[str, Any]) -> dict[str, Any]:
    """Of one image, in [0, 1]: the usual measures at its own size, and Dice and IoU at the network's.

    ``counts``: pixels at the network's size, by which evaluation adds measures of all images' pixels together, and
    those of every five images' in their order, which is how the authors' code comes to the paper's numbers.
    """
    found = model.predict(case.image, **options)
    truth = read_mask(case) > 0
    threshold = found.options.get("threshold", 0.5)
    table = counts(
        (found.small >= max(threshold, 1e-6)).astype(np.uint8), small_mask(truth, model.config), len(found.labels)
    )
    assert found.probability is not None
    whole = segmentation_scores(found.mask, truth.astype(np.uint8), found.labels, probability=found.probability)
    small = by_several([table], 1)
    return {
        **whole,
        "dice_at_network_size": small["dice"],
        "iou_at_network_size": small["iou"],
        "counts": table.tolist(),
        "labels": list(found.labels),
        "together": FIVE,
    }


def tables_of(model: Avit, items: Items) -> list[np.ndarray]:
    """Counts of pixels (see ``zoo.metrics.pixels``) of each image at threshold 0.5. The model is left in eval mode."""
    model.eval()
    tables = []
    with torch.inference_mode():
        for start in range(0, len(items), 16):
            logits = model(model.normalised(items.views[start : start + 16]))[:, 0]
            masks = items.masks[start : start + 16]
            tables += [counts((one > 0).cpu().numpy().astype(np.uint8), y, 2)
                       for one, y in zip(logits, masks, strict=True)]  # fmt: skip
    return tables


DEMO = {
    "backbone": TINY, "size": 96, "prompt_width": 32, "prompt_blocks": 1, "channels": 32, "head": 16,
    "drop_path": 0.05, "lr": 2e-3, "decay_every": 8, "batch_size": 8, "epochs": 30, "dtype": "float16",
}  # fmt: skip

training = Training(
    recipe=AvitRecipe,
    presets={"paper": {}, "demo": DEMO, "check": {**DEMO, "pretext_steps": 4, "epochs": 2}},
    readings={"released": {"first": 512, "choose": "test"}},
    run=train,
    split=Split((0.8, 0.0, 0.2), folds=True),
    score=score,
)
