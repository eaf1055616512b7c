"""Label masks in the format of the image they belong to."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image as PILImage

from zoo.errors import MissingExtraError
from zoo.media.files import quiet, replacing
from zoo.media.geometry import turned_back
from zoo.media.image import Image


def write_mask(path_without_suffix: str | os.PathLike[str], mask: np.ndarray, like: Image) -> Path:
    """Writes integer labels on the grid of ``like`` and returns the path, whole or not at all.

    NIfTI (``.nii.gz``) for NIfTI images, for every volume, and for DICOM slices with a patient position: the affine,
    voxel order and (NIfTI) space codes are those of the image. PNG (``.png``) for every other 2-D image, in the
    upright orientation in which it was read. Labels are stored in 8 bits, or 16 when one passes 255.

    Args:
        path_without_suffix: the suffix is appended; dots in the name stay.
        mask: ``[h w]`` or ``[z h w]``, integer or bool, 0 to 65,535.
        like: the image as :func:`zoo.media.read` gave it.

    Raises:
        ValueError: the mask has another shape than the image, or values that are no labels.
        MediaError: the folder can't be written to.
    """
    mask = _labels(mask)
    if mask.shape != like.size:
        raise ValueError(f"a mask of shape {mask.shape} does not fit an image of size {like.size}")
    base = Path(path_without_suffix)
    if like.ndim_spatial == 2 and like.affine is None:
        path = base.with_name(base.name + ".png")
        with replacing(path) as temporary:
            PILImage.fromarray(mask).save(temporary)
        return path
    path = base.with_name(base.name + ".nii.gz")
    _write_nifti(path, mask, like)
    return path


def _labels(mask: np.ndarray) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.dtype.kind not in "bui":
        raise ValueError(f"a mask must hold integers, not {mask.dtype}")
    low, high = (int(mask.min()), int(mask.max())) if mask.size else (0, 0)
    if low < 0 or high > 65535:
        raise ValueError(f"a mask must hold labels from 0 to 65535, not {low} to {high}")
    return np.ascontiguousarray(mask, dtype=np.uint8 if high <= 255 else np.uint16)


def _write_nifti(path: Path, mask: np.ndarray, like: Image) -> None:
    try:
        import nibabel
    except ImportError:
        raise MissingExtraError(f"writing {path}", "nibabel", "imaging") from None
    turn, affine = like.meta.get("turned"), like.affine
    if turn is not None and like.header is not None:
        mask, affine = turned_back(mask, turn), like.header.get_best_affine()
    data = mask.transpose()
    if data.ndim == 2 and (like.header is None or like.header["dim"][0] > 2):
        data = data[..., None]  # one slice of a file of three axes, or a lone DICOM slice
    with quiet(), replacing(path) as temporary:
        if like.format == "nifti" and like.header is not None:
            header = like.header.copy()
            kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
            header.set_data_dtype(mask.dtype)
            header.set_slope_inter(1, 0)
            header["cal_min"] = header["cal_max"] = 0
            header.set_intent("none")
            header.extensions = type(header.extensions)()  # descriptions of the grey values, sometimes of the patient
            image = kind(data, affine, header)
        else:
            image = nibabel.Nifti1Image(data, _affine(like))
            image.header.set_xyzt_units("mm")
        nibabel.save(image, temporary)


def _affine(like: Image) -> np.ndarray:
    if like.affine is not None:
        return like.affine
    spacing = like.spacing or (1.0,) * 3
    return np.diag([*spacing[::-1], 1.0])
