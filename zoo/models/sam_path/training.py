"""How SAM-Path is trained: neck, class prompts and decoder, on the features of two frozen encoders (Sec. 2.3 and 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from PIL import Image
from scipy import ndimage
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as colour

from zoo import media
from zoo.data.augment import Crops, cropped_views, random_turn, turned
from zoo.data.case import Case
from zoo.data.features import FeatureCache, content_key, weights_key
from zoo.data.images import normalise, resize, rgb_bytes, to_tensor
from zoo.data.sets import read_mask
from zoo.data.splits import Split
from zoo.errors import DataError
from zoo.metrics.pixels import counts, pixel_measures
from zoo.models.sam_path.encoders import SMALL, SmallEncoder
from zoo.models.sam_path.model import BCSS, ClassMasks, Encoders, Prompts, SamPath, SamPathConfig
from zoo.nn.losses import contrastive_loss
from zoo.nn.promptable import DecoderConfig, Promptable, load_sam, next_click
from zoo.training import Run, TrainData, Training

TISSUE = ("unlabelled", "stroma", "tumour", "nucleus")  # of the phantom he-tile


@dataclass(frozen=True)
class SamPathRecipe:
    """The paper's training on BCSS; what its text leaves to a supplement is as the authors' code has it."""

    recipe: Literal["paper", "released"] = "paper"
    labels: tuple[str, ...] = BCSS
    ignored: bool = True
    dummy: bool = False
    prompts: Prompts = "joint"
    encoders: Encoders = "both"
    frozen_neck: bool = False
    neck: Literal["sam", "random"] = "sam"
    """``sam``: SAM's neck moved behind the concatenation (Sec. 2.2), blind to the other encoder at first."""
    loss: Literal["text", "code"] = "text"  # see ``loss_of``
    alpha: float = field(default=0.25, metadata={"min": 0.0, "max": 1.0})  # Sec. 3.3
    beta: float = field(default=0.0625, metadata={"min": 0.0, "max": 1e3})  # Sec. 3.3
    sam: str = "facebook/sam-vit-base"
    image_size: int | None = field(default=None, metadata={"min": 16, "max": 4096})
    pathology: str = "vit_small_patch16_224.dino"
    """HIPT's file in the paper, ``pathology=PATH.safetensors``; without it DINO's ViT-S of the same size."""
    pathology_width: int = field(default=384, metadata={"min": 2, "max": 16_384})
    pretraining: int = field(default=0, metadata={"min": 0, "max": 1_000_000})  # steps, of the small encoder
    tile: int = field(default=1024, metadata={"min": 32, "max": 8192})
    whole: bool = False  # images are brought to a square of that side, not cut
    mpp: float | None = field(default=0.25, metadata={"min": 0.01, "max": 100.0})
    augment: Literal["crops", "turns", "none"] = "crops"
    lr: float = field(default=1e-4, metadata={"min": 0.0, "max": 100.0})  # AdamW
    weight_decay: float = field(default=1e-2, metadata={"min": 0.0, "max": 100.0})
    batch_size: int = field(default=24, metadata={"min": 1, "max": 65_536})
    steps: int = field(default=2304, metadata={"min": 1, "max": 100_000_000})
    warmup: int = field(default=72, metadata={"min": 0, "max": 1_000_000})
    # steps from which lr is a tenth, and a hundredth; 0: never
    decays: tuple[int, int] = field(default=(1800, 2088), metadata={"min": 0, "max": 100_000_000})
    dtype: Literal["float32", "float16"] = "float32"  # of the saved weights


class Item(NamedTuple):
    """A tile and the class of each of its pixels."""

    rgb: UInt8[np.ndarray, "t t 3"]
    truth: UInt8[np.ndarray, "t t"]


def train(recipe: SamPathRecipe, data: TrainData, run: Run) -> SamPath:
    """Train on the tiles of ``data.train``, to the last step. Raises ``DataError`` for a case without classes."""
    items = [item for case in data.train for item in load(case, recipe)]
    model = build(recipe)
    if model.pathology is not None and recipe.pretraining:
        pretrain(model.pathology, items, recipe, run)
    cache = FeatureCache(None if run.out is None else run.out / "embeddings", half=True)
    return fit(model, recipe, items, run, cache)


def build(recipe: SamPathRecipe) -> SamPath:
    """A model whose decoder, and if wanted neck, start from SAM's."""
    sam = load_sam(recipe.sam, needed_by="sam-path", image_size=recipe.image_size)
    same = ("labels", "ignored", "dummy", "prompts", "encoders", "frozen_neck", "sam", "image_size", "pathology",
            "pathology_width", "tile", "mpp")  # fmt: skip
    model = SamPath(
        SamPathConfig(
            **{name: getattr(recipe, name) for name in same},
            sam_width=sam.config.vision_config.hidden_size,
            decoder=DecoderConfig.of(sam),
            quality=recipe.beta > 0,
        )
    )
    model.base = Promptable(sam)
    start_decoder(model)
    if model.neck is not None and recipe.neck == "sam" and recipe.encoders != "pathology":
        model.neck.copy(sam)
    return model


@torch.no_grad()
def start_decoder(model: SamPath) -> None:
    """SAM's weights; of class tokens new ones, N(0, 1), each with a copy of the first token's hyper-network."""
    ours, sam = model.decoder, model.base.sam.mask_decoder
    own = ("mask_tokens.", "output_hypernetworks_mlps.", "iou_prediction_head.proj_out.")
    taken = {name: value for name, value in sam.state_dict().items()}
    if model.config.prompts == "joint":
        taken = {name: value for name, value in taken.items() if not name.startswith(own)}
        for head in ours.output_hypernetworks_mlps:
            head.load_state_dict(sam.output_hypernetworks_mlps[0].state_dict())
        nn.init.normal_(ours.mask_tokens.weight)
        ours.iou_prediction_head.proj_out.reset_parameters()
    ours.load_state_dict(taken, strict=False)


def fit(model: SamPath, recipe: SamPathRecipe, items: list[Item], run: Run, cache: FeatureCache) -> SamPath:
    """The loop. Without crops the frozen features of a tile are computed once for each of its orientations."""
    run.stage("training")
    adam = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=recipe.lr, weight_decay=recipe.weight_decay
    )
    net, adam = run.track(model=model, adam=adam)
    keys = [weights_key(model.base.sam.vision_encoder)] if recipe.encoders != "pathology" else []
    keys += [weights_key(model.pathology_encoder)] if recipe.encoders != "sam" else []
    batch = min(recipe.batch_size, len(items))
    for step in run.steps(recipe.steps, description=recipe.encoders):
        net.train()
        adam.param_groups[0]["lr"] = recipe.lr * rate(step, recipe)
        index = run.indices(len(items), batch, step)
        rng = run.generator("augment", step, run.accelerator.process_index)
        tiles = [augmented(items[i], recipe.augment, rng) for i in index]
        h = features_of(model, tiles, None if recipe.augment == "crops" else cache, keys)
        y = torch.from_numpy(np.stack([tile.truth for tile in tiles]).astype(np.int64)).to(run.device)
        loss = loss_of(net(h), y, recipe)
        adam.zero_grad()
        run.backward(loss)
        adam.step()
        run.log(loss=loss)
    return model.eval()


def rate(step: int, recipe: SamPathRecipe) -> float:
    """Share of lr: linear warm-up, then 1, 0.1 and 0.01."""
    late = sum(bool(at) and step >= at for at in recipe.decays)
    return min(1.0, (step + 1) / max(recipe.warmup, 1)) * 0.1**late


def features_of(
    model: SamPath, tiles: Sequence[Item], cache: FeatureCache | None, keys: Sequence[str]
) -> Float[Tensor, "b d g g"]:
    """What the encoders make of the tiles, from the cache if there is one."""
    if cache is None:
        return model.features(to_tensor([tile.rgb for tile in tiles], model.device))
    names = [content_key(tile.rgb, *keys, str(model.base.size)) for tile in tiles]
    found = cache.get_all(names, lambda some: model.features(to_tensor([tiles[i].rgb for i in some], model.device)), 4)
    return found.to(model.device)


# ---- loss (Eq. 3) ----------------------------------------------------------------------------------------------------


def loss_of(found: ClassMasks, y: Int[Tensor, "b t t"], recipe: SamPathRecipe) -> Float[Tensor, ""]:
    """(1 - alpha) Dice + alpha focal + beta (iou - IoU)^2 on maps that were brought to the size of ``y``.

    ``text``: softmax over the classes, all terms on its probabilities, summed over classes; unlabelled pixels count
    nowhere. ``code``: as the authors': Dice and focal are means over classes and images, focal on the logits one by
    one, unlabelled pixels have all logits at 0 and are background to every class.
    """
    logits = F.interpolate(found.logits, y.shape[1:], mode="bilinear", align_corners=False)
    shift = int(recipe.ignored) - int(recipe.dummy)  # the class of the first map
    known = y > 0 if recipe.ignored else torch.ones_like(y, dtype=torch.bool)
    classes = torch.arange(logits.shape[1], device=y.device) + shift
    truth = ((y[:, None] == classes.view(-1, 1, 1)) & known[:, None]).float()
    start = int(recipe.dummy)  # maps that count
    if recipe.loss == "code":
        logits = logits * known[:, None]
    p = logits.softmax(1)
    p, truth, logits, quality = p[:, start:], truth[:, start:], logits[:, start:], found.quality[:, start:]
    inside = known[:, None].float() if recipe.loss == "text" else torch.ones_like(p[:, :1])
    smooth = 1.0 if recipe.loss == "text" else 1e-5
    shared, sizes = (p * truth * inside).sum((2, 3)), (p * inside).sum((2, 3)) + (truth * inside).sum((2, 3))
    dice = 1 - (2 * shared + smooth) / (sizes + smooth)
    right = (
        torch.where(truth > 0, p, 1 - p) if recipe.loss == "text" else torch.where(truth > 0, logits, -logits).sigmoid()
    )
    focal = -((1 - right) ** 2) * right.clamp_min(1e-8).log()
    focal = (focal * inside).sum((2, 3)) / inside.sum((2, 3)).clamp_min(1)
    with torch.no_grad():
        hard = (p >= 0.5) & (inside > 0)
        both = (hard * truth).sum((2, 3))
        iou = both / (hard.sum((2, 3)) + truth.sum((2, 3)) - both + 1e-7)
    each = (1 - recipe.alpha) * dice + recipe.alpha * focal + recipe.beta * (quality - iou) ** 2
    return each.mean(0).sum() if recipe.loss == "text" else each.mean()


# ---- the small encoder -----------------------------------------------------------------------------------------------


def pretrain(encoder: SmallEncoder, items: Sequence[Item], recipe: SamPathRecipe, run: Run) -> None:
    """Teach the small encoder, without labels, that two crops of a place are alike (SimCLR), then freeze it."""
    run.stage("pathology-encoder")
    encoder.requires_grad_(True)
    width = recipe.pathology_width
    head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 32))
    adam = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=1e-3)
    encoder_, head, adam = run.track(encoder=encoder, head=head, adam=adam)
    for step in run.steps(recipe.pretraining, description="pathology encoder"):
        encoder_.train()
        rng = run.generator("pretraining", step)
        x = to_tensor([_patch(items[int(i)].rgb, 48, rng) for i in rng.integers(len(items), size=32)], run.device)
        views = [cropped_views(x, rng, Crops(area=(0.4, 1.0), jitter=0.3, tint=0.1)) for _ in range(2)]
        z = head(encoder_(normalise(torch.cat(views), encoder.mean, encoder.std)).mean((2, 3)))
        loss = contrastive_loss(z, 0.2)
        adam.zero_grad()
        run.backward(loss)
        adam.step()
        run.log(loss=loss)
    encoder.eval().requires_grad_(False)


def _patch(rgb: UInt8[np.ndarray, "t t 3"], side: int, rng: np.random.Generator) -> UInt8[np.ndarray, "s s 3"]:
    top, left = rng.integers(max(1, rgb.shape[0] - side + 1), size=2)
    return rgb[top : top + side, left : left + side]


# ---- data ------------------------------------------------------------------------------------------------------------


def load(case: Case, recipe: SamPathRecipe) -> list[Item]:
    """The tiles of a case, evenly spread; those without a labelled pixel are left out.

    Raises ``DataError`` for a case without classes, or whose mask has another size or further values.
    """
    rgb = rgb_bytes(media.read(case.image).require_2d("sam-path"))
    truth = classes_of(case, recipe.labels)
    if truth.shape != rgb.shape[:2]:
        raise DataError(f"image and mask of case {case.id} differ in size: {rgb.shape[:2]} and {truth.shape}")
    if recipe.whole:
        truth = np.asarray(Image.fromarray(truth).resize((recipe.tile, recipe.tile), Image.Resampling.NEAREST))
        return [Item(resize(rgb, recipe.tile, "bilinear"), truth)]
    missing = [(0, max(0, recipe.tile - side)) for side in truth.shape]
    rgb, truth = np.pad(rgb, (*missing, (0, 0)), mode="edge"), np.pad(truth, missing, mode="edge")
    starts = [np.linspace(0, n - recipe.tile, -(-n // recipe.tile)).astype(int) for n in truth.shape]
    windows = [(slice(a, a + recipe.tile), slice(b, b + recipe.tile)) for a in starts[0] for b in starts[1]]
    return [Item(rgb[where], truth[where]) for where in windows if truth[where].any() or not recipe.ignored]


def classes_of(case: Case, labels: Sequence[str]) -> UInt8[np.ndarray, "h w"]:
    """The class of every pixel: the mask ``classes``; of the phantom he-tile made of its nests and nuclei; the mask."""
    if "classes" in case.masks:
        found = read_mask(case, "classes")
    elif tuple(labels) == TISSUE and "tumour" in case.masks:
        found = np.where(read_mask(case) > 0, 3, 1 + (read_mask(case, "tumour") > 0))
    else:
        found = read_mask(case)
    if found.size and found.max() >= len(labels):
        raise DataError(f"case {case.id} has the class {found.max()}, beyond the {len(labels)} that are named")
    return found.astype(np.uint8)


def augmented(item: Item, how: str, rng: np.random.Generator) -> Item:
    """``turns``: one of eight orientations; ``crops``: 8 to 100 % of the area, enlarged, turned and recoloured."""
    if how == "none":
        return item
    if how == "turns":
        turn = random_turn(rng)
        return Item(*(np.ascontiguousarray(turned(one, *turn)) for one in item))
    side = len(item.rgb)
    area, aspect = rng.uniform(0.08, 1), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    w, h = (min(side, max(1, round(side * np.sqrt(area * f)))) for f in (aspect, 1 / aspect))
    top, left = int(rng.integers(side - h + 1)), int(rng.integers(side - w + 1))
    where = (slice(top, top + h), slice(left, left + w))
    rgb = resize(item.rgb[where], side, "bilinear")
    truth = np.asarray(Image.fromarray(item.truth[where]).resize((side, side), Image.Resampling.NEAREST))
    turn = random_turn(rng)
    rgb, truth = (np.ascontiguousarray(turned(one, *turn)) for one in (rgb, truth))
    return Item(recoloured(rgb, rng) if rng.random() < 0.5 else rgb, truth)


def recoloured(rgb: UInt8[np.ndarray, "t t 3"], rng: np.random.Generator) -> UInt8[np.ndarray, "t t 3"]:
    """Brightness, contrast, saturation and hue, each by up to a tenth."""
    x = torch.from_numpy(rgb).permute(2, 0, 1)
    x = colour.adjust_brightness(x, rng.uniform(0.9, 1.1))
    x = colour.adjust_contrast(x, rng.uniform(0.9, 1.1))
    x = colour.adjust_saturation(x, rng.uniform(0.9, 1.1))
    return colour.adjust_hue(x, rng.uniform(-0.1, 0.1)).permute(1, 2, 0).numpy()


# ---- measures --------------------------------------------------------------------------------------------------------


def score(model: SamPath, case: Case, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of the image, in percent; ``counts`` lets the evaluation pool pixels over all images, as the authors' does.

    With ``mode=vanilla`` of SAM's own masks, from a point in each object.
    """
    c, given = model.config, dict(options)
    truth = classes_of(case, c.labels)
    if given.get("mode") == "vanilla":
        given["point"] = dots(case, c.labels[c.ignored :])
    empty = given.get("point") == ()  # nothing to ask for
    found = np.zeros_like(truth) if empty else model.predict(case.image, **given).mask
    table = counts(found, truth, len(c.labels), 0 if c.ignored else None)
    values = {name: 100 * value for name, value in pixel_measures(table, c.labels).items()}
    return {**values, "counts": table.tolist(), "labels": list(c.labels)}


def dots(case: Case, classes: Sequence[str]) -> tuple[tuple[float, float], ...]:
    """A point in the middle of each object, as vanilla SAM is given (Sec. 3.2); objects are the mask's ``instances``,
    or its connected parts. Raises ``DataError`` where there are several kinds of them."""
    if len(classes) != 2:
        raise DataError("SAM's own masks know no class: measure mode=vanilla with weights for background and one class")
    objects = read_mask(case, "instances") if "instances" in case.masks else ndimage.label(read_mask(case) > 0)[0]
    points = [next_click(objects == number) for number in np.unique(objects[objects > 0])]
    return tuple((point.x, point.y) for point in points if point is not None)


CRAG = {
    "labels": ("background", "gland"), "ignored": False, "alpha": 0.125, "beta": 0.0, "tile": 1536, "whole": True,
    "image_size": 1024, "mpp": 0.5, "batch_size": 6, "steps": 1380, "warmup": 46, "decays": (1150, 1265),
}  # fmt: skip

DEMO = {
    "labels": TISSUE, "sam": "demo", "pathology": SMALL, "pathology_width": 64, "pretraining": 150, "tile": 256,
    "mpp": None, "augment": "none", "lr": 1e-3, "batch_size": 4, "steps": 150, "warmup": 10, "decays": (110, 0),
    "dtype": "float16",
}  # fmt: skip

training = Training(
    recipe=SamPathRecipe,
    presets={"paper": {}, "crag": CRAG, "demo": DEMO},
    readings={"released": {"neck": "random", "loss": "code", "dummy": True}},
    run=train,
    split=Split((0.64, 0.16, 0.20)),  # Sec. 3.1: 20 % of the training part for validation
    score=score,
)
