"""Student and sync-teacher, and what they find in one FLAIR volume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from zoo import media
from zoo.data.volumes import Grid, components, resample
from zoo.errors import OptionError
from zoo.metrics import dice
from zoo.model import Model
from zoo.models.fed_cot import plugin
from zoo.models.fed_cot.data import fitted_mask, read_brain
from zoo.models.fed_cot.network import CoTConfig, Network
from zoo.models.fed_cot.result import Lesion, Lesions
from zoo.nn.windows import sliding_window


class FedCoT(Model[Lesions]):
    """``network``: the student of all clients; ``sync``: the teacher that is averaged with it, or ``None``."""

    plugin: ClassVar = plugin
    config_class: ClassVar[type] = CoTConfig

    def __init__(self, config: CoTConfig | None = None) -> None:
        super().__init__(config)
        self.network = Network(self.config)
        self.sync = Network(self.config) if self.config.sync else None

    def forward(self, x: Float[Tensor, "b 1 *grid"]) -> Float[Tensor, "b 1 *grid"]:
        """Logits of the student."""
        return cast(Tensor, self.network(x))

    def _predict(
        self, images: Sequence[media.Image], *, network: str, threshold: float, brain_mask: Any, least: int,
        reference: Any,
    ) -> list[Lesions]:  # fmt: skip
        if network == "sync" and self.sync is None:
            raise OptionError("these weights have no sync-teacher; leave network at student")
        return [self._one(image, network, threshold, brain_mask, least, reference) for image in images]

    def _one(
        self, image: media.Image, which: str, threshold: float, brain_mask: Any, least: int, reference: Any
    ) -> Lesions:
        config = self.config
        brain = read_brain(image, config.spacing, brain_mask)
        truth = None if reference is None else fitted_mask(reference, brain.native, "reference")
        net = self.sync if which == "sync" and self.sync is not None else self.network
        p = sliding_window(
            net, brain.x, config.patch, finish=lambda logits: logits.sigmoid().half(), device=self.device,
            description="windows",
        )  # fmt: skip
        p = np.where(brain.inside.numpy(), p.float().numpy(), np.float32(0))[0]
        probability = np.clip(resample(np.ascontiguousarray(p.T), brain.grid, brain.native, outside=0.0), 0, 1)
        mask, lesions = separated(probability > threshold, brain.native, least)
        measured = {"lesions": float(len(lesions)), "load_ml": round(sum(one.ml for one in lesions), 4)}
        if truth is not None:
            measured["dice"] = round(dice(mask, truth), 4)
        notes = list(brain.notes)
        if not mask.any():
            notes.append("no lesion was found")
        return Lesions(
            image=image, mask=mask.astype(np.uint8), labels=plugin.labels, probability=probability, lesions=lesions,
            reference=None if truth is None else truth.astype(np.uint8), measurements=measured, notes=tuple(notes),
            options={"network": which, "threshold": threshold},
        )  # fmt: skip


def separated(
    mask: Bool[np.ndarray, "z h w"], grid: Grid, least: int = 1
) -> tuple[Bool[np.ndarray, "z h w"], tuple[Lesion, ...]]:
    """The mask without parts of fewer than ``least`` voxels, and its lesions: parts whose voxels touch, corners too.

    The largest comes first. Raises ``MediaError`` where the size of a voxel is unknown.
    """
    parts, sizes = components(mask, 26)
    order = [int(n) for n in 1 + np.argsort(-sizes[1:], kind="stable") if sizes[n] >= max(1, least)]
    middles = _middles(parts, len(sizes))
    lesions = tuple(
        Lesion(round(int(sizes[n]) * grid.voxel_ml, 4), int(sizes[n]), tuple(round(float(c), 1) for c in middles[n]))
        for n in order
    )
    return np.isin(parts, order), lesions


def _middles(parts: np.ndarray, count: int) -> Float[np.ndarray, "n 3"]:
    """The mean index of each part's voxels: slice, row, column."""
    places = np.argwhere(parts)
    numbers = parts[tuple(places.T)]
    sums = np.stack([np.bincount(numbers, places[:, axis], count) for axis in range(3)], 1)
    return sums / np.maximum(np.bincount(numbers, minlength=count), 1)[:, None]
