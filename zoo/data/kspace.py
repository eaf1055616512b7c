"""Cartesian k-space of MR slices: reading it, Fourier transforms, and masks that leave lines out.

In memory k-space is centred (frequency 0 in the middle) and transforms are orthonormal. Files differ: fastMRI's HDF5 is
centred, Calgary-Campinas' and MoDL's arrays have frequency 0 in a corner; :class:`KSpace` records what was taken.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Complex

from zoo.errors import MediaError, MissingExtraError
from zoo.media.files import user_path
from zoo.media.limits import check_size

Convention = Literal["auto", "centre", "corner"]
AXES = (-2, -1)
SUFFIXES = (".npy", ".h5", ".hdf5")
CLEAR = 4.0  # how much stronger one place of the spectrum must be than the other to say where frequency 0 is


@dataclass(frozen=True, eq=False)
class KSpace:
    """Slices as they were measured: ``data`` is 0 where ``mask`` is False.

    ``data``: centred, ``[z h w]``, or ``[z c h w]`` of several coils. ``mask``: the samples, of all slices. ``truth``:
    the fully sampled complex images ``[z h w]``, where they are known. ``notes``: what reading had to assume.
    """

    data: Complex[np.ndarray, "z *c h w"]
    mask: Bool[np.ndarray, "h w"]
    truth: Complex[np.ndarray, "z h w"] | None = None
    source: str = "array"
    notes: tuple[str, ...] = ()
    convention: str = "centre"

    @property
    def coils(self) -> int:
        return self.data.shape[1] if self.data.ndim == 4 else 1

    @property
    def full(self) -> bool:
        return bool(self.mask.all())


def to_image(k: Complex[np.ndarray, "*b h w"]) -> Complex[np.ndarray, "*b h w"]:
    """The orthonormal inverse transform of centred k-space: the adjoint of :func:`to_kspace`."""
    return np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(k, AXES), norm="ortho"), AXES).astype(np.complex64)


def to_kspace(x: Complex[np.ndarray, "*b h w"]) -> Complex[np.ndarray, "*b h w"]:
    """Centred k-space of an image, whose middle is at ``size // 2``."""
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(x, AXES), norm="ortho"), AXES).astype(np.complex64)


def lines(
    shape: tuple[int, int], acceleration: float, centre: float | int, rng: np.random.Generator
) -> Bool[np.ndarray, "h w"]:
    """A 1-D Cartesian mask: 1 / ``acceleration`` of the columns (two at least), those in the middle always.

    ``centre``: a share of the columns, or a count of them as an ``int``. The others are drawn without replacement.
    """
    width = shape[1]
    middle = centre if isinstance(centre, int) else max(1, round(centre * width))
    wanted = max(middle, 2, round(width / acceleration))
    chosen = np.zeros(width, bool)
    start = (width - middle + 1) // 2 if middle < width else 0
    chosen[start : start + middle] = True
    rest = np.flatnonzero(~chosen)
    chosen[rng.permutation(rest)[: max(0, min(wanted, width) - middle)]] = True
    return np.broadcast_to(chosen, shape).copy()


def read_kspace(given: Any, *, convention: Convention = "auto", mask: Any = None) -> KSpace:
    """k-space from a complex array ``[h w]``, ``[z h w]`` or ``[z c h w]``, a ``.npy``, or a fastMRI ``.h5`` file.

    Real arrays whose last axis is 2 are real and imaginary parts. ``mask``: the samples, ``[w]`` (columns) or
    ``[h w]``, in the file's convention; without it a file's own, else what isn't 0. ``convention``: where frequency 0
    lies; ``auto`` looks for the strongest place and refuses where that doesn't say.

    Raises ``MediaError`` for what is no k-space: another type or shape, NaN, nothing in it, a mask that doesn't fit.
    """
    if isinstance(given, KSpace):
        return given
    source, stored, truth = "array", None, None
    if isinstance(given, str | os.PathLike):
        path = user_path(given)
        source = str(path)
        if not path.is_file():
            raise MediaError(f"can't read {given}: there is no such file; check the path")
        array, stored, truth = _hdf5(path) if path.suffix.lower() in SUFFIXES[1:] else (_npy(path), None, None)
    else:
        array = np.asarray(given)
    data = _complex(array, source)
    where, notes = _convention(data, convention, source, stored is not None or source.endswith(SUFFIXES[1:]))
    sampled, said = _mask(data, _array(mask) if mask is not None else stored, source)
    if where == "corner":
        data, sampled = np.fft.fftshift(data, AXES), np.fft.fftshift(sampled)
    data = data * sampled
    if not data.any():
        raise MediaError(f"{source} holds nothing but zeros where its mask samples; check the mask")
    if truth is None and sampled.all() and data.ndim == 3:
        truth = to_image(data)
    return KSpace(data, sampled, truth, source, (*notes, *said), where)


def simulate(
    k: KSpace, acceleration: float, centre: float | int, rng: np.random.Generator, noise: float = 0.0
) -> KSpace:
    """Fully sampled k-space with lines left out; ``noise``: deviation of each part, of what is left."""
    mask = lines(k.data.shape[-2:], acceleration, centre, rng)
    data = k.data
    if noise:
        data = data + noise * (rng.normal(size=data.shape) + 1j * rng.normal(size=data.shape))
    return replace(k, data=(data * mask).astype(np.complex64), mask=mask)


def read_array(path: str | os.PathLike[str]) -> np.ndarray:
    """A ``.npy`` file without pickled objects, its size checked by its header. Raises ``MediaError``."""
    return _npy(user_path(path))


# ---- files -------------------------------------------------------------------------------------------------------


def _npy(path: Path) -> np.ndarray:
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
        if dtype.hasobject or dtype.kind not in "cfbiu":
            raise MediaError(f"can't read {path}: it holds {dtype}, which are no numbers")
        _check(path, shape)
        if path.stat().st_size < math.prod(shape) * dtype.itemsize:
            raise MediaError(f"can't read {path}: it's shorter than its header says; copy it again")
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise MediaError(f"can't read {path}: it is no NumPy array, or damaged; write it with numpy.save") from error


def _hdf5(path: Path) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    try:
        import h5py
    except ImportError:
        raise MissingExtraError("reading HDF5", "h5py", "mri") from None
    try:
        with h5py.File(path, "r") as file:
            if not isinstance(file.get("kspace"), h5py.Dataset):
                raise MediaError(f"can't read {path}: it has no data set kspace; fastMRI's files have one")
            stored: Any = file["kspace"]
            if stored.is_virtual or stored.external:
                raise MediaError(f"can't read {path}: its kspace lies in other files; write it as one file")
            _check(path, stored.shape)
            mask: Any = file.get("mask")
            if isinstance(mask, h5py.Dataset):
                _check(path, mask.shape)
                return stored[()], np.asarray(mask[()]), None
            return stored[()], None, None
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise MediaError(f"can't read {path}: it is no HDF5 file, or damaged; copy it again") from error


def _check(path: Path, shape: Sequence[int]) -> None:
    if not shape or min(shape) < 1 or len(shape) > 5:
        raise MediaError(f"can't read {path}: its header declares a shape of {list(shape)}; give [z h w]")
    check_size(str(path), (math.prod(shape[:-2]) or 1, shape[-2], shape[-1]) if len(shape) > 1 else (1, 1, shape[0]))


def _array(mask: Any) -> np.ndarray:
    return _npy(user_path(mask)) if isinstance(mask, str | os.PathLike) else np.asarray(mask)


# ---- what the numbers mean ---------------------------------------------------------------------------------------


def _complex(array: np.ndarray, source: str) -> np.ndarray:
    if array.dtype.kind == "f" and array.ndim >= 3 and array.shape[-1] == 2:
        array = array[..., 0] + 1j * array[..., 1]
    if array.dtype.kind != "c":
        raise MediaError(
            f"{source} is no k-space: it holds {array.dtype} of shape {list(array.shape)}; give complex numbers, or "
            "real and imaginary parts in a last axis of 2"
        )
    array = array[None] if array.ndim == 2 else array
    if array.ndim not in (3, 4) or min(array.shape[-2:]) < 8:
        raise MediaError(f"{source} has the shape {list(array.shape)}; k-space is [h w], [z h w] or [z coils h w]")
    if not np.isfinite(array).all():
        raise MediaError(f"{source} holds NaN or infinite values; k-space must be finite")
    return array.astype(np.complex64)


def _convention(data: np.ndarray, convention: Convention, source: str, fastmri: bool) -> tuple[str, tuple[str, ...]]:
    if convention != "auto":
        return convention, ()
    if fastmri:
        return "centre", ()
    energy = np.abs(data).reshape(-1, *data.shape[-2:]).max(0)
    h, w = energy.shape
    middle = float(energy[h // 2 - 1 : h // 2 + 2, w // 2 - 1 : w // 2 + 2].max())
    corner = float(np.fft.fftshift(energy)[h // 2 - 1 : h // 2 + 2, w // 2 - 1 : w // 2 + 2].max())
    if max(middle, corner) < CLEAR * max(min(middle, corner), 1e-30):
        raise MediaError(
            f"{source} doesn't show where its frequency 0 lies; say convention=centre or convention=corner"
        )
    where = "centre" if middle > corner else "corner"
    said = "in the middle" if where == "centre" else "in a corner"
    return where, (f"frequency 0 was taken to lie {said} of the k-space, where it is strongest",)


def _mask(data: np.ndarray, mask: np.ndarray | None, source: str) -> tuple[np.ndarray, tuple[str, ...]]:
    shape = data.shape[-2:]
    if mask is None:
        found = np.abs(data).reshape(-1, *shape).max(0) > 0
        if found.all():
            return found, ()
        columns = np.broadcast_to(found.any(0), shape).copy()
        found = columns if found.sum() > 0.98 * columns.sum() else found
        return found, ("the mask was taken from the zeros of the k-space",)
    if mask.dtype.kind not in "biuf" or not np.isin(mask, (0, 1)).all():
        raise MediaError(f"the mask of {source} must hold 0 and 1 and nothing else")
    mask = np.squeeze(mask).astype(bool)
    if mask.shape not in (shape, shape[1:]):
        raise MediaError(
            f"the mask of {source} is {list(mask.shape)} and its k-space {list(shape)}; give one that fits"
        )
    return np.broadcast_to(mask, shape).copy(), ()
