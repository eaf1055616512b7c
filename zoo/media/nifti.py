"""NIfTI-1 and NIfTI-2, ``.nii`` and ``.nii.gz``, by nibabel.

A file's voxel ``data[i, j, k]`` is ``array[k, j, i]``: the array is the transposed data, nothing is flipped or
resampled, and ``Image.affine`` is the file's own. A file of two dimensions is turned upright, and so is a lone slice
where an image is needed (``Image.upright``); a mask is turned back. Hence ``write_mask`` gives back the input's grid
exactly.
"""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import MediaError, MissingExtraError
from zoo.media import limits
from zoo.media.files import brief, quiet, refusal
from zoo.media.geometry import is_map, orientation_code, spacing_of
from zoo.media.image import Image
from zoo.media.sniff import head

_DEFLATE_MAX_RATIO = 1032  # no deflate stream expands more than this
_DAMAGED = "copy or export it again"


def read_nifti(path: Path, frame: int | None = None) -> Image:
    """A volume ``[z h w]``, or ``[h w]`` for a file of two dimensions; integers stay, floats become float32.

    ``frame``: which volume of a file of several, such as the sequences of an examination in one file.

    Raises ``MediaError`` for time series, absurd sizes, files shorter than their header says, colour or complex
    voxels, and damaged data.
    """
    shape = _checked_shape(path, frame)
    try:
        import nibabel
    except ImportError:
        raise MissingExtraError(f"reading {path}", "nibabel", "imaging") from None
    try:
        first, packed = head(path)
        kind = nibabel.Nifti2Image if first[4:7] == b"n+2" else nibabel.Nifti1Image
        # By class and stream, not by nibabel.load: the content says NIfTI, whatever the suffix says.
        with quiet(), gzip.open(path) if packed else open(path, "rb") as stream:
            image = kind.from_file_map({"image": nibabel.FileHolder(fileobj=stream)}, mmap=False)
            _check_length(path, image, shape, packed)
            array = _voxels(path, image, len(shape), frame)
            if packed:
                _check_trailer(path, stream)
            header = image.header.copy()
            affine, notes = _affine(header)
    except (MediaError, MemoryError):
        raise
    except Exception as error:
        # nibabel passes on what gzip, zlib, struct and numpy raise for damaged files, beside its own errors.
        raise refusal(path, f"its NIfTI data is truncated or damaged ({brief(error)})", _DAMAGED) from error
    array = array.reshape(shape, order="F").transpose()
    if not is_map(affine):
        raise refusal(path, "its affine is not a valid map to millimetres", "repair its sform or qform")
    spacing = spacing_of(affine)[-array.ndim :]
    meta = {"orientation": orientation_code(affine), "dtype": str(header.get_data_dtype()), **notes}
    found = Image(array, str(path), "nifti", spacing, affine, meta, ndim_spatial=array.ndim, header=header)
    return found.upright() if array.ndim == 2 else found


def _affine(header: Any) -> tuple[np.ndarray, dict[str, Any]]:
    """The file's map to millimetres; where its sform is none, the qform, which then stands in the header alone."""
    affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    if is_map(affine) or not (header["sform_code"] > 0 and header["qform_code"] > 0):
        return affine, {}
    header.set_sform(None, 0)
    return np.asarray(header.get_best_affine(), dtype=np.float64), {
        "notes": ["its sform is not a valid map to millimetres; the qform was used"]
    }


def _check_trailer(path: Path, stream: Any) -> None:
    """Reads to the end, where gzip compares checksum and length with what it unpacked."""
    room = limits.MAX_INFLATED_BYTES
    while block := stream.read(2**20):
        room -= len(block)
        if room < 0:
            raise refusal(path, "it holds far more bytes than its header says", _DAMAGED)


def _checked_shape(path: Path, frame: int | None) -> tuple[int, ...]:
    """The spatial shape (w, h[, z]) that the raw header declares, once it is found to be sane."""
    first, _ = head(path)
    if len(first) < 348:
        raise refusal(path, "its NIfTI header is truncated", _DAMAGED)
    order = "<" if first[0] in (0x5C, 0x1C) else ">"
    if struct.unpack(order + "i", first[:4])[0] == 348:
        magic, dim = first[344:348], struct.unpack(order + "8h", first[40:56])
        (offset,) = struct.unpack(order + "f", first[108:112])
    elif len(first) >= 540:
        magic, dim = first[4:8], struct.unpack(order + "8q", first[16:80])
        (offset,) = struct.unpack(order + "q", first[168:176])
    else:
        raise refusal(path, "its NIfTI header is truncated", _DAMAGED)
    if magic[:3] in (b"ni1", b"ni2"):
        raise refusal(path, "it is half of a NIfTI pair (.hdr and .img)", "convert the pair to one .nii file")
    if magic[:3] not in (b"n+1", b"n+2"):
        raise refusal(path, "it looks like an ANALYZE header, without orientation", "convert it to NIfTI (.nii)")
    if not 0 <= offset <= limits.MAX_NIFTI_OFFSET:
        raise refusal(path, f"its header puts the voxels at byte {offset:,.0f}", _DAMAGED)
    if not 2 <= dim[0] <= 7:
        raise refusal(path, f"its header declares {dim[0]} dimensions", "give a file of 2 or 3 dimensions")
    limits.check_size(str(path), dim[min(dim[0], 3) : 0 : -1])
    volumes = math.prod(dim[4 : dim[0] + 1])
    if volumes != 1 and frame is not None and not frame < volumes:
        raise refusal(path, f"it holds {volumes} volumes and not one with the index {frame}", "choose another")
    if volumes != 1 and frame is None:
        raise refusal(
            path,
            f"it holds {volumes} volumes (size {' x '.join(map(str, dim[1 : dim[0] + 1]))})",
            "extract one of them",
        )
    return tuple(dim[1 : min(dim[0], 3) + 1])


def _check_length(path: Path, image: Any, shape: tuple[int, ...], packed: bool) -> None:
    """Compares the declared bytes with those on disk, so that a lying header allocates nothing."""
    declared = math.prod(shape) * image.header.get_data_dtype().itemsize
    on_disk = path.stat().st_size
    possible = on_disk * _DEFLATE_MAX_RATIO if packed else on_disk - int(image.dataobj.offset)
    if declared > possible:
        raise refusal(path, f"its header declares {declared:,} bytes of voxels but the file is shorter", _DAMAGED)


def _voxels(path: Path, image: Any, axes: int, frame: int | None) -> np.ndarray:
    stored = image.header.get_data_dtype()
    if stored.kind not in "iuf":
        name = "complex" if stored.kind == "c" else "colour"
        raise refusal(path, f"its voxels are {name} ({stored})", "save it as real grey values")
    if frame is not None and len(image.shape) > axes and math.prod(image.shape[axes:]) > 1:
        where = np.unravel_index(frame, image.shape[axes:], order="F")
        array = np.asarray(image.dataobj[(..., *map(int, where))])
        return array.astype(np.float32 if array.dtype.kind == "f" else array.dtype.newbyteorder("="), copy=False)
    if stored.kind in "iu" and (image.dataobj.slope, image.dataobj.inter) == (1.0, 0.0):
        return np.asarray(image.dataobj).astype(stored.newbyteorder("="), copy=False)
    return image.get_fdata(dtype=np.float32, caching="unchanged")
