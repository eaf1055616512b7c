"""A FLAIR volume as the network takes it, and what a client draws from: crops with a mask, and crops without one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from zoo import media
from zoo.data.case import Case
from zoo.data.scans import Kept, patch_at
from zoo.data.sets import read_mask
from zoo.data.volumes import Grid, resample, standardise, voxels
from zoo.errors import DataError, MediaError, OptionError
from zoo.models.fed_cot import plugin
from zoo.models.fed_cot.network import Spacing

LEAST_ML, MOST_ML = 500.0, 2200.0
"""Between them lies whatever is a brain without its skull, of an adult or a child."""


@dataclass(frozen=True, eq=False)
class Brain:
    """A volume on the network's grid, mean 0 and deviation 1 over the brain and 0 outside, and where it came from.

    ``inside``: the voxels of the brain. ``y``: the lesions, where somebody has marked them.
    """

    x: Float[Tensor, "1 x y z"]
    inside: Bool[Tensor, "1 x y z"]
    grid: Grid
    native: Grid
    notes: tuple[str, ...] = ()
    y: Bool[Tensor, "1 x y z"] | None = None


def read_brain(image: media.Image, spacing: Spacing, brain_mask: Any = None) -> Brain:
    """A FLAIR volume in RAS at ``spacing``, z-scored over the brain: the mask's voxels, or all that aren't background.

    So its scale makes no difference, and a volume that is z-scored already stays as it is. Raises ``MediaError`` for
    one without spacing, with several channels, stated to be no MR, or in which nothing differs from the background;
    ``OptionError`` for a brain mask of another size.
    """
    modality = str(image.meta.get("modality", "MR"))
    if modality != "MR":
        raise MediaError(f"{plugin.name} takes FLAIR MR and {image.source} is {modality}")
    array, native = voxels(image, plugin.name)
    values = array.astype(np.float32)
    if brain_mask is None:
        inside, notes = _brain(values, native)
    else:
        inside, notes = fitted_mask(brain_mask, native, "brain mask"), []
    if not inside.any() or values[inside].min() == values[inside].max():
        where = "that differs from its background" if brain_mask is None else "inside of the brain mask"
        raise MediaError(f"there is no brain in {image.source}: nothing {where}")
    notes += _notes_on(image, native)
    grid = native.oriented("RAS").spaced(spacing[::-1])
    z = np.where(inside, standardise(values, inside), np.float32(0))
    x = resample(z, native, grid)
    within = resample(inside.astype(np.uint8), native, grid, mode="nearest") > 0
    x, within = (np.ascontiguousarray(one.T)[None] for one in (np.where(within, x, np.float32(0)), within))
    return Brain(torch.from_numpy(x), torch.from_numpy(within), grid, native, tuple(notes))


def _brain(values: Float32[np.ndarray, "z h w"], grid: Grid) -> tuple[Bool[np.ndarray, "z h w"], list[str]]:
    """What isn't background, which is the value that all corners share, else 0; and what speaks against it."""
    corners = {float(values[where]) for where in product((0, -1), repeat=3)}
    ground = corners.pop() if len(corners) == 1 else 0.0
    inside = values != ground
    share = float(inside.mean())
    if share > 0.95:
        return inside, [
            "the skull doesn't seem to be stripped: hardly any voxel is background, and grey values are standardised "
            "over all there is; give brain_mask, or a volume that is 0 outside of the brain"
        ]
    size = float(inside.sum()) * grid.voxel_ml if grid.measured else LEAST_ML
    if size > MOST_ML:
        return inside, [
            f"the skull doesn't seem to be stripped: {size:,.0f} ml aren't background, more than a brain has; give "
            "brain_mask, or a volume that is 0 outside of the brain"
        ]
    return inside, [f"only {size:,.0f} ml aren't background, less than a brain has"] if size < LEAST_ML else []


def _notes_on(image: media.Image, native: Grid) -> list[str]:
    notes = []
    coarse = max(native.spacing)
    if native.measured and coarse > 6:
        notes.append(f"slices {coarse:.3g} mm apart miss lesions that are smaller")
    told = " ".join(str(image.meta.get(name, "")) for name in ("description", "series_description", "protocol"))
    if any(word in told.casefold() for word in ("t1", "t2w", "dwi", "swi", "adc")) and "flair" not in told.casefold():
        notes.append(f"the series is called {told.strip()!r}, which doesn't sound like FLAIR")
    return notes


def fitted_mask(given: Any, native: Grid, what: str) -> Bool[np.ndarray, "z h w"]:
    """A mask on the grid of the image, whatever is labelled. Raises ``OptionError`` for one of another size."""
    if isinstance(given, np.ndarray | Tensor):
        if given.ndim != 3:
            raise OptionError(f"the {what} has {given.ndim} axes; a volume has 3: slices, rows and columns")
        given = media.Image(np.asarray(given), ndim_spatial=3)
    labels = media.read_labels(given).require_3d(f"a {what}")
    array = labels.array.reshape(labels.size)
    if array.shape != native.shape:
        raise OptionError(f"the {what} has {array.shape} voxels and the volume {native.shape}; give its own mask")
    return np.asarray(array > 0)


def read_case(case: Case, spacing: Spacing, labelled: bool) -> Brain:
    """A case, and its lesions if it's ``labelled``. Raises ``DataError`` for a mask of another size than its volume."""
    image = media.read(case.image).require_3d(plugin.name)
    brain = read_brain(image, spacing)
    if not labelled:
        return brain
    mask = lesions_of(case, brain.native)
    y = resample(mask.astype(np.float32), brain.native, brain.grid, outside=0.0) >= 0.5
    return Brain(brain.x, brain.inside, brain.grid, brain.native, brain.notes, _to_network(y))


def lesions_of(case: Case, native: Grid) -> Bool[np.ndarray, "z h w"]:
    """The true mask on the grid of the file."""
    mask = np.asarray(read_mask(case) > 0)
    if mask.shape != native.shape and mask.size == np.prod(native.shape):
        mask = mask.reshape(native.shape)
    if mask.shape != native.shape:
        raise DataError(f"volume and mask of case {case.id} differ in size: {native.shape} and {mask.shape}")
    return mask


def _to_network(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array.T)[None])


def _bytes_of(brain: Brain) -> int:
    return 6 * brain.x.numel()


@dataclass(frozen=True)
class Brains:
    """A client's volumes: with a mask, and without (Sec. 2.2, L_k and U_k)."""

    known: Sequence[Case]
    unknown: Sequence[Case]
    patch: tuple[int, ...]
    centred: float  # share of the labelled crops whose centre is in a lesion
    augment: bool
    scans: tuple[Kept[Brain], Kept[Brain]]

    @classmethod
    def of(
        cls, known: Sequence[Case], unknown: Sequence[Case], spacing: Spacing, patch: tuple[int, ...],
        centred: float = 0.5, augment: bool = True,
    ) -> Brains:  # fmt: skip
        scans = (
            Kept(lambda place: read_case(known[place], spacing, True), _bytes_of),
            Kept(lambda place: read_case(unknown[place], spacing, False), _bytes_of),
        )
        return cls(known, unknown, patch, centred, augment, scans)

    def __len__(self) -> int:
        return len(self.known) + len(self.unknown)

    def labelled(self, count: int, rng: np.random.Generator) -> tuple[Float[Tensor, "b 1 *grid"], Tensor]:
        """Crops and their lesions, each 0 or 1; flipped, brighter or darker, if that is asked for."""
        xs, ys = [], []
        for _ in range(count):
            brain = self.scans[0][int(rng.integers(len(self.known)))]
            assert brain.y is not None
            lesion = rng.random() < self.centred and bool(brain.y.any())
            centre = _place(brain.y if lesion else brain.inside, rng)
            x, y = (patch_at(one, centre, self._size) for one in (brain.x, brain.y))
            if self.augment:
                axes = [axis for axis in (1, 2, 3) if rng.random() < 0.5]
                scale, shift = rng.uniform(0.9, 1.1), rng.uniform(-0.1, 0.1)
                x = torch.where(x == 0, x, x * scale + shift).flip(axes)
                y = y.flip(axes)
            xs.append(x)
            ys.append(y)
        return torch.stack(xs), torch.stack(ys)

    def unlabelled(self, count: int, rng: np.random.Generator) -> Float[Tensor, "b 1 *grid"]:
        """Crops about any place of the brain, as they are: what the teachers see."""
        crops = []
        for _ in range(count):
            brain = self.scans[1][int(rng.integers(len(self.unknown)))]
            crops.append(patch_at(brain.x, _place(brain.inside, rng), self._size))
        return torch.stack(crops)

    @property
    def _size(self) -> tuple[int, int, int]:
        return self.patch[0], self.patch[1], self.patch[2]


def _place(where: Bool[Tensor, "1 x y z"], rng: np.random.Generator) -> list[int]:
    places = np.flatnonzero(where.numpy())
    if not len(places):
        places = np.arange(where.numel())
    chosen = np.unravel_index(places[rng.integers(len(places))], tuple(where.shape[1:]))
    return [int(c) for c in chosen]
