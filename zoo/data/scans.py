"""From CT volumes and masks in files to what the network sees, and patches of it.

Everything is ``[x y z]``, running to the patient's right, front and head (RAS), at the spacing of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from zoo import media
from zoo.data.case import Case
from zoo.data.support import Annotation, organ_of, same_name, structures
from zoo.data.volumes import Grid, largest_component, resample, voxels, window
from zoo.errors import DataError, MediaError

Size = tuple[int, int, int]
T = TypeVar("T")


@dataclass(frozen=True)
class View:
    """How volumes are looked at: mm along x, y and z, and the Hounsfield units that become 0 and 1 (Sec. 4)."""

    spacing: tuple[float, float, float] = field(default=(1.5, 1.5, 1.5), metadata={"min": 0.05, "max": 50.0})
    window: tuple[float, float] = field(default=(-175.0, 250.0), metadata={"min": -32768.0, "max": 32767.0})


@dataclass(frozen=True, eq=False)
class Scan:
    """A volume in [0, 1] on the network's grid, and where it came from. ``y``: masks, by the names of structures."""

    x: Float[Tensor, "1 x y z"]
    grid: Grid
    native: Grid
    source: str
    y: Mapping[str, Bool[Tensor, "x y z"]]

    def size(self, organ: str) -> int:
        """Voxels of a structure on the network's grid."""
        return int(self.y[organ].sum())


def read_scan(image: media.Image, view: View, needed_by: str) -> Scan:
    """A CT volume as a network looks at it.

    Raises ``MediaError`` for a volume without spacing, with several channels, or one that is stated to be no CT.
    """
    modality = str(image.meta.get("modality", "CT"))
    if modality != "CT":
        raise MediaError(f"{needed_by} takes CT and {image.source} is {modality}")
    array, native = voxels(image, needed_by)
    grid = native.oriented("RAS").spaced(view.spacing[::-1])
    values = window(resample(array, native, grid), *view.window)
    return Scan(torch.from_numpy(np.ascontiguousarray(values.T))[None], grid, native, image.source, {})


def read_case(case: Case, view: View, wanted: Mapping[str, Annotation], needed_by: str) -> Scan:
    """A case with masks of what is ``wanted``. Raises ``DataError`` for a mask that doesn't fit its image."""
    image = media.read(case.image).require_3d(needed_by)
    scan = read_scan(image, view, needed_by)
    stored: dict[str, np.ndarray] = {}
    masks = {}
    for organ, (name, values) in wanted.items():
        if name not in stored:
            stored[name] = _on_grid(case, name, scan)
        here = np.isin(stored[name], values) if values else stored[name] > 0
        masks[organ] = torch.from_numpy(np.ascontiguousarray(here.T))
    return replace(scan, y=masks)


def labelled(case: Case, classes: Sequence[str], view: View, needed_by: str) -> tuple[Scan, Float[Tensor, " k"]]:
    """A case with a mask for every class, empty where nobody looked, and which of them are annotated."""
    wanted = {}
    for name in classes:
        if any(same_name(name, one) for one in structures(case)):
            wanted[name] = organ_of(case, name)
    scan = read_case(case, view, wanted, needed_by)
    blank = torch.zeros(scan.x.shape[1:], dtype=torch.bool)
    return replace(scan, y={name: scan.y.get(name, blank) for name in classes}), torch.tensor(
        [float(name in wanted) for name in classes]
    )


def _on_grid(case: Case, name: str, scan: Scan) -> np.ndarray:
    """A mask, nearest voxel: by its own affine where it states one, else voxel for voxel as its image."""
    stored: Any = case.masks[name]
    if isinstance(stored, np.ndarray):
        stored = media.Image(stored, f"mask {name!r} of case {case.id}", ndim_spatial=3)
    labels = media.read_labels(stored).require_3d("a mask of a volume")
    array = labels.array.reshape(labels.size)
    if array.shape == scan.native.shape and labels.affine is None:
        return resample(array, scan.native, scan.grid, mode="nearest")
    if labels.affine is None:
        raise DataError(f"image and mask of case {case.id} differ in size: {scan.native.shape} and {array.shape}")
    own = voxels(labels, "a mask of a volume")[1]
    return resample(array, own, scan.grid, mode="nearest", outside=0)


def largest(mask: Bool[Tensor, "x y z"]) -> Bool[Tensor, "x y z"]:
    return torch.from_numpy(largest_component(mask.numpy()))


def cut_off(mask: Bool[Tensor, "x y z"]) -> bool:
    """Whether a structure reaches the first or last slice, so that some of it may lie outside of the scan."""
    return bool(mask[..., 0].any() or mask[..., -1].any())


# ---- patches ---------------------------------------------------------------------------------------------------------


def patch_at(volume: Tensor, centre: Sequence[int], size: Size) -> Float[Tensor, "k a b c"]:
    """A box around a voxel, moved into the volume; beyond a volume that is smaller there are zeros."""
    out = torch.zeros(volume.shape[0], *size, dtype=torch.float32)
    source, target = [slice(None)], [slice(None)]
    for middle, side, length in zip(centre, size, volume.shape[1:], strict=True):
        start = min(max(0, middle - side // 2), max(0, length - side))
        taken = min(side, length)
        gap = (side - taken) // 2
        source.append(slice(start, start + taken))
        target.append(slice(gap, gap + taken))
    out[tuple(target)] = volume[tuple(source)].float()
    return out


def draw_patches(
    scan: Scan, organs: Sequence[str], size: Size, count: int, share: float, rng: np.random.Generator
) -> tuple[Float[Tensor, "n 1 a b c"], Float[Tensor, "n k a b c"]]:
    """Random patches and their masks of ``organs``. A ``share`` of them has its centre in one of these organs.

    The others lie anywhere in the body (grey value above 0).
    """
    y = torch.stack([scan.y[organ] for organ in organs])
    body = np.flatnonzero(scan.x[0].numpy() > 0)
    present = [place for place in range(len(organs)) if y[place].any()]
    some_x, some_y = [], []
    for _ in range(count):
        inside = rng.random() < share and present
        if inside:
            places = np.flatnonzero(y[present[rng.integers(len(present))]].numpy())
        else:
            places = body if len(body) else np.arange(scan.x.numel())
        centre = [int(c) for c in np.unravel_index(places[rng.integers(len(places))], scan.x.shape[1:])]
        some_x.append(patch_at(scan.x, centre, size))
        some_y.append(patch_at(y, centre, size))
    return torch.stack(some_x), torch.stack(some_y)


def shifted(
    x: Float[Tensor, "n 1 a b c"], shift: float, chance: float, rng: np.random.Generator
) -> Float[Tensor, "n 1 a b c"]:
    """Every patch brighter or darker by up to ``shift``, with a ``chance``."""
    by = [rng.uniform(-shift, shift) if rng.random() < chance else 0.0 for _ in range(len(x))]
    return x + torch.tensor(by, dtype=x.dtype, device=x.device)[:, None, None, None, None]


def turned(x: Tensor, y: Tensor, chance: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Every patch by quarter turns in the axial plane, with a ``chance``."""
    for place in range(len(x)):
        if rng.random() < chance and x.shape[2] == x.shape[3]:
            times = int(rng.integers(1, 4))
            x[place], y[place] = (torch.rot90(one[place], times, (1, 2)) for one in (x, y))
    return x, y


class Kept(Generic[T]):
    """What ``make`` gives for each of some places, kept while it fits into ``memory`` bytes."""

    def __init__(self, make: Callable[[int], T], size: Callable[[T], int], memory: int = 2**31) -> None:
        self._make, self._size, self._left = make, size, memory
        self._kept: dict[int, T] = {}

    def __getitem__(self, place: int) -> T:
        if place in self._kept:
            return self._kept[place]
        made = self._make(place)
        self._left -= self._size(made)
        if self._left >= 0:
            self._kept[place] = made
        return made


def bytes_of(scan: Scan) -> int:
    return 4 * scan.x.numel() + sum(mask.numel() for mask in scan.y.values())
