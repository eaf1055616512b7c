"""One image or volume in memory, with what its file said about space and grey values."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Float, Shaped
from PIL import Image as PILImage

from zoo.errors import MediaError
from zoo.media.geometry import axial, turn_of, turned, turned_affine
from zoo.media.sniff import SUFFIXES, suffix

SCANNED = ("nifti", "nrrd", "metaimage")
"""Formats of whole numbers that are no brightness from 0 to the largest of their type."""
T = TypeVar("T")
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as Pillow's mode L


@dataclass(frozen=True, eq=False)
class Image:
    """What :func:`zoo.media.read` returns.

    Attributes:
        array: ``[h w]`` or ``[h w c]`` for 2-D, ``[z h w]`` (colour: ``[z h w c]``) for volumes; finite; as stored,
            after rescaling (DICOM, NIfTI) but before any window.
        source: path, ``"sample:retina"``, ``"phantom:..."`` or ``"array"``.
        format: ``png``, ``jpeg``, ``tiff``, ``bmp``, ``dicom``, ``nifti``, ``nrrd``, ``metaimage``,
            ``phantom`` or ``array``.
        spacing: mm per spatial axis of ``array``, in the order of its axes; None when unknown.
        affine: 4x4 float64, maps the voxel index ``(w, h, z, 1)`` to patient millimetres, RAS+ (x to the right, y to
            the front, z to the head); None when unknown.
        meta: plain JSON-able facts of the file (modality, window, bit depth, ...), never patient data.
        ndim_spatial: 2 or 3. Left at 0 it follows from ``array``: three axes are ``[h w c]`` when the last one is at
            most 4 long, else ``[z h w]``.
        header: the format's own header, kept so that a mask can be written back with it.
    """

    array: Shaped[np.ndarray, "*shape"]
    source: str = "array"
    format: str = "array"
    spacing: tuple[float, ...] | None = None
    affine: Float[np.ndarray, "4 4"] | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    ndim_spatial: int = 0
    header: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.ndim_spatial == 0:
            is_plane = self.array.ndim == 2 or (self.array.ndim == 3 and self.array.shape[-1] <= 4)
            object.__setattr__(self, "ndim_spatial", 2 if is_plane else 3)
        if self.array.ndim not in (self.ndim_spatial, self.ndim_spatial + 1):
            raise ValueError(f"an array of shape {self.array.shape} has not {self.ndim_spatial} spatial axes")

    @property
    def channels(self) -> int:
        """Length of the channel axis; 1 when there is none."""
        return self.array.shape[-1] if self.array.ndim > self.ndim_spatial else 1

    @property
    def size(self) -> tuple[int, ...]:
        """``(h, w)`` or ``(z, h, w)``."""
        return self.array.shape[: self.ndim_spatial]

    @property
    def notes(self) -> tuple[str, ...]:
        """What reading it had to assume; every prediction of the image repeats it."""
        return tuple(self.meta.get("notes", ()))

    @property
    def stem(self) -> str:
        """A name for files made from this image; see :func:`stem_of`."""
        return stem_of(self.source)

    def require_2d(self, needed_by: str = "a 2-D image") -> Image:
        """This image when it is 2-D; a volume of one slice, across any axis, becomes that slice.

        Raises ``MediaError`` for any other volume: ``needed_by`` starts its sentence ("map-vessel").
        """
        if self.ndim_spatial == 2:
            return self
        if 1 in self.size:
            return self._slice_across(self.size.index(1)).upright()
        says = "is needed but" if needed_by == "a 2-D image" else "takes 2-D images but"
        raise MediaError(
            f"{needed_by} {says} {self.source} is a volume of {self.size[0]} slices; "
            "extract the slice you mean, in any direction, to a file of its own"
        )

    def _slice_across(self, axis: int) -> Image:
        """The one slice of a volume that is a single voxel deep along an axis: axial, coronal or sagittal."""
        kept = [one for one in range(3) if one != axis]
        spacing = None if self.spacing is None else tuple(self.spacing[one] for one in kept)
        affine = self.affine
        if affine is not None:  # its columns are w, h, z: the array's axes backwards
            affine = affine[:, [2 - kept[1], 2 - kept[0], 2 - axis, 3]]
        meta = {**self.meta, "slice_axis": axis} if axis else self.meta
        return replace(self, array=self.array.take(0, axis), spacing=spacing, affine=affine, meta=meta, ndim_spatial=2)

    def upright(self) -> Image:
        """A slice of a NIfTI file as radiologists see it, as :meth:`axial` shows volumes; anything else as it is.

        ``write_mask`` turns a mask of it back. A file that states no orientation stays as it is stored.
        """
        if self.format != "nifti" or self.ndim_spatial == 3 or self.affine is None or "turned" in self.meta:
            return self
        if self.header is None or not (self.header["sform_code"] > 0 or self.header["qform_code"] > 0):
            return self
        turn = turn_of(self.affine)
        array = turned(self.array, turn)
        spacing = self.spacing[::-1] if turn[0] and self.spacing else self.spacing
        affine = turned_affine(self.affine, turn, array.shape[:2])
        meta = {**self.meta, "turned": turn}
        return replace(self, array=np.ascontiguousarray(array), spacing=spacing, affine=affine, meta=meta)

    def require_3d(self, needed_by: str = "this model") -> Image:
        """This image when it is a volume of one channel.

        Raises ``MediaError`` for a 2-D image or a colour volume.
        """
        if self.ndim_spatial == 2:
            raise MediaError(
                f"{needed_by} takes volumes but {self.source} is a 2-D image; give a NIfTI file or the folder of a "
                "DICOM series (an array [z h w] needs mode='volume')"
            )
        if self.channels != 1:
            raise MediaError(
                f"{needed_by} takes volumes of one channel but {self.source} has {self.channels}; convert it to grey"
            )
        return self

    def plane(self, index: int) -> Image:
        """Slice ``index`` of a volume as a 2-D image, for figures; it has no affine."""
        spacing = None if self.spacing is None else self.spacing[1:]
        return replace(self, array=self.array[index], spacing=spacing, affine=None, ndim_spatial=2, header=None)

    def unit(self, window: tuple[float, float] | None = None) -> Float[np.ndarray, "*shape"]:
        """The array as float32 in [0, 1], all axes kept.

        Unsigned 8- and 16-bit values are divided by the range of their type, or by ``meta["white"]`` where wider
        integers hold 8-bit values (:func:`zoo.media.read` notes it); floats already within [0, 1] stay. Values
        with a physical scale (DICOM, NIfTI, NRRD) go through ``window`` = (centre, width), else the file's own window
        (``meta["window"]``), else their own minimum and maximum.
        """
        array = self.array
        if window is not None:
            return _windowed(array, *window)
        if "window" in self.meta:
            return WINDOW_FUNCTIONS[self.meta.get("window_function", "LINEAR")](array, *self.meta["window"])
        if array.dtype == np.uint8 or (array.dtype == np.uint16 and self.format not in SCANNED) or "white" in self.meta:
            return array.astype(np.float32) / np.float32(self.meta.get("white") or np.iinfo(array.dtype).max)
        low, high = float(array.min()), float(array.max())
        if array.dtype.kind == "f" and low >= 0 and high <= 1:
            return array.astype(np.float32)
        if high == low:
            return np.zeros(array.shape, np.float32)
        return ((array.astype(np.float64) - low) / (high - low)).astype(np.float32)

    def grey(self, window: tuple[float, float] | None = None) -> Float[np.ndarray, "h w"]:
        """Float32 luminance in [0, 1], scaled as :meth:`unit`.

        Raises ``MediaError`` for volumes and for channel counts other than 1, 3 (RGB) and 4 (RGBA).
        """
        plane = self.require_2d()
        if plane.channels == 1:
            return plane.unit(window).reshape(plane.size)
        return np.clip(plane.rgb(window) @ _LUMA, 0, 1)

    def rgb(self, window: tuple[float, float] | None = None) -> Float[np.ndarray, "h w 3"]:
        """Float32 red, green, blue in [0, 1], scaled as :meth:`unit`; alpha of a 4-channel array is laid on black.

        Raises ``MediaError`` for volumes and for channel counts other than 1, 3 (RGB) and 4 (RGBA).
        """
        plane = self.require_2d()
        if plane.channels not in (1, 3, 4):
            raise MediaError(
                f"{self.source} has {plane.channels} channels, which is neither grey, RGB nor RGBA; "
                "select the channels you mean before passing it on"
            )
        values = plane.unit(window)
        if plane.channels == 1:
            return np.repeat(values.reshape(*plane.size, 1), 3, axis=-1)
        return values if plane.channels == 3 else values[..., :3] * values[..., 3:]

    def axial(self, array: Shaped[np.ndarray, "*shape"] | None = None) -> Shaped[np.ndarray, "*axial"]:
        """This volume, or a mask of its shape, as a view in the radiologist's order ``[z h w]``.

        Slices run to the head, rows to the back, columns to the patient's left. Without an affine, or for a 2-D image,
        the array is returned as it is.
        """
        array = self.array if array is None else array
        if self.affine is None or self.ndim_spatial == 2:
            return array
        return axial(array, self.affine)

    def thumbnail(self, max_side: int = 256) -> PILImage.Image:
        """An RGB picture of at most ``max_side`` pixels a side, for figures; of a volume the middle axial slice."""
        if self.ndim_spatial == 2:
            # Far larger than the picture: every n-th pixel is enough, and spares the memory.
            step = max(1, min(self.size) // (4 * max_side))
            picture, spacing = replace(self, array=self.array[::step, ::step]).rgb(), self.spacing
        else:
            values = self.axial(self.unit())
            view = Image(values[values.shape[0] // 2], self.source, ndim_spatial=2)
            picture, spacing = view.rgb(), self.axial_spacing()
        height, width = picture.shape[:2]
        tall, wide = (height, width) if spacing is None else (height * spacing[0], width * spacing[1])
        scale = min(max_side, max(height, width)) / max(tall, wide)
        size = (max(1, round(wide * scale)), max(1, round(tall * scale)))
        pixels = np.round(picture * 255).astype(np.uint8)
        return PILImage.fromarray(pixels).resize(size, PILImage.Resampling.LANCZOS)

    def axial_spacing(self) -> tuple[float, ...] | None:
        """Row and column spacing of the slices of :meth:`axial`, mm; ``None`` when the spacing is unknown."""
        if self.spacing is None:
            return None
        if self.affine is None:
            return self.spacing[1:]
        # Axis lengths travel with the axes: a 3-axis array that holds its own index shows where each one went.
        marks = self.axial(np.arange(8).reshape(2, 2, 2))
        steps = [abs(int(np.diff(marks, axis=axis).flat[0])) for axis in (1, 2)]
        return tuple(self.spacing[{4: 0, 2: 1, 1: 2}[step]] for step in steps)


def stem_of(source: str) -> str:
    """A file stem for a source: ``scan`` for ``a/scan.nii.gz``, ``fundus-seed-3`` for ``phantom:fundus?seed=3``."""
    if re.match(r"(sample|phantom):", source):
        return re.sub(r"[^\w.]+", "-", source.split(":", 1)[1]).strip("-")
    name, ending = Path(source).name, suffix(source)
    return (name[: -len(ending)] if ending in SUFFIXES else name) or "prediction"


def _windowed(array: np.ndarray, centre: float, width: float) -> np.ndarray:
    """DICOM's linear window function (PS3.3 C.11.2.1.2), onto [0, 1]."""
    values = array.astype(np.float32)
    if width <= 1:
        return (values > centre - 0.5).astype(np.float32)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1).astype(np.float32)


def _windowed_exactly(array: np.ndarray, centre: float, width: float) -> np.ndarray:
    return np.clip((array.astype(np.float32) - centre) / width + 0.5, 0, 1).astype(np.float32)


def _windowed_softly(array: np.ndarray, centre: float, width: float) -> np.ndarray:
    steps = np.clip(-4 * (array.astype(np.float64) - centre) / width, -700, 700)
    return (1 / (1 + np.exp(steps))).astype(np.float32)


WINDOW_FUNCTIONS = {"LINEAR": _windowed, "LINEAR_EXACT": _windowed_exactly, "SIGMOID": _windowed_softly}


def per_image(make: Callable[[Image], T]) -> Callable[[Image], T]:
    """``make``, worked out once for as long as an image lives. What it gives must not hold the image."""
    known: WeakKeyDictionary[Image, T] = WeakKeyDictionary()

    @wraps(make)
    def found(image: Image) -> T:
        if image not in known:
            known[image] = make(image)
        return known[image]

    return found
