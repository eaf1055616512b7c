"""How it's trained: on the answer to clicks that are simulated against the decoder as it is (RITM's guidance)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from zoo import media
from zoo.data.augment import turned
from zoo.data.case import Case
from zoo.data.features import FeatureCache
from zoo.data.images import rgb_bytes
from zoo.data.sets import read_mask
from zoo.data.splits import Split
from zoo.errors import DataError
from zoo.models.sam_histo_interactive.model import (
    TRAINS_ENCODER,
    Method,
    RefineDecoder,
    SamHistoConfig,
    SamHistoInteractive,
    WideDecoder,
)
from zoo.nn.losses import normalised_focal_loss
from zoo.nn.promptable import (
    MOST,
    DecoderConfig,
    Frame,
    Point,
    Promptable,
    Tensors,
    click_scores,
    load_sam,
    mask_side,
    next_click,
)
from zoo.training import Run, TrainData, Training


@dataclass(frozen=True)
class SamHistoRecipe:
    """The paper's training, and the arms it is compared with."""

    method: Method = "refine"
    sam: str = "facebook/sam-vit-huge"  # "the largest pretrained model", Sec. 3.2
    image_size: int | None = field(default=None, metadata={"min": 16, "max": 4096})  # None: SAM's 1024, Sec. 2.2
    target: str = "mask"  # name of the mask in the data set
    heads: int = field(default=8, metadata={"min": 1, "max": 64})
    lr: float = field(default=5e-4, metadata={"min": 0.0, "max": 100.0})  # Sec. 3.2; Adam, as in RITM
    encoder_lr: float = field(default=5e-4, metadata={"min": 0.0, "max": 100.0})  # of encoders, where they're trained
    epochs: int = field(default=30, metadata={"min": 1, "max": 1_000_000})  # Sec. 3.2
    drops: tuple[int, ...] = field(
        default=(20, 25), metadata={"min": 0, "max": 1_000_000}
    )  # epochs at which lr is divided by 10
    batch_size: int = field(default=8, metadata={"min": 1, "max": 65_536})  # not stated
    # further clicks before the one that is learned from, drawn from 0 to this; RITM's
    extra_clicks: int = field(default=3, metadata={"min": 0, "max": 100})
    several_first: float = field(default=0.2, metadata={"min": 0.0, "max": 1.0})  # share of steps with 2 or 3 at first
    gamma: float = field(default=2.0, metadata={"min": 0.0, "max": 10.0})  # of the normalised focal loss; RITM's
    clip: float = field(default=1.0, metadata={"min": 0.0, "max": 1e6})  # norm of the gradient; not stated
    turns: bool = True  # the eight turned and mirrored views of each patch, whose embeddings are kept
    dtype: Literal["float32", "float16"] = "float32"  # of the saved weights


@dataclass(frozen=True)
class Item:
    """A patch and the region to find."""

    rgb: UInt8[np.ndarray, "h w 3"]
    mask: Bool[np.ndarray, "h w"]
    id: str

    def view(self, turns: int, mirror: bool) -> Item:
        rgb, mask = (np.ascontiguousarray(turned(array, turns, mirror)) for array in (self.rgb, self.mask))
        return replace(self, rgb=rgb, mask=mask)


def train(recipe: SamHistoRecipe, data: TrainData, run: Run) -> SamHistoInteractive:
    """Train on ``data.train``; the last epoch is kept, for the paper names no rule of selection.

    Patches without the region can't be clicked on and are left out. Raises ``DataError`` where none is left.
    """
    run.stage("training")
    model = build(recipe)
    items = [item for case in data.train if (item := load(case, recipe.target)).mask.any()]
    if not items:
        raise DataError(f"no case to train on has anything in its mask {recipe.target!r}")
    if recipe.method == "zero-shot":
        return model.eval()
    if recipe.method not in TRAINS_ENCODER:
        cache = FeatureCache(run.out / "embeddings" if run.out is not None else None, half=True)
        model.base = Promptable(model.base.sam, cache=cache)
    fit(model, recipe, items, run)
    if model.own is None:
        model.base = Promptable(model.base.sam)  # predictions see features that aren't rounded
    return model.eval()


def build(recipe: SamHistoRecipe) -> SamHistoInteractive:
    """A model whose decoder starts from what SAM learned, as far as it has the same parts."""
    sam = load_sam(recipe.sam, needed_by="sam-histo-interactive", image_size=recipe.image_size)
    config = SamHistoConfig(
        recipe.method, recipe.sam, recipe.image_size, DecoderConfig.of(sam), recipe.heads, recipe.target
    )
    model = SamHistoInteractive(config)
    if isinstance(model.decoder, RefineDecoder | WideDecoder):
        model.decoder.start_from(sam.mask_decoder)
    else:
        model.decoder.load_state_dict(sam.mask_decoder.state_dict())
    if model.own is None:
        model.base = Promptable(sam)
    return model


def groups_of(model: SamHistoInteractive, recipe: SamHistoRecipe) -> list[dict[str, Any]]:
    """What the method trains, with its learning rate (Sec. 2.2)."""
    groups: list[dict[str, Any]] = [{"params": list(model.decoder.parameters()), "lr": recipe.lr}]
    if model.own is not None:
        model.own.requires_grad_(False)
        model.own.vision_encoder.requires_grad_(True)
        parts = [model.own.vision_encoder]
        if recipe.method == "sam-whole":
            model.own.prompt_encoder.requires_grad_(True)
            model.own.prompt_encoder.shared_embedding.requires_grad_(False)  # Fourier features, which SAM never trains
            parts.append(model.own.prompt_encoder)
        rest = [p for part in parts for p in part.parameters() if p.requires_grad]
        groups.append({"params": rest, "lr": recipe.encoder_lr})
    model.decoder.requires_grad_(True)
    return groups


def fit(model: SamHistoInteractive, recipe: SamHistoRecipe, items: list[Item], run: Run) -> None:
    """The loop. What changes from step to step is drawn from the seed and the step alone."""
    groups = groups_of(model, recipe)
    parameters = [p for group in groups for p in group["params"]]
    adam = torch.optim.Adam(groups)
    batch = min(recipe.batch_size, len(items))
    per_epoch = max(1, len(items) // batch)
    schedule = torch.optim.lr_scheduler.MultiStepLR(adam, [drop * per_epoch for drop in recipe.drops], gamma=0.1)
    net, adam = run.track(model=model, adam=adam)
    run.keep(schedule=schedule)
    for step in run.steps(recipe.epochs * per_epoch, description=recipe.method):
        net.train()
        index = run.indices(len(items), batch, step)
        loss = loss_of(model, [items[i] for i in index], recipe, run.generator("clicks", step))
        adam.zero_grad()
        run.backward(loss)
        run.average(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
        adam.step()
        schedule.step()
        run.log(loss=loss)


def loss_of(
    model: SamHistoInteractive, items: Sequence[Item], recipe: SamHistoRecipe, rng: np.random.Generator
) -> Float[Tensor, ""]:
    """Normalised focal loss of the last of several answers, on the decoder's own grid (Sec. 2.2)."""
    if recipe.turns:
        items = [item.view(int(rng.integers(4)), bool(rng.integers(2))) for item in items]
    features = features_of(model, items)
    side, size = mask_side(model.base.sam), model.base.size
    truth = truths(items, side, size)
    first = 1 + (int(rng.integers(1, 3)) if rng.random() < recipe.several_first else 0)
    clicks: list[list[Point | None]] = [[] for _ in items]
    before: Tensor | None = None
    for _ in range(first):
        add_clicks(clicks, truth, None, rng)
    for _ in range(int(rng.integers(recipe.extra_clicks + 1))):
        with torch.no_grad():
            before = model(features, as_tensors(clicks, before, side, size, model.device))
        add_clicks(clicks, truth, (before[:, 0] > 0).cpu().numpy(), rng)
    logits = model(features, as_tensors(clicks, before, side, size, model.device))
    wanted = torch.from_numpy(truth).float()[:, None].to(logits.device)
    return normalised_focal_loss(logits.float(), wanted, gamma=recipe.gamma)


def features_of(model: SamHistoInteractive, items: Sequence[Item]) -> Float[Tensor, "b c g g"]:
    """From the cache, where the encoder is frozen; otherwise encoded, with gradients."""
    if model.own is None:
        return torch.cat([model.base.embed(item.rgb).features for item in items])
    frames = [model.base.frame(*item.mask.shape) for item in items]
    pixels = [frame.pixels(torch.from_numpy(item.rgb)) for frame, item in zip(frames, items, strict=True)]
    return model.own.vision_encoder(torch.cat(pixels).to(model.device)).last_hidden_state


def truths(items: Sequence[Item], side: int, size: int) -> Bool[np.ndarray, "b m m"]:
    """The regions on the decoder's grid; a cell counts that is covered by more than half."""
    rows = []
    for item in items:
        frame = Frame(item.mask.shape[0], item.mask.shape[1], size)
        rows.append(frame.low(torch.from_numpy(item.mask).float()[None], side)[0, 0] > 0.5)
    return torch.stack(rows).numpy()


def add_clicks(
    clicks: list[list[Point | None]],
    truth: Bool[np.ndarray, "b m m"],
    found: Bool[np.ndarray, "b m m"] | None,
    rng: np.random.Generator,
) -> None:
    """One more click on every sample, drawn in its largest error; None where no error is left."""
    for i, so_far in enumerate(clicks):
        made = [point for point in so_far if point is not None]
        so_far.append(next_click(truth[i], None if found is None else found[i], made, rng))


def as_tensors(
    clicks: Sequence[Sequence[Point | None]], before: Tensor | None, side: int, size: int, device: torch.device
) -> Tensors:
    """Clicks in cells of the decoder's grid as SAM takes them: px of its square, the middle of the cell."""
    xy = torch.zeros(1, len(clicks), len(clicks[0]), 2)
    labels = torch.full((1, len(clicks), len(clicks[0])), -10)  # -10: nothing there
    for i, points in enumerate(clicks):
        for j, point in enumerate(points):
            if point is not None:
                xy[0, i, j, 0], xy[0, i, j, 1] = point.x, point.y
                labels[0, i, j] = int(point.inside)
    return Tensors(points=((xy + 0.5) * size / side - 0.5).to(device), labels=labels.to(device), masks=before)


def load(case: Case, target: str) -> Item:
    """Raises ``DataError`` for a case without that mask, or with one of another size."""
    picture = media.read(case.image).require_2d("sam-histo-interactive")
    mask = read_mask(case, target) > 0
    if mask.shape != picture.size:
        raise DataError(f"image and mask of case {case.id} differ in size: {picture.size} and {mask.shape}")
    return Item(rgb_bytes(picture), mask, case.id)


def score(model: SamHistoInteractive, case: Case, options: Mapping[str, Any]) -> list[dict[str, float]]:
    """NoC, NoF and IoU by clicks of the simulated user; no row for a patch that has nothing to click on."""
    truth = read_mask(case, model.config.target) > 0
    if not truth.any():
        return []
    given = {name: value for name, value in options.items() if name != "click"}
    found = model.predict(case.image, **{**given, "simulate_gt": truth.astype(np.uint8)})
    assert found.trace is not None
    return [click_scores(found.trace, most=int(options.get("most") or MOST))]


DEMO = {
    "sam": "demo",
    "image_size": 128,
    "target": "tumour",
    "heads": 4,
    "lr": 1e-3,
    "epochs": 10,
    "drops": (7, 9),
    "batch_size": 4,
    "turns": False,
    "dtype": "float16",
}

training = Training(
    recipe=SamHistoRecipe,
    presets={"paper": {}, "demo": DEMO},
    run=train,
    split=Split((0.81, 0.09, 0.10)),  # 5190, 576 and 654 patches, Sec. 3.1
    score=score,
)
