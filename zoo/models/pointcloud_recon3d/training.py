"""How the segmenter is trained: patches of stained sections with tumour marked, cross-entropy and Dice.

The paper states the size of the patches and that tumour is positive and dense tissue negative. Optimiser, rates, epochs
and the frozen gates follow MedT, which it builds on; the rest is this implementation's choice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from zoo import media
from zoo.data.augment import random_turn, turned
from zoo.data.case import Case
from zoo.data.images import pad_to
from zoo.data.sets import read_mask
from zoo.data.stacks import to_uint8
from zoo.data.tissue import patches_on, tissue_mask
from zoo.errors import DataError
from zoo.metrics import dice, segmentation_scores
from zoo.models.pointcloud_recon3d.model import PointCloudRecon3D, Recon3DConfig
from zoo.models.pointcloud_recon3d.network import SegmenterConfig
from zoo.nn.losses import dice_ce
from zoo.nn.schedules import cosine
from zoo.training import Run, TrainData, Training

LEAST_TISSUE = 0.05  # of a patch; emptier ones teach nothing


@dataclass(frozen=True)
class Recon3DRecipe:
    """Training of the segmenter. Registration and rendering have nothing to learn."""

    network: SegmenterConfig = field(default_factory=SegmenterConfig)
    epochs: int = field(default=400, metadata={"min": 1, "max": 1_000_000})  # MedT
    # 0: as many as there are batches of patches
    steps_per_epoch: int = field(default=0, metadata={"min": 0, "max": 1_000_000})
    batch_size: int = field(default=4, metadata={"min": 1, "max": 65_536})  # MedT
    lr: float = field(default=1e-3, metadata={"min": 0.0, "max": 100.0})  # MedT
    weight_decay: float = field(default=1e-5, metadata={"min": 0.0, "max": 100.0})  # MedT
    frozen_gates: int = field(default=10, metadata={"min": 0, "max": 1_000_000})  # epochs, MedT
    colour_jitter: float = field(default=0.15, metadata={"min": 0.0, "max": 1.0})  # of stain; not in the paper
    decay_to: float = field(default=1.0, metadata={"min": 0.0, "max": 1.0})  # of the rate, by a cosine; 1: constant
    dtype: Literal["float32", "float16"] = "float32"  # of the saved weights


def train(recipe: Recon3DRecipe, data: TrainData, run: Run) -> PointCloudRecon3D:
    """Train on the sections of ``data.train``, a stack or a single section each. Raises ``DataError`` without masks."""
    size = recipe.network.patch
    sections = [section for case in data.train for section in load_sections(case)]
    places = [(i, *corner) for i, s in enumerate(sections) for corner in patches_on(s.tissue, size, LEAST_TISSUE)]
    if not places:
        raise DataError("no section of the training set has tissue on it; check the images")
    run.stage("segmenter")
    model = PointCloudRecon3D(Recon3DConfig(network=recipe.network))
    adam = torch.optim.Adam(model.network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    gates = [parameter for name, parameter in model.network.named_parameters() if name.endswith("gates")]
    network, adam = run.track(network=model.network, adam=adam)
    batch = min(recipe.batch_size, len(places))
    steps_per_epoch = recipe.steps_per_epoch or math.ceil(len(places) / batch)
    total = recipe.epochs * steps_per_epoch

    for step in run.steps(total, description="segmenter"):
        network.train()
        adam.param_groups[0]["lr"] = recipe.lr * cosine(step, total, floor=recipe.decay_to)
        rng = run.generator("patches", step, run.accelerator.process_index)
        picked = [places[i] for i in run.indices(len(places), batch, step)]
        x, y = draw_patches(sections, picked, size, recipe.colour_jitter, rng)
        x, y = x.to(run.device), y.to(run.device)
        loss = dice_ce(network(x), y)
        adam.zero_grad()
        run.backward(loss)
        if step < recipe.frozen_gates * steps_per_epoch:
            for gate in gates:
                gate.grad = None
        adam.step()
        run.log(loss=loss)
        if (step + 1) % max(1, 50 * steps_per_epoch) == 0 and len(data.validation):
            run.log(validation_dice=_dice(model, [s for case in data.validation for s in load_sections(case)]))
    return model.eval()


@dataclass(frozen=True)
class LabelledSection:
    rgb: UInt8[np.ndarray, "h w 3"]
    tumour: UInt8[np.ndarray, "h w"]
    tissue: Bool[np.ndarray, "h w"]


def load_sections(case: Case) -> list[LabelledSection]:
    """The sections of a case: a stack ``[z h w 3]``, or one image. Raises ``DataError`` unless RGB with a mask."""
    if "mask" not in case.masks:
        raise DataError(f"case {case.id} has no mask; the segmenter trains on sections with tumour marked")
    image = media.read(case.image)
    if image.channels != 3:
        raise DataError(f"case {case.id} has {image.channels} channels; the segmenter trains on RGB sections")
    pixels, masks = to_uint8(image), read_mask(case) > 0
    pixels = pixels[None] if pixels.ndim == 3 else pixels
    masks = masks[None] if masks.ndim == 2 else masks  # a mask of one slice is read as a plane
    if masks.shape != pixels.shape[:3]:
        raise DataError(f"image and mask of case {case.id} differ in size: {pixels.shape[:3]} and {masks.shape}")
    return [
        LabelledSection(rgb, mask.astype(np.uint8), tissue_mask(rgb)) for rgb, mask in zip(pixels, masks, strict=True)
    ]


def draw_patches(
    sections: Sequence[LabelledSection], places: Sequence[tuple[int, int, int]], size: int, jitter: float,
    rng: np.random.Generator,
) -> tuple[Float[Tensor, "b 3 s s"], Int[Tensor, "b s s"]]:  # fmt: skip
    """Patches near the given corners, flipped, turned by quarters, and stained a little otherwise."""
    xs, ys = [], []
    for i, top, left in places:
        section = sections[i]
        rgb, tumour = pad_to(section.rgb, size, mode="edge"), pad_to(section.tumour, size)
        top, left = (
            int(np.clip(corner + rng.integers(-size // 4, size // 4 + 1), 0, side - size))
            for corner, side in zip((top, left), tumour.shape, strict=True)
        )
        turns, mirror = random_turn(rng)
        x, y = (turned(a[top : top + size, left : left + size], turns, mirror) for a in (rgb, tumour))
        density = -np.log10(np.maximum(x, 1) / 255.0)  # stains are linear in it
        density = density * rng.uniform(1 - jitter, 1 + jitter, 3)
        xs.append(np.moveaxis(10.0**-density, -1, 0).astype(np.float32))
        ys.append(y.astype(np.int64))
    return torch.from_numpy(np.stack(xs)), torch.from_numpy(np.stack(ys))


def _dice(model: PointCloudRecon3D, sections: Sequence[LabelledSection]) -> float:
    model.network.eval()
    values = [dice(model.segment(s.rgb, s.tissue) > 0.5, s.tumour > 0, empty=0.0) for s in sections]
    model.network.train()
    return float(np.mean(values))


def score(model: PointCloudRecon3D, case: Case, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Dice of the tumour masks and, where the case knows how its layers were moved, the error of the registration."""
    prediction = model.predict([one.image for one in case.images] or case.image, **options)
    masks = [read_mask(one) > 0 for one in case.images or (case,)]
    truth = np.concatenate([mask[None] if mask.ndim == 2 else mask for mask in masks])
    scores = {}
    if truth.shape[1:] == prediction.tumour_masks[0].shape:
        found = np.stack(prediction.tumour_masks)
        scores = segmentation_scores(found.astype(np.uint8), truth.astype(np.uint8), ("other", "tumour"))
    if (moved := case.attributes.get("transforms")) is not None and len(truth) > 1:
        before, after = prediction.true_error(moved)
        scores |= {"error_px_unregistered": before, "error_px": after}
    if not scores:
        raise DataError(f"case {case.id} can't be scored: its masks differ in size from the prediction's")
    return scores


training = Training(
    recipe=Recon3DRecipe,
    presets={
        "paper": {},
        # A narrow network and few steps: seconds on one CPU core, for the phantom's stain tells most of it.
        "demo": {
            "network": SegmenterConfig(
                heads=1, stem=(8, 16, 8), global_planes=(4, 8), global_blocks=(1, 1), local_planes=(4, 8, 16, 16),
                local_blocks=(1, 1, 1, 1),
            ),
            "epochs": 8, "steps_per_epoch": 10, "batch_size": 2, "lr": 1e-2, "decay_to": 0.02, "frozen_gates": 1,
            "dtype": "float16",
        },
    },
    run=train,
    score=score,
)  # fmt: skip
