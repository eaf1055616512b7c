"""Where voxels lie in the patient: affines in RAS+ millimetres for arrays ``[z h w]``.

One convention for all formats: the affine takes the index in the order ``(w, h, z)``, the reverse of the array axes.
That is NIfTI's ``(i, j, k)``, so a NIfTI volume is its array transposed.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import numpy as np

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def spacing_of(affine: np.ndarray) -> tuple[float, float, float]:
    """Voxel size in mm in the order of the array axes ``(z, h, w)``."""
    w, h, z = np.linalg.norm(affine[:3, :3], axis=0)
    return float(z), float(h), float(w)


def world_axes(affine: np.ndarray) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """For each index axis (w, h, z): the world axis (0 right, 1 front, 2 head) it follows most, and its sign."""
    cosines = affine[:3, :3] / np.maximum(np.linalg.norm(affine[:3, :3], axis=0), 1e-12)
    best = max(permutations(range(3)), key=lambda order: sum(abs(cosines[order[i], i]) for i in range(3)))
    signs = tuple(1 if cosines[best[i], i] >= 0 else -1 for i in range(3))
    return (best[0], best[1], best[2]), (signs[0], signs[1], signs[2])


def is_map(affine: np.ndarray) -> bool:
    """Whether an affine is finite and maps no direction to nothing."""
    return bool(np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) >= 1e-12)


def orientation_code(affine: np.ndarray) -> str:
    """Three letters for the directions of increasing ``w``, ``h``, ``z``, e.g. ``LAS`` (as nibabel's axis codes)."""
    axes, signs = world_axes(affine)
    return "".join("RAS"[axis] if sign > 0 else "LPI"[axis] for axis, sign in zip(axes, signs, strict=True))


def axial(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """View of ``[z h w ...]`` with slices to the head, rows to the back and columns to the patient's left."""
    axes, signs = world_axes(affine)
    array_axis = {world: 2 - index for index, world in enumerate(axes)}
    sign = dict(zip(axes, signs, strict=True))
    view = array.transpose(array_axis[2], array_axis[1], array_axis[0], *range(3, array.ndim))
    flips = tuple(axis for axis, flip in enumerate((sign[2] < 0, sign[1] > 0, sign[0] > 0)) if flip)
    return np.flip(view, flips)


def axial_affine(affine: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The affine of what :func:`axial` makes of an array of ``shape`` ``[z h w]``; it takes column, row and slice."""
    axes, signs = world_axes(affine)
    back = np.zeros((4, 4))
    back[3, 3] = 1
    for world in range(3):
        index = axes.index(world)
        flipped = signs[index] < 0 if world == 2 else signs[index] > 0
        back[index, world] = -1 if flipped else 1
        back[index, 3] = shape[2 - index] - 1 if flipped else 0
    return affine @ back


Turn = tuple[bool, bool, bool]
"""How a slice is shown: rows and columns exchanged, then rows reversed, then columns reversed."""


def turn_of(affine: np.ndarray) -> Turn:
    """What shows a slice ``[h w]`` as radiologists do: rows to the back or feet, columns to the left or the back."""
    axes, signs = world_axes(affine)
    swap = axes[0] > axes[1]
    columns, rows = (signs[1], signs[0]) if swap else (signs[0], signs[1])
    return swap, rows > 0, columns > 0


def turned(array: np.ndarray, turn: Turn) -> np.ndarray:
    """``[h w ...]`` as :func:`turn_of` says."""
    array = array.swapaxes(0, 1) if turn[0] else array
    return np.flip(array, tuple(axis for axis in (0, 1) if turn[axis + 1]))


def turned_back(array: np.ndarray, turn: Turn) -> np.ndarray:
    """The slice that :func:`turned` was given."""
    array = np.flip(array, tuple(axis for axis in (0, 1) if turn[axis + 1]))
    return array.swapaxes(0, 1) if turn[0] else array


def turned_affine(affine: np.ndarray, turn: Turn, size: Sequence[int]) -> np.ndarray:
    """The affine of the turned slice, whose size is ``size`` (h, w)."""
    back = np.eye(4)
    for axis, (flip, length) in enumerate(((turn[2], size[1]), (turn[1], size[0]))):
        if flip:
            back[axis, axis], back[axis, 3] = -1, length - 1
    return affine[:, [1, 0, 2, 3]] @ back if turn[0] else affine @ back


def dicom_affine(
    position: Sequence[float] | np.ndarray,
    orientation: Sequence[float],
    spacing: Sequence[float],
    step: Sequence[float] | np.ndarray,
) -> np.ndarray:
    """Affine of a stack of DICOM slices.

    Args:
        position: ImagePositionPatient of the first slice, LPS mm.
        orientation: ImageOrientationPatient: direction of increasing column index, then of increasing row index.
        spacing: PixelSpacing: mm between rows, mm between columns.
        step: from one slice to the next, LPS mm.
    """
    affine = np.eye(4)
    affine[:3, 0] = np.asarray(orientation[:3], float) * spacing[1]
    affine[:3, 1] = np.asarray(orientation[3:], float) * spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = position
    return _LPS_TO_RAS @ affine


def slice_normal(orientation: Sequence[float]) -> np.ndarray:
    """Unit normal of a DICOM slice, LPS."""
    normal = np.cross(np.asarray(orientation[:3], float), np.asarray(orientation[3:], float))
    return normal / max(float(np.linalg.norm(normal)), 1e-12)
