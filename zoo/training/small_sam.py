"""How the small SAM that comes with the zoo was made: ``python -m zoo.training.small_sam OUT``.

A SAM of the same architecture as the published ones, a hundred times smaller, learns to follow boxes, clicks and
earlier masks on a mixture of all phantoms. The questions are those of SAM (A. Kirillov et al., Segment Anything, 2023,
App. A): an object of an image is asked for with a random kind of prompt; then once more, with a click where the answer
was wrong and the answer itself as mask prompt. At last the three further masks learn what a single click may mean.
Three things differ, because this one learns from nothing in less than an hour:

- SAM's encoder was a trained masked autoencoder before. This one learns, beside the masks, features that are alike
  where the same objects lie (``Kinship``); without that the decoder has nothing to select from for a long time.
- Most steps are made at half the image size, where they cost a quarter.
- The loss is cross-entropy and Dice in equal parts (J. Ma et al., Segment Anything in Medical Images, 2024). The focal
  loss of SAM puts three quarters of its weight on the background, and small objects stayed empty for hundreds of steps.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import SamModel

from zoo.nn.losses import dice_bce, dice_losses
from zoo.nn.promptable.attention import use_operator
from zoo.nn.promptable.frame import MASK_LOGIT, Frame, Tensors
from zoo.nn.promptable.promptable import decode, encode_prompts, mask_side
from zoo.nn.promptable.prompts import Mask, Point, Prompt
from zoo.nn.promptable.sam import load_sam, resize_input, small_config
from zoo.nn.schedules import cosine_schedule
from zoo.training.prompted import (
    HELD_OUT,
    MIXTURE,
    WIDE,
    Sample,
    augmented,
    click,
    correction,
    deep_click,
    loose_box,
    rough,
    samples,
    some,
    spoilt,
    zoomed,
)
from zoo.training.run import Run


@dataclass(frozen=True)
class Stage:
    """A part of the training with its own image size."""

    image_size: int
    images: int  # phantoms made once, in equal shares
    steps: int
    batch_size: int
    objects: int  # per image and step
    lr: float
    corrections: int  # further questions after the first


@dataclass(frozen=True)
class Recipe:
    stages: tuple[Stage, ...] = (
        Stage(image_size=128, images=1400, steps=4200, batch_size=8, objects=6, lr=1.5e-3, corrections=0),
        Stage(image_size=256, images=560, steps=900, batch_size=4, objects=4, lr=5e-4, corrections=1),
    )
    # both of the same size as the last of ``stages``
    wide: Stage = Stage(image_size=256, images=480, steps=420, batch_size=4, objects=3, lr=5e-4, corrections=3)
    masks: Stage = Stage(image_size=256, images=280, steps=150, batch_size=4, objects=4, lr=1e-3, corrections=0)
    warmup: int = 50
    weight_decay: float = 0.01
    kinship: float = 1.0  # weight of that loss
    places: int = 128  # per image, compared with each other


@lru_cache(maxsize=1)
def training_samples(size: int, count: int, wide: bool = False) -> tuple[Sample, ...]:
    """Made when first needed: a stage that is resumed after its end needs none, and stages of one kind share theirs."""
    return tuple(samples(size, 0, count, WIDE if wide else tuple(MIXTURE)))


def loss_of(
    logits: Float[Tensor, "n 1 m m"], quality: Float[Tensor, "n 1"], target: Float[Tensor, "n 1 m m"]
) -> Float[Tensor, ""]:
    """Cross-entropy + Dice + squared error of the predicted IoU."""
    return dice_bce(logits, target) + F.mse_loss(quality, iou_of(logits, target))


def loss_of_best(
    logits: Float[Tensor, "n k m m"], quality: Float[Tensor, "n k"], target: Float[Tensor, "n 1 m m"]
) -> Float[Tensor, ""]:
    """The same of the best of ``k`` masks for every object; all of them learn how good they are."""
    truth = target.expand_as(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").flatten(2).mean(2)
    return (entropy + dice_losses(logits, truth)).amin(1).mean() + F.mse_loss(quality, iou_of(logits, target))


def iou_of(logits: Float[Tensor, "n k m m"], target: Float[Tensor, "n 1 m m"]) -> Float[Tensor, "n k"]:
    """Of the masks that the logits say."""
    inside, truth = logits.detach() > 0, target > 0.5
    return (inside & truth).flatten(2).sum(2) / (inside | truth).flatten(2).sum(2).clamp(min=1)


class Kinship(nn.Module):
    """Tells from the features of two places whether the same objects cover both; thrown away after the training."""

    def __init__(self, channels: int, hidden: int = 32) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, hidden, 1)
        self.offset = nn.Parameter(torch.zeros(()))

    def forward(
        self, features: Float[Tensor, "b c g g"], objects: list[list[np.ndarray]], places: int
    ) -> Float[Tensor, ""]:
        """Cross-entropy over all pairs of ``places`` random places in each image; alike and unlike weigh the same."""
        side = features.shape[-1]
        vectors = F.normalize(self.project(features), dim=1).flatten(2)
        losses = []
        for image, masks in zip(vectors, objects, strict=True):
            stack = torch.from_numpy(np.stack(masks).astype(np.float32)).to(features.device)
            covered = F.adaptive_avg_pool2d(stack[None], side)[0].flatten(1) > 0.5
            picked = torch.randperm(side * side)[:places].to(features.device)
            alike = (covered[:, picked, None] == covered[:, None, picked]).all(0)
            logits = 10 * image[:, picked].T @ image[:, picked] - self.offset
            share = alike.float().mean()
            weight = torch.where(alike, 0.5 / share, 0.5 / (1 - share).clamp(min=0.01))
            losses.append(F.binary_cross_entropy_with_logits(logits, alike.float(), weight))
        return torch.stack(losses).mean()


def pretrain(recipe: Recipe, run: Run, start: SamModel | None = None) -> SamModel:
    """The training; resumes exactly. ``start``: what an earlier run's ``stages`` came to, instead of making them."""
    sam = start
    for stage in recipe.stages if start is None else ():
        run.stage(f"{stage.image_size}px")
        if sam is None:
            sam = build(stage.image_size)
            kinship = Kinship(sam.config.vision_config.output_channels)
        else:
            resize_input(sam, stage.image_size)
        learn(sam, kinship, stage, recipe, run)
    assert sam is not None
    learn_widely(sam, recipe.wide, recipe, run)
    learn_three_masks(sam, recipe.masks, recipe, run)
    return sam.eval()


def learn(sam: SamModel, kinship: Kinship, stage: Stage, recipe: Recipe, run: Run) -> None:
    parameters = [*kinship.parameters(), *(p for p in sam.parameters() if p.requires_grad)]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=stage.lr, weight_decay=recipe.weight_decay)
    schedule = cosine_schedule(optimizer, stage.steps, warmup=recipe.warmup)
    run.track(model=sam, kinship=kinship, optimizer=optimizer)
    run.keep(schedule=schedule)
    frame = Frame(stage.image_size, stage.image_size, stage.image_size)
    for step in run.steps(stage.steps):
        pixels, objects, targets, rng = drawn(stage, frame, run, step)
        features = sam.vision_encoder(pixels).last_hidden_state
        loss = ask(sam, features.repeat_interleave(stage.objects, 0), targets, stage.corrections, frame, rng)
        alike = kinship(features, objects, recipe.places)
        optimizer.zero_grad()
        run.backward(loss + recipe.kinship * alike)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        run.log(loss=loss, kinship=alike)


def learn_widely(sam: SamModel, stage: Stage, recipe: Recipe, run: Run) -> None:
    """Corrections by the handful, masks as prompts, and images of any kind, whole and in parts: the encoder too."""
    run.stage("wide")
    sam.requires_grad_(True)
    for fixed in (sam.shared_image_embedding, sam.prompt_encoder.shared_embedding):
        fixed.requires_grad_(False)
    parameters = [p for p in sam.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=stage.lr, weight_decay=recipe.weight_decay)
    schedule = cosine_schedule(optimizer, stage.steps, warmup=recipe.warmup)
    run.track(model=sam, optimizer=optimizer)
    run.keep(schedule=schedule)
    frame = Frame(stage.image_size, stage.image_size, stage.image_size)
    for step in run.steps(stage.steps):
        pixels, _, targets, rng = drawn(stage, frame, run, step, wide=True)
        features = sam.vision_encoder(pixels).last_hidden_state.repeat_interleave(stage.objects, 0)
        loss = ask_widely(sam, features, targets, stage.corrections, frame, rng)
        optimizer.zero_grad()
        run.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        run.log(loss=loss)


def drawn(
    stage: Stage, frame: Frame, run: Run, step: int, *, wide: bool = False
) -> tuple[Float[Tensor, "b 3 s s"], list[list[np.ndarray]], list[np.ndarray], np.random.Generator]:
    """The images of a step, all objects of each, those that are asked for, and what the prompts are drawn from."""
    made = training_samples(stage.image_size, stage.images, wide)
    rng = run.generator("prompts", step)
    index = run.indices(len(made), stage.batch_size, step)
    chosen = [zoomed(made[i], rng) if wide and rng.random() < 0.5 else made[i] for i in index]
    images, objects = zip(*(augmented(one, rng) for one in chosen), strict=True)
    images = tuple(spoilt(image, rng) if wide else image for image in images)
    pixels = torch.cat([frame.pixels(torch.from_numpy(image)) for image in images]).to(run.device)
    targets = [target for each in objects for target in some(each, stage.objects, rng)]
    return pixels, list(objects), targets, rng


def learn_three_masks(sam: SamModel, stage: Stage, recipe: Recipe, run: Run) -> None:
    """The three further masks, for a click that may mean a part or the whole: of each three only the best learns.

    They start as the first one; whatever the first mask comes from stays as it is.
    """
    run.stage("three-masks")
    decoder = sam.mask_decoder
    heads, quality = decoder.output_hypernetworks_mlps, decoder.iou_prediction_head.proj_out
    sam.requires_grad_(False)
    for head in heads[1:]:
        head.load_state_dict(heads[0].state_dict())
        head.requires_grad_(True)
    for parameter in (quality.weight, quality.bias):
        parameter[1:] = parameter[:1].clone()
        parameter.requires_grad_(True)
        parameter.register_hook(lambda gradient: torch.cat([torch.zeros_like(gradient[:1]), gradient[1:]]))
    parameters = [*heads[1:].parameters(), quality.weight, quality.bias]
    optimizer = torch.optim.AdamW(parameters, lr=stage.lr, weight_decay=0.0)
    schedule = cosine_schedule(optimizer, stage.steps, warmup=recipe.warmup)
    run.track(model=sam, optimizer=optimizer)
    run.keep(schedule=schedule)
    frame = Frame(stage.image_size, stage.image_size, stage.image_size)
    for step in run.steps(stage.steps):
        pixels, _, targets, rng = drawn(stage, frame, run, step)
        features = sam.vision_encoder(pixels).last_hidden_state.repeat_interleave(stage.objects, 0)
        prompts = [Prompt(points=(click(target, rng),)) for target in targets]
        side = mask_side(sam)
        truth = truth_of(targets, frame, side, run.device)
        given = encode_prompts(sam, frame.tensors(prompts, side, run.device))
        loss = loss_of_best(*decode(sam, features, given, multimask=True), truth)
        optimizer.zero_grad()
        run.backward(loss)
        optimizer.step()
        schedule.step()
        run.log(loss=loss)


def truth_of(
    targets: list[np.ndarray], frame: Frame, side: int, device: torch.device
) -> Float[Tensor, "n 1 side side"]:
    return frame.low(torch.from_numpy(np.stack(targets).astype(np.float32)).to(device), side)


def ask(
    sam: SamModel,
    features: Float[Tensor, "n c g g"],
    targets: list[np.ndarray],
    corrections: int,
    frame: Frame,
    rng: np.random.Generator,
) -> Float[Tensor, ""]:
    """The loss of a first answer and of ``corrections`` further ones; all objects are asked for in one way."""
    boxed = rng.uniform() < 0.5
    prompts = [Prompt(box=loose_box(t, rng)) if boxed else Prompt(points=(click(t, rng),)) for t in targets]
    side, device = mask_side(sam), features.device
    truth = truth_of(targets, frame, side, device)
    answer = decode(sam, features, encode_prompts(sam, frame.tensors(prompts, side, device)))
    loss = loss_of(*answer, truth)
    for _ in range(corrections):
        low = answer.logits.detach()
        current = (frame.logits(low)[:, 0] > 0).cpu().numpy()
        points = [correction(t, now, rng) for t, now in zip(targets, current, strict=True)]
        prompts = [
            Prompt(prompt.box, (*prompt.points, *([point] if point else [])))
            for prompt, point in zip(prompts, points, strict=True)
        ]
        given = frame.tensors(prompts, side, device)
        answer = decode(sam, features, encode_prompts(sam, Tensors(given.boxes, given.points, given.labels, low)))
        loss = loss + loss_of(*answer, truth)
    return loss / (1 + corrections)


def ask_widely(
    sam: SamModel,
    features: Float[Tensor, "n c g g"],
    targets: list[np.ndarray],
    corrections: int,
    frame: Frame,
    rng: np.random.Generator,
) -> Float[Tensor, ""]:
    """The mean loss of a first answer, to a box, a click or a rough mask, and of those after each correction.

    A correction comes with the last answer as the decoder gave it, as a mask of yes and no, or with clicks alone: users
    have all three.
    """
    side, device = mask_side(sam), features.device
    kind, deep = str(rng.choice(["box", "click", "mask"], p=[0.3, 0.55, 0.15])), bool(rng.random() < 0.5)
    clicked = kind == "click" or (kind == "mask" and rng.random() < 0.5)
    prompts = [
        Prompt(
            loose_box(target, rng) if kind == "box" else None,
            ((deep_click(target) if deep else click(target, rng)),) if clicked else (),
            Mask(rough(target, rng)) if kind == "mask" else None,
        )
        for target in targets
    ]
    truth = truth_of(targets, frame, side, device)
    answer = decode(sam, features, encode_prompts(sam, frame.tensors(prompts, side, device)))
    loss = loss_of(*answer, truth)
    told = str(rng.choice(["logits", "mask", "nothing"], p=[0.5, 0.3, 0.2]))
    for _ in range(corrections):
        low = answer.logits.detach()
        current = (frame.logits(low)[:, 0] > 0).cpu().numpy()
        points = [correction(t, now, rng, deep=deep) for t, now in zip(targets, current, strict=True)]
        prompts = [  # an answer without fault to a mask alone: a click inside says the same
            Prompt(p.box, (*p.points, *([point] if point else [] if p.box or p.points else [deep_click(t)])))
            for p, point, t in zip(prompts, points, targets, strict=True)
        ]
        given = frame.tensors(prompts, side, device)
        masks = None if told == "nothing" else low
        if told == "mask":
            masks = frame.low(MASK_LOGIT * (2 * torch.from_numpy(current).float().to(device) - 1), side)
        answer = decode(sam, features, encode_prompts(sam, Tensors(given.boxes, given.points, given.labels, masks)))
        loss = loss + loss_of(*answer, truth)
    return loss / (1 + corrections)


def build(image_size: int = 256) -> SamModel:
    """The small SAM before training, all of it trainable but the Fourier features of positions.

    Weights start as PyTorch would draw them and as the authors of SAM did: transformers' own start (deviation 0.02
    everywhere) is meant for checkpoints to be loaded over it, and from it the decoder hardly gets going.
    """
    sam = SamModel(small_config(image_size))
    for module in sam.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            module.reset_parameters()
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight)
    nn.init.normal_(sam.shared_image_embedding.positional_embedding, std=1.0)
    nn.init.normal_(sam.vision_encoder.pos_embed, std=0.02)
    sam.shared_image_embedding.requires_grad_(False)
    sam.prompt_encoder.shared_embedding.requires_grad_(False)
    return use_operator(sam)


@torch.no_grad()
def measure(
    sam: SamModel, per_phantom: int = 8, objects: int = 3, first_seed: int = HELD_OUT
) -> dict[str, dict[str, float]]:
    """Mean IoU on held-out phantoms: of a loose box, of a click, and of that click after up to five corrections.

    Clicks lie deepest in the largest part that is wrong; each comes with the last answer as mask prompt.
    """
    size = sam.config.vision_config.image_size
    frame, side = Frame(size, size, size), mask_side(sam)
    found: dict[str, dict[str, list[float]]] = {}

    def answer(prompt: Prompt, target: np.ndarray, kind: str, last: Tensor | None = None) -> tuple[np.ndarray, Tensor]:
        given = frame.tensors([prompt], side)
        told = Tensors(given.boxes, given.points, given.labels, last)
        logits = decode(sam, features, encode_prompts(sam, told)).logits
        mask = (frame.logits(logits)[0, 0] > 0).numpy()
        scores.setdefault(kind, []).append(float((mask & target).sum() / (mask | target).sum()))
        return mask, logits

    for one in samples(size, first_seed, per_phantom * len(MIXTURE)):
        scores = found.setdefault(one.phantom, {})
        rng = np.random.default_rng(len(scores.get("box", ())))
        features = sam.get_image_embeddings(frame.pixels(torch.from_numpy(one.image)))
        for k in rng.permutation(len(one.objects))[:objects]:
            target = one.objects[k]
            answer(Prompt(loose_box(target, rng)), target, "box")
            points: tuple[Point, ...] = (deep_click(target),)
            mask, logits = answer(Prompt(points=points), target, "click")
            for count in range(1, 6):
                point = correction(target, mask, rng, deep=True)
                points += (point,) if point else ()
                mask, logits = answer(Prompt(points=points), target, f"{count} more", logits)
    return {name: {kind: float(np.mean(v)) for kind, v in kinds.items()} for name, kinds in found.items()}


def save(sam: SamModel, folder: Path) -> None:
    """In half precision, as transformers lays it out."""
    use_operator(sam, False)
    sam.half().save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--start", help="weights that the first stages came to: 'demo' or a folder; only the last two run"
    )
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    recipe = Recipe()
    identity = {"model": "sam", "recipe": asdict(recipe), "start": options.start}
    start = load_sam(options.start, needed_by="the small SAM") if options.start else None
    with Run(options.out, seed=options.seed, resume=options.resume, identity=identity) as run:
        sam = pretrain(recipe, run, start)
    save(sam, options.out / "sam")
    for name, kinds in measure(SamModel.from_pretrained(options.out / "sam").float()).items():
        print(name, " ".join(f"{kind} {value:.3f}" for kind, value in kinds.items()))


if __name__ == "__main__":
    main()
