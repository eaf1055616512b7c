"""Label masks: read as numbers, and written in the format of the image they belong to."""

from __future__ import annotations

import colorsys
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PILImage

from zoo.errors import MediaError, MissingExtraError
from zoo.media import itk
from zoo.media.files import quiet, replacing
from zoo.media.geometry import turned_back
from zoo.media.image import Image
from zoo.media.raster import palette_indices
from zoo.media.reading import read


def write_mask(
    path_without_suffix: str | os.PathLike[str], mask: np.ndarray, like: Image, form: str | None = None
) -> Path:
    """Writes integer labels on the grid of ``like`` and returns the path, whole or not at all.

    NRRD (``.nrrd``) and MetaImage (``.mha``) for volumes of these formats, else NIfTI (``.nii.gz``) for every volume,
    and for DICOM slices with a patient position: the affine, voxel order and (NIfTI) space codes are those of the
    image. PNG (``.png``) for every other 2-D image, in the upright orientation in which it was read: black and white
    where the only labels are 0 and 1, the labels as indices of a palette up to 255, else 16 bits. :func:`read_labels`
    gives the labels back.

    Args:
        path_without_suffix: the suffix is appended; dots in the name stay.
        mask: ``[h w]`` or ``[z h w]``, integer or bool, 0 to 65,535.
        like: the image as :func:`zoo.media.read` gave it.
        form: ``png``, ``nifti``, ``nrrd`` or ``metaimage`` instead of the image's own.

    Raises:
        ValueError: the mask has another shape than the image, or values that are no labels.
        MediaError: a volume can't be PNG; the folder can't be written to.
    """
    mask = _labels(mask)
    if mask.shape != like.size:
        raise ValueError(f"a mask of shape {mask.shape} does not fit an image of size {like.size}")
    base = Path(path_without_suffix)
    if form == "png" and like.ndim_spatial == 3:
        raise MediaError(f"{like.source} is a volume, which PNG doesn't hold; choose --format nifti")
    if is_picture(like, form):
        path = base.with_name(base.name + ".png")
        with replacing(path) as temporary:
            _picture(mask).save(temporary)
        return path
    kind = form or like.format
    if kind in itk.FORMATS:
        path = base.with_name(base.name + itk.FORMATS[kind][1])
        deep = mask if mask.ndim == 3 else np.expand_dims(mask, like.meta.get("slice_axis", 0))
        with replacing(path) as temporary:
            itk.write_itk(temporary, deep, _stored_affine(like) if like.affine is not None else _affine(like), kind)
        return path
    path = base.with_name(base.name + ".nii.gz")
    _write_nifti(path, mask, like)
    return path


def write_image(path_without_suffix: str | os.PathLike[str], array: np.ndarray, like: Image) -> Path:
    """Write grey values as they are, float32, and return the path, whole or not at all.

    NIfTI (``.nii.gz``) on the grid of ``like`` where that has a place in the patient and ``array`` its size, else TIFF
    (``.tif``). ``array``: ``[h w]``, or ``[z h w]`` for NIfTI alone.

    Raises ``ValueError`` for another number of axes, ``MediaError`` where the folder can't be written to.
    """
    array, base = np.ascontiguousarray(array, dtype=np.float32), Path(path_without_suffix)
    if like.affine is not None and array.shape == like.size:
        path = base.with_name(base.name + ".nii.gz")
        _write_nifti(path, array, like)
        return path
    if array.ndim != 2:
        raise ValueError(f"a TIFF holds two axes, not {array.ndim}")
    path = base.with_name(base.name + ".tif")
    with replacing(path) as temporary:
        PILImage.fromarray(array).save(temporary, "TIFF")
    return path


def is_picture(like: Image, form: str | None = None) -> bool:
    """Whether masks of an image are written as PNG."""
    return form == "png" if form else like.ndim_spatial == 2 and like.affine is None


def read_labels(x: Any) -> Image:
    """A mask, of anything that :func:`zoo.media.read` takes, as an image of label numbers.

    A palette in colour gives its indices. Black and white (0 and the largest value of the type) count as 0 and 1; grey
    edges between them, as JPEG and resizing leave them, are cut at half, which ``notes`` says. Raises ``MediaError``
    for colours, fractions, and label numbers in a JPEG, which doesn't keep them.
    """
    image = read(x)
    meta = {key: value for key, value in image.meta.items() if key not in ("white", "window", "notes")}
    array = palette_indices(x) if image.meta.get("mode") == "P" else None
    array, notes = _numbers(image) if array is None else (array, [])
    return replace(image, array=array, meta={**meta, "notes": notes} if notes else meta)


def _numbers(image: Image) -> tuple[np.ndarray, list[str]]:
    array, lossy = image.array, image.format == "jpeg"
    if array.ndim == image.ndim_spatial + 1:
        colours = array[..., :3]
        if np.ptp(colours, axis=-1).max() > (24 if lossy else 0):
            raise MediaError(f"mask {image.source} is in colour; store label numbers")
        array = array[..., 0]
    if array.dtype.kind == "f":
        if not np.array_equal(array, whole := np.round(array)):
            raise MediaError(f"mask {image.source} holds fractions; store label numbers")
        array = whole.astype(np.int64)
    if array.dtype.kind == "b" or not array.size:
        return array.astype(np.uint8), []
    top = 255 if array.max() <= 255 else 65535
    if array.max() == top and np.isin(array, (0, top)).all():
        return (array > 0).astype(np.uint8), []
    grey = (array > top // 8) & (array < top - top // 8)
    greys, white = array[grey], int((array >= top - top // 8).sum())
    # Label numbers are few, spread evenly or fill areas; edges are several shades, in lines, fewer than the white that
    # they surround.
    shades = len(np.unique(greys))
    edges = white >= len(greys) and (shades >= 8 or (shades >= 3 and _in_lines(array, grey)))
    if white and array.min() >= 0 and (lossy or edges):
        return (array > top // 2).astype(np.uint8), [f"mask {image.source} has grey edges; it was cut at half"]
    if lossy and array.any():
        raise MediaError(f"mask {image.source} is a JPEG, which doesn't keep label numbers; store it as PNG")
    return array, []


def _in_lines(array: np.ndarray, where: np.ndarray) -> bool:
    """Whether hardly any of these pixels makes a square of one value with its neighbours."""
    corner = array[..., 1:, 1:]
    square = (corner == array[..., 1:, :-1]) & (corner == array[..., :-1, 1:]) & (corner == array[..., :-1, :-1])
    return int((square & where[..., 1:, 1:]).sum()) <= 0.05 * int(where.sum())


def _picture(mask: np.ndarray) -> PILImage.Image:
    """Labels as a PNG that shows them to a person."""
    if mask.max(initial=0) <= 1:
        return PILImage.fromarray(mask * np.uint8(255))
    picture = PILImage.fromarray(mask)
    if mask.dtype == np.uint8:
        hues = [colorsys.hsv_to_rgb(0.618034 * label % 1, 0.8, 1) for label in range(1, 256)]
        picture.putpalette([0, 0, 0, *(round(255 * value) for hue in hues for value in hue)])
    return picture


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
    if turn is not None:
        mask = turned_back(mask, turn)
    header = like.header if like.format == "nifti" else None
    if header is not None:
        affine = header.get_best_affine()
        if "slice_axis" in like.meta:  # the file's slice lies across another axis than its last
            mask = np.expand_dims(mask, like.meta["slice_axis"])
    data = mask.transpose()
    if data.ndim == 2 and (header is None or header["dim"][0] > 2):
        data = data[..., None]  # one slice of a file of three axes, or a lone DICOM slice
    with quiet(), replacing(path) as temporary:
        if header is not None:
            header = header.copy()
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


def _stored_affine(like: Image) -> np.ndarray | None:
    """The affine of the file's own axes, of which a slice taken across one has another order."""
    if like.affine is None or like.ndim_spatial == 3 or not (axis := like.meta.get("slice_axis", 0)):
        return like.affine
    kept = [one for one in range(3) if one != axis]
    order = [0, 0, 0]
    for place, old in enumerate((2 - kept[1], 2 - kept[0], 2 - axis)):
        order[old] = place
    return like.affine[:, [*order, 3]]


def _affine(like: Image) -> np.ndarray:
    if like.affine is not None:
        return like.affine
    spacing = (like.spacing or (1.0,) * like.ndim_spatial)[::-1]
    return np.diag([*spacing, *[1.0] * (4 - len(spacing))])
