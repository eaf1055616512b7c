"""Volumes: from a file's grid to a network's and back, without losing where a voxel lies in the patient.

::

    array, native = voxels(zoo.media.read("ct.nii.gz"), "fseft")
    grid = native.oriented("RAS").spaced((1.5, 1.5, 1.5))
    x = window(resample(array, native, grid), -175, 250)
    logits = sliding_window(network, torch.from_numpy(x)[None], (96, 96, 96))  # zoo.nn.windows
    probability = resample(logits[0].sigmoid().numpy(), grid, native)
    mask = largest_component(probability > 0.5)
    volumes_ml(mask, native, {1: "liver"}), zoo.media.write_mask("liver", mask, image)

As everywhere in the zoo, arrays are ``[z h w]``, and spacings are mm in the order of the axes. Weights trained on
MONAI's ``[x y z]`` take the transpose, ``array.T``, of a volume in the same orientation.

Going to another spacing keeps the directions of the axes, also of an oblique volume: only a change to a grid with other
directions (a template's) turns the anatomy. Nothing is smoothed before it is made coarser, as in MONAI.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32, Integer, Shaped

from zoo.errors import MediaError, OptionError
from zoo.media import Image, limits
from zoo.media.geometry import orientation_code, spacing_of, world_axes

Size = tuple[int, int, int]
_LETTERS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}  # world axis, sign
_MAX_SKEW = 0.01  # cosine of the angle between two axes: half a degree; float32 headers stay below 1e-5
_SLAB_VOXELS = 2**23  # how many voxels are resampled at a time


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of an array ``[z h w]`` lie.

    Attributes:
        shape: length of the three axes.
        affine: 4x4, maps the voxel index ``(w, h, z, 1)`` to patient millimetres, RAS+, as ``Image.affine``.
        source: what it is the grid of, for error sentences.
        measured: False when the millimetres are made up because the source states none.
    """

    shape: Size
    affine: Float[np.ndarray, "4 4"]
    source: str = "array"
    measured: bool = True

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Mm per axis, in the order of the axes."""
        return spacing_of(self.affine)

    @property
    def orientation(self) -> str:
        """Three letters for the directions of increasing ``w``, ``h``, ``z``, e.g. ``RAS``."""
        return orientation_code(self.affine)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel. Raises ``MediaError`` when the spacing is unknown."""
        self._require_measured("its volume in ml")
        return math.prod(self.spacing) / 1000

    def oriented(self, code: str = "RAS") -> Grid:
        """The same voxels with axes flipped and swapped, so that ``w``, ``h``, ``z`` run most nearly as ``code`` says.

        A grid of unknown orientation counts as ``RAS``, which is what ``write_mask`` writes for it. Raises
        ``OptionError`` when ``code`` is no orientation.
        """
        if len(code) != 3 or {_LETTERS[c][0] for c in code if c in _LETTERS} != {0, 1, 2}:
            raise OptionError(f"an orientation is three letters, one each of R or L, A or P, S or I, not {code!r}")
        axes, signs = world_axes(self.affine)
        index, shape = np.zeros((4, 4)), [0, 0, 0]
        index[3, 3] = 1
        for new, (world, sign) in enumerate(_LETTERS[c] for c in code):
            old = axes.index(world)
            length = self.shape[2 - old]
            flip = signs[old] != sign
            index[old, new], index[old, 3] = (-1, length - 1) if flip else (1, 0)
            shape[2 - new] = length
        return replace(self, shape=_size(shape), affine=self.affine @ index)

    def spaced(self, spacing: tuple[float, float, float]) -> Grid:
        """The same field of view, to within half a voxel, at ``spacing`` in mm, in the order of the axes.

        Raises ``MediaError`` when the spacing of the source is unknown or the grid would pass
        ``zoo.media.limits.MAX_VOXELS``, ``OptionError`` when ``spacing`` isn't positive.
        """
        if not all(0 < mm < math.inf for mm in spacing):
            raise OptionError(f"a spacing is three positive numbers of mm, not {spacing}")
        self._require_measured(f"resampling to {' x '.join(f'{mm:g}' for mm in spacing)} mm")
        # A spacing that is there already, but for what float32 headers round, is left alone.
        scale = [1.0 if math.isclose(t, s, rel_tol=1e-5) else t / s for t, s in zip(spacing, self.spacing, strict=True)]
        shape = [max(1, round(n / k)) for n, k in zip(self.shape, scale, strict=True)]
        if math.prod(shape) > limits.MAX_VOXELS:
            raise MediaError(
                f"can't resample {self.source} from {_by(self.spacing)} mm to {_by(spacing)} mm: that makes "
                f"{_by(shape)} voxels, more than the limit of {limits.MAX_VOXELS:,}; crop it first"
            )
        return self._scaled(scale, _size(shape))

    def resized(self, shape: Size) -> Grid:
        """The same field of view in ``shape`` voxels, whatever their spacing becomes."""
        return self._scaled([n / m for n, m in zip(self.shape, shape, strict=True)], shape)

    def fitted(self, shape: Size) -> Grid:
        """The same voxels around the same centre, cropped or continued to ``shape``."""
        index = np.eye(4)
        index[:3, 3] = [(n - m) // 2 for n, m in zip(self.shape, shape, strict=True)][::-1]
        return replace(self, shape=shape, affine=self.affine @ index)

    def slabs(self) -> Iterator[tuple[slice, Grid]]:
        """The grid in pieces along its first axis, small enough to work on: where each lies, and its own grid."""
        planes, index = max(1, _SLAB_VOXELS // (self.shape[1] * self.shape[2])), np.eye(4)
        for start in range(0, self.shape[0], planes):
            stop = min(start + planes, self.shape[0])
            index[2, 3] = start
            yield (
                slice(start, stop),
                replace(self, shape=(stop - start, *self.shape[1:]), affine=self.affine @ index),
            )

    def _scaled(self, scale: list[float], shape: Size) -> Grid:
        index = np.diag([*scale[::-1], 1.0])
        index[:3, 3] = [((n - 1) - k * (m - 1)) / 2 for n, k, m in zip(self.shape, scale, shape, strict=True)][::-1]
        return replace(self, shape=shape, affine=self.affine @ index)

    def _require_measured(self, what: str) -> None:
        if not self.measured:
            raise MediaError(
                f"{what} can't be known for {self.source}: it states no spacing; give a NIfTI file or a DICOM series, "
                "or zoo.media.Image(array, spacing=(z, h, w), ndim_spatial=3)"
            )


def voxels(image: Image, needed_by: str = "this model") -> tuple[Shaped[np.ndarray, "z h w"], Grid]:
    """The array of a volume and its grid; one frame or channel as a fourth axis is dropped.

    Raises ``MediaError`` for a 2-D image, several frames or channels, and axes that aren't at right angles (the gantry
    of a CT tilted), which no flip or spacing describes.
    """
    if image.ndim_spatial == 3 and image.channels > 1:
        raise MediaError(
            f"{needed_by} takes one volume but {image.source} holds {image.channels} frames or channels; "
            "extract one of them"
        )
    array = image.require_3d(needed_by).array.reshape(image.size)
    shape = _size(array.shape)
    if image.affine is None:
        spacing = image.spacing or (1.0, 1.0, 1.0)
        if len(spacing) != 3 or not all(0 < mm < math.inf for mm in spacing):
            raise MediaError(f"{image.source} states a spacing of {spacing}, which isn't three positive numbers of mm")
        return array, Grid(shape, np.diag([*spacing[::-1], 1.0]), image.source, image.spacing is not None)
    affine = np.asarray(image.affine, np.float64)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or lengths.min() < 1e-6:
        raise MediaError(f"{image.source} has an affine that is no map to millimetres; repair its header")
    cosines = affine[:3, :3] / lengths
    skew = float(np.abs(cosines.T @ cosines - np.eye(3)).max())
    if skew > _MAX_SKEW:
        raise MediaError(
            f"{needed_by} can't use {image.source}: its axes stand at {math.degrees(math.acos(min(skew, 1))):.1f} "
            "degrees to each other (a tilted gantry?); resample it to axes at right angles first"
        )
    return array, Grid(shape, affine, image.source)


def resample(
    array: Shaped[np.ndarray, "z h w"],
    source: Grid,
    target: Grid,
    *,
    mode: Literal["linear", "nearest"] = "linear",
    outside: float | None = None,
) -> Shaped[np.ndarray, "z2 h2 w2"]:
    """``array``, which lies on ``source``, on ``target``.

    Args:
        array: an image or a probability, or labels with ``mode="nearest"``.
        source: its grid.
        target: the grid of the result.
        mode: ``linear`` gives float32, ``nearest`` keeps the type.
        outside: the value where ``target`` leaves the source's field of view; by default the nearest edge continues.
    """
    from scipy import ndimage

    if array.shape != source.shape:
        raise ValueError(f"an array of shape {array.shape} does not lie on a grid of {source.shape}")
    linear = mode == "linear"
    result = np.empty(target.shape, np.float32 if linear else array.dtype)
    for where, slab in target.slabs():
        matrix, offset = _index_map(source, slab)
        box = _touched(matrix, offset, slab.shape, source.shape)
        piece = array[tuple(slice(low, high) for low, high in box)]
        if linear and piece.dtype.kind in "bf":
            piece = piece.astype(np.float32, copy=False)  # SciPy knows no float16
        shift = offset - [low for low, _ in box]
        ndimage.affine_transform(
            piece, matrix, shift, output=result[where], order=int(linear), mode="nearest", prefilter=False
        )
        if outside is not None:
            _fill_outside(result[where], matrix, offset, source.shape, outside)
    return result


def label_map(scores: Float[np.ndarray, "k z h w"], source: Grid, target: Grid) -> Integer[np.ndarray, "z2 h2 w2"]:
    """The class of the highest score in each voxel of ``target``; class 0 outside the field of view.

    Logits or probabilities are interpolated one class after the other, in slabs: smoother borders than resampled
    labels, in the memory of two slabs beside the result.
    """
    labels = np.zeros(target.shape, np.uint8 if len(scores) <= 256 else np.uint16)
    for where, slab in target.slabs():
        best = resample(scores[0], source, slab)
        for label, score in enumerate(scores[1:], start=1):
            here = resample(score, source, slab, outside=-math.inf)
            better = here > best
            labels[where][better] = label
            np.copyto(best, here, where=better)
    return labels


def window(array: Shaped[np.ndarray, "*size"], low: float, high: float) -> Float32[np.ndarray, "*size"]:
    """``array`` clipped to ``low`` and ``high``, which become 0 and 1; zeros when they are equal."""
    values = array.astype(np.float32)
    np.clip(values, low, high, out=values)
    values -= np.float32(low)
    if high > low:
        values /= np.float32(high - low)
    return values


def percentiles(
    array: Shaped[np.ndarray, "*size"],
    low: float = 0.5,
    high: float = 99.5,
    inside: Bool[np.ndarray, "*size"] | None = None,
) -> tuple[float, float]:
    """The grey values that ``low`` and ``high`` percent of the voxels don't pass, for :func:`window`."""
    values = array if inside is None else array[inside]
    if values.size == 0:
        return 0.0, 0.0
    first, last = np.percentile(values, (low, high))
    return float(first), float(last)


def standardise(
    array: Shaped[np.ndarray, "*size"], inside: Bool[np.ndarray, "*size"] | None = None
) -> Float32[np.ndarray, "*size"]:
    """Mean 0 and standard deviation 1 over the voxels ``inside`` (default all); the others are scaled alike."""
    values = array if inside is None else array[inside]
    if values.size == 0 or values.min() == values.max():
        return np.zeros(array.shape, np.float32)
    mean, deviation = values.mean(dtype=np.float64), values.std(dtype=np.float64)
    return ((array - np.float32(mean)) / np.float32(deviation)).astype(np.float32, copy=False)


def components(
    mask: Bool[np.ndarray, "z h w"], connectivity: Literal[6, 18, 26] = 26
) -> tuple[Int32[np.ndarray, "z h w"], Int[np.ndarray, " n"]]:
    """The connected parts of a mask, numbered from 1, and how many voxels each has; part 0 is what lies outside.

    ``mask & (sizes[labelled] >= 3)`` keeps the parts of at least 3 voxels.
    """
    from scipy import ndimage

    structure = ndimage.generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity])
    labelled, count = ndimage.label(mask, structure, output=np.int32)
    sizes = np.zeros(count + 1, np.int64)
    for plane in labelled:  # bincount widens to 64 bits: not the whole volume at once
        sizes += np.bincount(plane.ravel(), minlength=count + 1)
    return labelled, sizes


def largest_component(
    labels: Shaped[np.ndarray, "z h w"], connectivity: Literal[6, 18, 26] = 26
) -> Shaped[np.ndarray, "z h w"]:
    """Of each label the largest connected part, the first of equals; the rest becomes 0. Also for a mask of bool."""
    from scipy import ndimage

    kept = np.zeros_like(labels)
    boxes = ndimage.find_objects(labels.view(np.uint8) if labels.dtype == bool else labels)
    for label, box in enumerate(boxes, start=1):
        if box is not None:
            labelled, sizes = components(labels[box] == label, connectivity)
            kept[box][labelled == 1 + int(sizes[1:].argmax())] = label
    return kept


def volumes_ml(labels: Shaped[np.ndarray, "z h w"], grid: Grid, names: Mapping[int, str]) -> dict[str, float]:
    """Millilitres of each named label, 0 when it is absent; a mask of bool has label 1.

    Raises ``MediaError`` when the spacing is unknown: ask ``grid.measured`` where volumes are an extra.
    """
    if labels.shape != grid.shape:
        raise ValueError(f"labels of shape {labels.shape} do not lie on a grid of {grid.shape}")
    return {name: int(np.count_nonzero(labels == label)) * grid.voxel_ml for label, name in names.items()}


def _index_map(source: Grid, target: Grid) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, " 3"]]:
    """``source index = matrix @ target index + offset``, both indices in the order ``(z, h, w)``."""
    full = np.linalg.solve(source.affine, target.affine)
    near = np.round(full)
    full = np.where(np.abs(full - near) < 1e-9, near, full)  # a flip of an oblique volume moves whole voxels
    return full[2::-1, 2::-1], full[2::-1, 3]


def _touched(
    matrix: Float[np.ndarray, "3 3"], offset: Float[np.ndarray, " 3"], shape: Size, limit: Size
) -> list[tuple[int, int]]:
    """Per source axis the range of voxels that interpolating at a target of ``shape`` can reach, and one more."""
    ends = matrix * (np.array(shape) - 1)
    lowest = np.floor(offset + np.minimum(ends, 0).sum(axis=1)) - 1
    highest = np.ceil(offset + np.maximum(ends, 0).sum(axis=1)) + 2
    return [
        (int(np.clip(low, 0, n - 1)), int(np.clip(high, 1, n)))
        for low, high, n in zip(lowest, highest, limit, strict=True)
    ]


def _fill_outside(
    values: Shaped[np.ndarray, "z h w"],
    matrix: Float[np.ndarray, "3 3"],
    offset: Float[np.ndarray, " 3"],
    limit: Size,
    value: float,
) -> None:
    """Sets the voxels whose centre lies in no voxel of the source."""
    indices = np.ogrid[tuple(slice(n) for n in values.shape)]
    for row, shift, n in zip(matrix, offset, limit, strict=True):
        at = shift + sum(step * index for step, index in zip(row, indices, strict=True) if step != 0)
        np.copyto(values, np.asarray(value).astype(values.dtype), where=(at < -0.5 - 1e-6) | (at > n - 0.5 + 1e-6))


def _size(shape: list[int] | tuple[int, ...]) -> Size:
    z, h, w = shape
    return int(z), int(h), int(w)


def _by(numbers: tuple[float, ...] | list[int]) -> str:
    return " x ".join(f"{number:,.4g}" if isinstance(number, float) else f"{number:,}" for number in numbers)
