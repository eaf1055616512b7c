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
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from transformers import SamModel

from zoo.data.augment import turned
from zoo.data.case import Case
from zoo.data.phantoms import PHANTOMS
from zoo.metrics import iou
from zoo.nn.losses import dice_bce, dice_losses
from zoo.nn.promptable.attention import use_operator
from zoo.nn.promptable.clicks import follow
from zoo.nn.promptable.frame import Frame, Tensors
from zoo.nn.promptable.promptable import Promptable, decode, encode_prompts, mask_side
from zoo.nn.promptable.prompts import Box, Point, Prompt, box_around
from zoo.nn.promptable.sam import resize_input, small_config
from zoo.nn.promptable.session import Session
from zoo.nn.schedules import cosine_schedule
from zoo.training.run import Run

MIXTURE: dict[str, tuple[str, ...]] = {  # which masks of a phantom hold objects
    "skin-lesion": ("mask",),
    "fundus": ("disc", "fov"),
    "he-tile": ("nuclei", "tumour"),
    "chest-xray": ("lungs", "heart", "mask"),
    "ultrasound": ("mask",),
    "ct-slice": ("mask", "lesions"),
    "surgical-frame": ("instances", "parts"),
}
SMALLEST = 24  # px of an object at the size of the network's input
MOST = 16  # objects kept of one image
HELD_OUT = 1_000_000  # seeds from here on are for testing


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
    masks: Stage = Stage(  # of the same size as the last of ``stages``
        image_size=256, images=560, steps=600, batch_size=4, objects=4, lr=1e-3, corrections=0
    )
    warmup: int = 50
    weight_decay: float = 0.01
    kinship: float = 1.0  # weight of that loss
    places: int = 128  # per image, compared with each other


@dataclass(frozen=True)
class Sample:
    image: UInt8[np.ndarray, "h w 3"]
    objects: list[Bool[np.ndarray, "h w"]]
    phantom: str


def objects_of(case: Case, names: tuple[str, ...]) -> list[np.ndarray]:
    """Connected parts of the masks of a phantom that are large enough to point at."""
    from scipy.ndimage import label

    found = []
    for name in names:
        values = np.asarray(case.masks[name])
        for value in np.unique(values[values > 0]):
            parts, count = label(values == value)
            sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
            found += [parts == k + 1 for k in np.flatnonzero(sizes >= SMALLEST)]
    return found


def sample(phantom: str, seed: int, size: int) -> Sample:
    """One phantom with up to ``MOST`` of its objects, at the size of the network's input."""
    case = PHANTOMS[phantom].load()(seed, size=size)
    image = np.asarray(case.image)
    image = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
    objects = objects_of(case, MIXTURE[phantom])
    chosen = np.random.default_rng(seed).permutation(len(objects))[:MOST]
    return Sample(image, [objects[k] for k in chosen], phantom)


def samples(size: int, first_seed: int, count: int) -> Iterator[Sample]:
    """``count`` images with at least one object each, the phantoms by turns."""
    seed = first_seed
    names = list(MIXTURE)
    made = 0
    while made < count:
        one = sample(names[made % len(names)], seed, size)
        seed += 1
        if one.objects:
            made += 1
            yield one


@lru_cache(maxsize=1)
def training_samples(size: int, count: int) -> tuple[Sample, ...]:
    """Made when first needed: a stage that is resumed after its end needs none, and the last two share theirs."""
    return tuple(samples(size, 0, count))


def augmented(one: Sample, rng: np.random.Generator) -> tuple[np.ndarray, list[np.ndarray]]:
    """The image turned, mirrored, in other colours and contrast; and its objects."""
    turns, mirror = int(rng.integers(4)), bool(rng.integers(2))

    def moved(array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(turned(array, turns, mirror))

    image = moved(one.image) / 255
    image = image ** np.exp(rng.normal(0, 0.25)) * rng.uniform(0.8, 1.2, 3) + rng.uniform(-0.1, 0.1)
    if rng.uniform() < 0.2:  # grey
        image = np.repeat(image.mean(2, keepdims=True), 3, axis=2)
    return 255 * np.clip(image, 0, 1).astype(np.float32), [moved(found) for found in one.objects]


def some(objects: list[np.ndarray], count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """``count`` of the objects; some twice if there are fewer."""
    return [objects[k] for k in rng.choice(len(objects), count, replace=len(objects) < count)]


def loose_box(target: np.ndarray, rng: np.random.Generator, looseness: float = 0.1) -> Box:
    """The box around ``target`` with each side moved by noise of a tenth of its length, at most 20 px (SAM)."""
    height, width = target.shape
    box = box_around(target)
    dx = np.clip(rng.normal(0, looseness * (box.x1 - box.x0), 2), -20, 20)
    dy = np.clip(rng.normal(0, looseness * (box.y1 - box.y0), 2), -20, 20)
    x0, x1 = np.clip([box.x0 + dx[0], box.x1 + dx[1]], 0, width)
    y0, y1 = np.clip([box.y0 + dy[0], box.y1 + dy[1]], 0, height)
    return Box(float(x0), float(y0), float(max(x1, x0 + 1)), float(max(y1, y0 + 1)))


def click(region: np.ndarray, rng: np.random.Generator) -> Point:
    rows, columns = np.nonzero(region)
    k = int(rng.integers(len(rows)))
    return Point(float(columns[k]), float(rows[k]))


def correction(target: np.ndarray, answer: np.ndarray, rng: np.random.Generator) -> Point | None:
    """A click where the answer is wrong: in what it missed, or (a background click) in what it has too much."""
    wrong = target != answer
    if not wrong.any():
        return None
    point = click(wrong, rng)
    return Point(point.x, point.y, bool(target[int(point.y), int(point.x)]))


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


def pretrain(recipe: Recipe, run: Run) -> SamModel:
    """The training; resumes exactly."""
    sam = None
    for stage in recipe.stages:
        run.stage(f"{stage.image_size}px")
        if sam is None:
            sam = build(stage.image_size)
            kinship = Kinship(sam.config.vision_config.output_channels)
        else:
            resize_input(sam, stage.image_size)
        learn(sam, kinship, stage, recipe, run)
    assert sam is not None
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


def drawn(
    stage: Stage, frame: Frame, run: Run, step: int
) -> tuple[Float[Tensor, "b 3 s s"], list[list[np.ndarray]], list[np.ndarray], np.random.Generator]:
    """The images of a step, all objects of each, those that are asked for, and what the prompts are drawn from."""
    made = training_samples(stage.image_size, stage.images)
    rng = run.generator("prompts", step)
    index = run.indices(len(made), stage.batch_size, step)
    images, objects = zip(*(augmented(made[i], rng) for i in index), strict=True)
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


def measure(
    sam: SamModel, per_phantom: int = 8, objects: int = 3, first_seed: int = HELD_OUT
) -> dict[str, dict[str, float]]:
    """Mean IoU on held-out phantoms: of a loose box, of one click, and of that click after up to five corrections.

    The clicks are those of ``zoo.nn.promptable.clicks``.
    """
    promptable = Promptable(sam)
    found: dict[str, dict[str, list[float]]] = {}
    for one in samples(promptable.size, first_seed, per_phantom * len(MIXTURE)):
        scores = found.setdefault(one.phantom, {name: [] for name in ("box", *CORRECTED)})
        rng = np.random.default_rng(len(scores["box"]))
        image = promptable.embed(one.image)
        for k in rng.permutation(len(one.objects))[:objects]:
            target = one.objects[k]
            boxed = promptable.ask(image, [Prompt(loose_box(target, rng))])
            scores["box"].append(iou((image.frame.logits(boxed.logits)[0, 0] > 0).numpy(), target))
            trace = follow(Session(promptable, one.image), target, most=6)
            for name, clicks in CORRECTED.items():
                scores[name].append(trace.after(clicks))
    return {name: {kind: float(np.mean(v)) for kind, v in kinds.items()} for name, kinds in found.items()}


CORRECTED = {"click": 1, "1 more": 2, "3 more": 4, "5 more": 6}  # clicks in all


def save(sam: SamModel, folder: Path) -> None:
    """In half precision, as transformers lays it out."""
    use_operator(sam, False)
    sam.half().save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    recipe = Recipe()
    identity = {"model": "sam", "recipe": asdict(recipe)}
    with Run(options.out, seed=options.seed, resume=options.resume, identity=identity) as run:
        sam = pretrain(recipe, run)
    save(sam, options.out / "sam")
    for name, kinds in measure(SamModel.from_pretrained(options.out / "sam").float()).items():
        print(name, " ".join(f"{kind} {value:.3f}" for kind, value in kinds.items()))


if __name__ == "__main__":
    main()
