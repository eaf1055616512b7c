"""Labelled photographs of the source domain as MAP trains on them: at working size, and squares cut out of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from zoo.data.augment import random_square
from zoo.data.case import Case
from zoo.data.images import resize
from zoo.data.sets import read_mask
from zoo.errors import DataError
from zoo.models.map_vessel.model import MapVesselConfig, prepare


@dataclass(frozen=True)
class Source:
    """A labelled photograph of the source domain S at working size, ready to be cropped."""

    grey: Float[np.ndarray, "c h w"]  # D^0, and D^1..D^3 once they exist, in [0, 1]
    rgb: Float[np.ndarray, "3 h w"]  # x, in [0, 1]; what f sees
    mask: UInt8[np.ndarray, "h w"]  # y, 1 in vessels


def crops(
    sources: Sequence[Source],
    index: np.ndarray,
    size: int,
    rng: np.random.Generator,
    *,
    colour: bool = False,
    turns: bool = True,
) -> tuple[Float[Tensor, "n c s s"], Int[Tensor, "n s s"]]:
    """Random squares, flipped and turned by quarters unless ``turns`` is off; all channels and the mask alike.

    ``colour`` takes the photograph instead of its grey pseudo-modalities. Smaller images are padded with 0.
    """
    xs, ys = [], []
    for i in index:
        source = sources[i]
        planes = np.concatenate([source.rgb if colour else source.grey, source.mask[None]])
        window = random_square(planes, size, rng, turn=turns)
        xs.append(window[:-1].astype(np.float32))
        ys.append(window[-1].astype(np.int64))
    return torch.from_numpy(np.stack(xs)), torch.from_numpy(np.stack(ys))


def load_source(case: Case, config: MapVesselConfig) -> Source:
    """D^0, colours and vessel mask of a photograph at working size."""
    if "mask" not in case.masks:
        raise DataError(f"case {case.id} has no vessel mask; map-vessel trains on photographs with masks only")
    prepared = prepare(case.image, config, "fundus")
    mask = read_mask(case) > 0
    if mask.shape != prepared.image.size:
        raise DataError(f"image and mask of case {case.id} differ in size: {prepared.image.size} and {mask.shape}")
    small = resize(mask.astype(np.float32), prepared.grey.shape) > 0.5
    return Source(prepared.grey[None], np.moveaxis(prepared.rgb, -1, 0), small.astype(np.uint8))
