"""The support set: labelled slices that say what is to be segmented, and which of them go with which slice (Sec. 3.2).

A scan becomes slices in one way, whether it is to be segmented or shows how: volumes from foot to head with the
patient's back below and left at the right, grey values between two percentiles of the volume scaled to [0, 1], every
slice resized to the network's square.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Shaped

from zoo import media
from zoo.data.case import Case
from zoo.data.images import resize
from zoo.data.sets import Dataset, load_dataset, read_mask
from zoo.data.volumes import Grid, percentiles, resample, voxels, window
from zoo.errors import DataError, MediaError, OptionError
from zoo.spec import is_kind
from zoo.storage import user_path

Scaling = Literal["percentiles", "min-max"]
CLIPPED = (0.5, 99.5)  # percentiles of the volume; the paper says only that intensities are normalised to [0, 1]
HOW = (
    "give support=FOLDER with images/ and masks/, a table, a list of (image, mask) pairs, or "
    "support='phantom:prostate-mr?n=2&seed=9000&slices=12' to try it"
)
NAMES = {  # of regions in the tables of public sets
    "tz": ("tz", "transition zone", "transitional zone", "central gland"),
    "pz": ("pz", "peripheral zone"),
}


@dataclass(frozen=True)
class Scan:
    """An image as the network sees it, and the way back."""

    image: media.Image
    slices: Float32[np.ndarray, "z s s"]  # in [0, 1]
    plane: tuple[int, int]  # px of a slice before it was resized
    grids: tuple[Grid, Grid] | None  # as stored, and turned; None for a 2-D image and for axes of unknown direction

    @classmethod
    def of(cls, image: media.Image, side: int, scaling: Scaling) -> Scan:
        """Raises ``MediaError`` for several frames or channels and for a tilted gantry."""
        if image.ndim_spatial == 2:
            array, grids = image.grey()[None], None
        else:
            stored, native = voxels(image, "universeg-prostate")
            grids = None if image.affine is None else (native, native.oriented("LPS"))
            array = stored if grids is None else resample(stored, *grids, mode="nearest")
        limits = (float(array.min()), float(array.max())) if scaling == "min-max" else percentiles(array, *CLIPPED)
        grey = window(array, *limits)
        slices = np.stack([resize(plane, side, "bilinear") for plane in grey])
        return cls(image, np.clip(slices, 0, 1), (grey.shape[1], grey.shape[2]), grids)

    def labels(self, mask: Bool[np.ndarray, "*grid"], side: int) -> Bool[np.ndarray, "z s s"]:
        """A mask of the image as the network sees it."""
        planes = mask[None] if mask.ndim == 2 else mask if self.grids is None else self.turned(mask)
        return np.stack([resize(plane, side, "nearest") for plane in planes])

    def turned(self, mask: Shaped[np.ndarray, "z h w"]) -> Shaped[np.ndarray, "z2 h2 w2"]:
        """A mask of the volume, its slices from foot to head."""
        return mask if self.grids is None else resample(mask, *self.grids, mode="nearest")

    def back(self, values: Float32[np.ndarray, "z s s"]) -> Float32[np.ndarray, "*grid"]:
        """What the network says, on the grid of the image; linear within slices."""
        full = np.stack([resize(plane, self.plane, "bilinear") for plane in values])
        if self.image.ndim_spatial == 2:
            return full[0]
        return full if self.grids is None else resample(full, *self.grids[::-1])


@dataclass(frozen=True)
class Support:
    """Labelled slices. ``z``: index within their volume, foot to head; -1 where it isn't known."""

    images: Float32[np.ndarray, "n s s"]
    labels: Bool[np.ndarray, "n s s"]
    z: Int[np.ndarray, " n"]
    depth: Int[np.ndarray, " n"]  # slices of that volume
    case: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.z)

    def pooled(self, pool: Literal["agnostic", "inclusive"]) -> Support:
        """ROI-agnostic: all slices. ROI-inclusive: those in which the region is present."""
        return self if pool == "agnostic" else self.chosen(np.flatnonzero(self.labels.any((1, 2))))

    def chosen(self, index: Int[np.ndarray, " k"]) -> Support:
        cases = tuple(self.case[i] for i in index)
        return Support(self.images[index], self.labels[index], self.z[index], self.depth[index], cases)

    def names(self, index: Sequence[int]) -> list[str]:
        return [self.case[i] if self.z[i] < 0 else f"{self.case[i]} slice {self.z[i]}" for i in index]


def weights(
    support: Support, z: Float[np.ndarray, " q"], depth: int, select: str, scale: Literal["index", "relative"]
) -> Float[np.ndarray, "q n"]:
    """``w = 1 / (|Z_t - Z_q| + 1)`` of every labelled slice for every query, each row adding up to 1 (Sec. 3.2).

    ``scale="relative"``: places are shares of the volume's height, in slices of the query's. ``select`` other than
    ``z-weighted``, and unknown places: all alike.
    """
    if select != "z-weighted" or (support.z < 0).any():
        return np.full((len(z), len(support)), 1 / max(1, len(support)))
    there = support.z.astype(float)
    if scale == "relative":
        there = there / np.maximum(support.depth - 1, 1) * max(depth - 1, 1)
    w = 1 / (np.abs(there - z[:, None]) + 1)
    return w / w.sum(1, keepdims=True)


def drawn(w: Float[np.ndarray, "q n"], size: int, times: int, rng: np.random.Generator) -> Int[np.ndarray, "t q s"]:
    """``size`` slices for each query, ``times`` over, without replacement and in proportion to ``w``; all if few.

    The largest ``size`` of ``log w`` + Gumbel noise are such a draw (Gumbel's top k), for all queries at once.
    """
    q, n = w.shape
    if n <= size:
        return np.broadcast_to(np.arange(n), (1, q, n)).copy()
    keys = np.log(w) + rng.gumbel(size=(times, q, n))
    return np.sort(np.argpartition(-keys, size - 1, axis=-1)[..., :size], axis=-1)


# ---- what a user gives -----------------------------------------------------------------------------------------------


def read_support(given: Any, roi: str, side: int, scaling: Scaling) -> Support:
    """A folder, a table, a phantom, or pairs (image, mask) of slices or volumes; a third value is the slice's index.

    Raises ``OptionError`` for what is no support set and a region that it doesn't have, ``DataError`` for masks that
    don't fit their images.
    """
    cases, names = _cases(given)
    if not cases:
        raise OptionError(f"the support set is empty; {HOW}")
    parts = [labelled(case, roi, side, scaling, names) for case in cases]
    support = Support(
        np.concatenate([p.images for p in parts]),
        np.concatenate([p.labels for p in parts]),
        np.concatenate([p.z for p in parts]),
        np.concatenate([p.depth for p in parts]),
        tuple(name for p in parts for name in p.case),
    )
    if not support.labels.any():
        raise OptionError(f"no mask of the support set has anything of roi={roi}; name another, or other masks")
    return support


def labelled(case: Case, roi: str, side: int, scaling: Scaling, names: Sequence[str] = ()) -> Support:
    """The slices of one case with the region's labels."""
    image = media.read(case.image)
    truth = region(case, roi, names)
    if truth.shape != image.size:
        raise DataError(f"image and mask of {case.id} differ in size: {image.size} and {truth.shape}")
    try:
        scan = Scan.of(image, side, scaling)
    except MediaError as error:
        raise DataError(f"the support {case.id} can't be used: {error}") from error
    count = len(scan.slices)
    flat = image.ndim_spatial == 2
    z = np.full(1, int(case.attributes.get("z", -1))) if flat else np.arange(count)
    return Support(scan.slices, scan.labels(truth, side), z, np.full(count, count), (case.id,) * count)


def region(case: Case, roi: str, names: Sequence[str] = ()) -> Bool[np.ndarray, "*grid"]:
    """Where the region lies: a mask called ``roi``, a label called so or with this number; ``gland``: all labels.

    Raises ``OptionError`` where the case has none of these.
    """
    wanted = roi.lower()
    if wanted in case.masks and wanted != "mask":
        return read_mask(case, wanted) > 0
    mask = read_mask(case)
    if wanted in ("gland", "all"):
        return mask > 0
    for value, name in enumerate(names):
        if value > 0 and name.lower() in NAMES.get(wanted, (wanted,)):
            return mask == value
    if wanted.isdecimal():
        return mask == int(wanted)
    known = ", ".join(dict.fromkeys(["gland", *(n for n in case.masks if n != "mask"), *names[1:]]))
    raise OptionError(f"the masks of {case.id} have no region {roi!r}; name one of {known}, or a label's number")


def _cases(given: Any) -> tuple[list[Case], tuple[str, ...]]:
    if isinstance(given, (str, os.PathLike)):
        dataset = load_dataset(_spec_of(os.fspath(given)))
        lacking = [case.id for case in dataset if not case.masks]
        if lacking:
            raise OptionError(f"{lacking[0]} of the support set {given} has no mask; {HOW}")
        return list(dataset), dataset.labels
    if isinstance(given, Dataset):
        return list(given), given.labels
    if not isinstance(given, (list, tuple)):
        raise OptionError(f"a support set is no {type(given).__name__}; {HOW}")
    if len(given) in (2, 3) and not isinstance(given[0], (list, tuple, Case)):
        given = [given]  # one pair without its brackets
    return [_pair(one, place) for place, one in enumerate(given, start=1)], ()


def _pair(one: Any, place: int) -> Case:
    if isinstance(one, Case):
        return one
    if not isinstance(one, (list, tuple)) or len(one) not in (2, 3):
        raise OptionError(f"support {place} is no pair (image, mask); {HOW}")
    image, mask = (
        media.read(part, mode=_mode(part)) if not isinstance(part, media.Image) else part for part in one[:2]
    )
    if len(one) == 3 and (isinstance(one[2], bool) or not isinstance(one[2], (int, np.integer)) or one[2] < 0):
        raise OptionError(f"the third value of support {place} must be the slice's index, 0 or more, not {one[2]!r}")
    name = f"support {place}" if image.source == "array" else os.path.basename(image.source)
    extra = {"z": int(one[2])} if len(one) == 3 else {}
    return Case(image, name, masks={"mask": media.read_labels(mask).array}, attributes=extra)


def _mode(part: Any) -> Literal["auto", "volume"]:
    """An array of three axes is a volume here, unless its last is one of colours."""
    shape: tuple[int, ...] = tuple(getattr(part, "shape", ()))
    return "volume" if len(shape) == 3 and shape[-1] not in (3, 4) else "auto"


def _spec_of(name: str) -> str:
    """The data set that a path stands for."""
    if is_kind(name, "phantom"):
        return name
    path = user_path(name)
    if path.is_file():
        return f"csv:{path}"
    if (path / "dataset.json").is_file():
        return f"msd:{path}"
    if any((path / table).is_file() for table in ("metadata.csv", "metadata.jsonl")):
        return f"folder:{path}"
    if (path / "images").is_dir() and (path / "masks").is_dir():
        return f"pairs:{path}"
    raise OptionError(f"{name} is no support set: it holds neither images/ and masks/ nor a table; {HOW}")
