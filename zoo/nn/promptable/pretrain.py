"""How the small SAM that comes with the zoo was made: ``python -m zoo.nn.promptable.pretrain OUT``.

A SAM of the same architecture as the published ones, three hundred times smaller, learns to follow boxes, clicks and
earlier masks on a mixture of all phantoms, by SAM's own recipe in small (A. Kirillov et al., Segment Anything, 2023,
App. A): an object of an image is asked for with a random kind of prompt; then once more, with a click where the answer
was wrong and the answer itself as mask prompt. Focal and Dice loss 20 : 1, a quality head trained on the true IoU.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from transformers import SamModel

from zoo.data.case import Case
from zoo.data.phantoms import PHANTOMS
from zoo.nn.promptable.attention import use_operator
from zoo.nn.promptable.frame import Frame, Tensors
from zoo.nn.promptable.promptable import decode, encode_prompts, mask_side
from zoo.nn.promptable.prompts import Box, Point, Prompt, box_around
from zoo.nn.promptable.sam import small_config
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
class Recipe:
    """Small where SAM's recipe is large; the losses and their weights are SAM's."""

    image_size: int = 256
    images: int = 840  # phantoms made once, in equal shares
    steps: int = 1600
    batch_size: int = 6
    objects: int = 4  # per image and step
    lr: float = field(default=1e-3, metadata={"min": 0.0})
    warmup: int = 60
    weight_decay: float = 0.05
    corrections: int = 1  # further questions after the first


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


def samples(recipe: Recipe, first_seed: int, count: int) -> Iterator[Sample]:
    """``count`` images with at least one object each, the phantoms by turns."""
    seed = first_seed
    names = list(MIXTURE)
    made = 0
    while made < count:
        one = sample(names[made % len(names)], seed, recipe.image_size)
        seed += 1
        if one.objects:
            made += 1
            yield one


def augmented(one: Sample, count: int, rng: np.random.Generator) -> tuple[np.ndarray, list[np.ndarray]]:
    """The image turned, mirrored, in other colours and contrast; and ``count`` of its objects."""
    turns, mirror = int(rng.integers(4)), bool(rng.integers(2))

    def moved(array: np.ndarray) -> np.ndarray:
        array = np.rot90(array, turns)
        return np.ascontiguousarray(array[:, ::-1] if mirror else array)

    image = moved(one.image) / 255
    image = image ** np.exp(rng.normal(0, 0.25)) * rng.uniform(0.8, 1.2, 3) + rng.uniform(-0.1, 0.1)
    if rng.uniform() < 0.2:  # grey
        image = np.repeat(image.mean(2, keepdims=True), 3, axis=2)
    picked = rng.choice(len(one.objects), count, replace=len(one.objects) < count)
    return 255 * np.clip(image, 0, 1).astype(np.float32), [moved(one.objects[k]) for k in picked]


def loose_box(target: np.ndarray, rng: np.random.Generator, looseness: float = 0.1) -> Box:
    """The box around ``target`` with each side moved by noise of a tenth of its length, at most 20 px (SAM)."""
    height, width = target.shape
    box = box_around(target)
    dx = np.clip(rng.normal(0, looseness * (box.x1 - box.x0), 2), -20, 20)
    dy = np.clip(rng.normal(0, looseness * (box.y1 - box.y0), 2), -20, 20)
    x0, x1 = np.clip([box.x0 + dx[0], box.x1 + dx[1]], 0, width)
    y0, y1 = np.clip([box.y0 + dy[0], box.y1 + dy[1]], 0, height)
    return Box(float(x0), float(y0), float(max(x1, x0 + 1)), float(max(y1, y0 + 1)))


def click(region: np.ndarray, rng: np.random.Generator, inside: bool = True) -> Point:
    rows, columns = np.nonzero(region)
    k = int(rng.integers(len(rows)))
    return Point(float(columns[k]), float(rows[k]), inside)


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
    """20 focal + Dice + squared error of the predicted IoU."""
    from monai.losses import DiceLoss, FocalLoss

    inside = logits.detach() > 0
    truth = target > 0.5
    iou = (inside & truth).flatten(1).sum(1) / (inside | truth).flatten(1).sum(1).clamp(min=1)
    return (
        20 * FocalLoss(gamma=2.0, alpha=0.25)(logits, target)
        + DiceLoss(sigmoid=True, smooth_nr=1.0, smooth_dr=1.0)(logits, target)
        + F.mse_loss(quality[:, 0], iou)
    )


def pretrain(recipe: Recipe, run: Run) -> SamModel:
    """The training; resumes exactly."""
    run.stage("sam")
    sam = build(recipe.image_size)
    parameters = [p for p in sam.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / recipe.warmup)
        * 0.5 * (1 + np.cos(np.pi * min(1.0, step / recipe.steps))),
    )  # fmt: skip
    run.track(model=sam, optimizer=optimizer)
    run.keep(schedule=schedule)
    made = list(samples(recipe, 0, recipe.images))
    frame = Frame(recipe.image_size, recipe.image_size, recipe.image_size)
    for step in run.steps(recipe.steps):
        rng = run.generator("prompts", step)
        index = run.indices(len(made), recipe.batch_size, step)
        images, objects = zip(*(augmented(made[i], recipe.objects, rng) for i in index), strict=True)
        pixels = torch.cat([frame.pixels(torch.from_numpy(image)) for image in images]).to(run.device)
        features = sam.vision_encoder(pixels).last_hidden_state.repeat_interleave(recipe.objects, 0)
        loss = ask(sam, features, [one for each in objects for one in each], recipe, frame, rng)
        optimizer.zero_grad()
        run.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        run.log(loss=loss)
    return sam.eval()


def ask(
    sam: SamModel,
    features: Float[Tensor, "n c g g"],
    targets: list[np.ndarray],
    recipe: Recipe,
    frame: Frame,
    rng: np.random.Generator,
) -> Float[Tensor, ""]:
    """The loss of a first answer and of ``corrections`` further ones; all objects are asked for in one way."""
    boxed = rng.uniform() < 0.5
    prompts = [Prompt(box=loose_box(t, rng)) if boxed else Prompt(points=(click(t, rng),)) for t in targets]
    side, device = mask_side(sam), features.device
    truth = frame.low(torch.from_numpy(np.stack(targets).astype(np.float32)).to(device), side)
    answer = decode(sam, features, encode_prompts(sam, frame.tensors(prompts, side, device)))
    loss = loss_of(*answer, truth)
    for _ in range(recipe.corrections):
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
    return loss / (1 + recipe.corrections)


def build(image_size: int = 256) -> SamModel:
    """The small SAM before training, all of it trainable but the Fourier features of positions."""
    sam = SamModel(small_config(image_size))
    torch.nn.init.normal_(sam.shared_image_embedding.positional_embedding, std=1.0)
    torch.nn.init.normal_(sam.vision_encoder.pos_embed, std=0.02)
    sam.shared_image_embedding.requires_grad_(False)
    sam.prompt_encoder.shared_embedding.requires_grad_(False)
    return use_operator(sam)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / max(1, a.sum() + b.sum()))


@torch.no_grad()
def measure(sam: SamModel, recipe: Recipe, per_phantom: int = 8) -> dict[str, dict[str, float]]:
    """Mean Dice on held-out phantoms: of a loose box, of one click, and of the click with one correction."""
    frame = Frame(recipe.image_size, recipe.image_size, recipe.image_size)
    found: dict[str, dict[str, list[float]]] = {}
    side = mask_side(sam)
    for one in samples(recipe, HELD_OUT, per_phantom * len(MIXTURE)):
        rng = np.random.default_rng(len(found))
        features = sam.get_image_embeddings(frame.pixels(torch.from_numpy(one.image)))
        scores = found.setdefault(one.phantom, {"box": [], "point": [], "corrected": []})
        for k in rng.permutation(len(one.objects))[: recipe.objects]:
            target = one.objects[k]
            for kind in ("box", "point"):
                prompt = Prompt(loose_box(target, rng)) if kind == "box" else Prompt(points=(click(target, rng),))
                answer = decode(sam, features, encode_prompts(sam, frame.tensors([prompt], side)))
                mask = (frame.logits(answer.logits)[0, 0] > 0).numpy()
                scores[kind].append(dice(mask, target))
            point = correction(target, mask, rng)
            given = frame.tensors([Prompt(points=(*prompt.points, *([point] if point else [])))], side)
            again = Tensors(None, given.points, given.labels, answer.logits)
            answer = decode(sam, features, encode_prompts(sam, again))
            scores["corrected"].append(dice((frame.logits(answer.logits)[0, 0] > 0).numpy(), target))
    return {name: {kind: float(np.mean(v)) for kind, v in kinds.items()} for name, kinds in found.items()}


def save(sam: SamModel, folder: Path) -> None:
    """In half precision, as transformers lays it out."""
    use_operator(sam, False)
    sam.half().save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    recipe = Recipe(steps=options.steps)
    with Run(options.out, seed=options.seed, resume=options.resume, identity={"model": "sam"}) as run:
        sam = pretrain(recipe, run)
    save(sam, options.out / "sam")
    for name, kinds in measure(SamModel.from_pretrained(options.out / "sam").float(), recipe).items():
        print(name, " ".join(f"{kind} {value:.3f}" for kind, value in kinds.items()))


if __name__ == "__main__":
    main()
