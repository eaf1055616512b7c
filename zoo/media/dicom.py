"""One DICOM file, by pydicom: still image, multi-frame volume or cine loop.

Grey images are given in modality units (Hounsfield units for CT) after the rescale slope and intercept or modality
LUT; MONOCHROME1 is inverted so that larger is always brighter; palettes and YBR become RGB. The first window of the
file is kept in ``meta["window"]`` and used only when grey in [0, 1] is asked for. VOI LUT sequences, overlays and
RT dose scaling are not applied.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import MediaError, MissingExtraError, ZooError
from zoo.media import limits
from zoo.media.files import brief, one_line, quiet, refusal
from zoo.media.geometry import dicom_affine, orientation_code, slice_normal
from zoo.media.image import Image

_DEFLATED = "1.2.840.10008.1.2.1.99"
_DEFLATE_MAX_RATIO = 1032
_DAMAGED = "copy or export it again"


def read_dicom(path: Path) -> Image:
    """``[h w]`` or ``[h w 3]``; a file of several frames is ``[z h w]`` (colour: ``[z h w 3]``).

    Frames with patient positions are sorted along their normal; frames without are in time order and have no affine.
    Raises ``MediaError`` for absurd sizes (before decoding), truncated pixels, files without an image, and transfer
    syntaxes that need a codec which is not installed.
    """
    dataset = load(path)
    frames = check_pixels(path, dataset)
    array = decode(path, dataset)
    with parsing(path):
        meta = facts(dataset)
        planes = list(_planes(dataset, frames))
        affine, spacing, order = stack_geometry(str(path), planes, thickness(dataset), strict=False)
    if frames == 1:
        plane_spacing = None if spacing is None else spacing[1:]
        return finish(array, str(path), dataset, meta, plane_spacing, affine, ndim_spatial=2)
    meta["frames"] = frames
    array = array if order is None else array[order]
    return finish(array, str(path), dataset, meta, spacing, affine, ndim_spatial=3)


def load(path: Path, header_only: bool = False) -> Any:
    """The data set of a file. Raises ``MediaError`` when it can't be parsed, ``MissingExtraError`` without pydicom."""
    try:
        import pydicom
        from pydicom.filereader import read_file_meta_info
    except ImportError:
        raise MissingExtraError(f"reading {path}", "pydicom", "imaging") from None
    try:
        with quiet():
            if not header_only and str(_transfer_syntax(path, read_file_meta_info)) == _DEFLATED:
                _check_deflated(path)
            return pydicom.dcmread(path, force=True, stop_before_pixels=header_only)
    except (MediaError, MemoryError):
        raise
    except Exception as error:
        # Damaged files make pydicom raise EOFError, struct.error, ValueError, NotImplementedError, ...
        raise refusal(path, f"its DICOM data is truncated or damaged ({brief(error)})", _DAMAGED) from error


@contextmanager
def parsing(path: Path) -> Iterator[None]:
    """Header values are parsed when they are asked for; whatever a damaged one raises is a ``MediaError``."""
    try:
        with quiet():
            yield
    except (ZooError, MemoryError):
        raise
    except Exception as error:
        raise refusal(path, f"its DICOM header is damaged ({brief(error)})", _DAMAGED) from error


def check_pixels(path: Path, dataset: Any) -> int:
    """The number of frames, once the header is found to be sane and the pixels to be all there."""
    with parsing(path):
        if "DirectoryRecordSequence" in dataset:
            raise refusal(path, "it is a DICOMDIR index without pixels", "give the folder of the series you mean")
        if "Rows" not in dataset or "Columns" not in dataset:
            kind = one_line(str(dataset.get("Modality") or "unknown"), 16)
            raise refusal(path, f"it is a DICOM object without an image (modality {kind})", "give an image file")
        frames = int(dataset.get("NumberOfFrames") or 1)
        rows, columns = int(dataset.Rows), int(dataset.Columns)
        samples, bits = int(dataset.get("SamplesPerPixel", 1)), int(dataset.get("BitsAllocated", 16))
        limits.check_size(str(path), (rows, columns) if frames == 1 else (frames, rows, columns))
        if samples not in (1, 3):
            raise refusal(path, f"it declares {samples} samples per pixel", "export it as grey or RGB")
        pixels = next((dataset[n].value for n in _PIXEL_ELEMENTS if n in dataset), None)
        if not pixels:
            raise refusal(path, "its pixel data is missing or truncated", _DAMAGED)
        needed = math.ceil(frames * rows * columns * _stored_samples(dataset, samples) * bits / 8)
        if not _is_compressed(dataset) and len(pixels) < needed:
            raise refusal(path, f"its pixel data is truncated ({len(pixels):,} of {needed:,} bytes)", _DAMAGED)
        return frames


_PIXEL_ELEMENTS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def decode(path: Path, dataset: Any) -> np.ndarray:
    """Pixels as ``[h w]``, ``[h w 3]`` or with a leading frame axis: modality units (float32), or uint8 and uint16
    as stored when nothing rescales them; MONOCHROME1 is not yet inverted."""
    try:
        from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array

        with quiet():
            array = pixel_array(dataset, raw=False)
            if dataset.PhotometricInterpretation == "PALETTE COLOR":
                return _native(apply_color_lut(array, dataset))
            if int(dataset.get("SamplesPerPixel", 1)) == 3:
                return _native(array)
            if "ModalityLUTSequence" in dataset or "RescaleSlope" in dataset:
                is_identity = "ModalityLUTSequence" not in dataset and (
                    float(dataset.RescaleSlope),
                    float(dataset.get("RescaleIntercept", 0)),
                ) == (1.0, 0.0)
                array = array if is_identity else apply_modality_lut(array, dataset)
            else:
                array = _rescaled_by_frame(array, dataset)
    except Exception as error:
        if not _is_compressed(dataset):
            raise refusal(path, f"its pixel data can't be decoded ({brief(error)})", _DAMAGED) from error
        syntax = dataset.file_meta.TransferSyntaxUID.name.split(",")[0]
        raise refusal(
            path,
            f"its pixel data is damaged or compressed in a way that no installed codec reads ({syntax})",
            "export it uncompressed, or install codecs with: pip install 'pylibjpeg[all]'",
        ) from error
    return array if array.dtype == np.uint8 else array.astype(np.float32)


def finish(
    array: np.ndarray,
    source: str,
    dataset: Any,
    meta: dict[str, Any],
    spacing: tuple[float, ...] | None,
    affine: np.ndarray | None,
    ndim_spatial: int,
) -> Image:
    """Inverts MONOCHROME1 (values and window alike) and puts the image together."""
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1":
        total = 255 if array.dtype == np.uint8 else float(array.min()) + float(array.max())
        array = (total - array).astype(array.dtype)
        if "window" in meta:
            meta["window"] = (total - meta["window"][0], meta["window"][1])
    if affine is not None:
        if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
            raise refusal(source, "its patient position, orientation or pixel spacing is invalid", _DAMAGED)
        meta["orientation"] = orientation_code(affine)
    return Image(array, source, "dicom", spacing, affine, meta, ndim_spatial=ndim_spatial)


def facts(dataset: Any) -> dict[str, Any]:
    """What models and figures may want to know; nothing that identifies a patient."""
    meta: dict[str, Any] = {}
    names = {
        "modality": "Modality",
        "photometric_interpretation": "PhotometricInterpretation",
        "body_part": "BodyPartExamined",
        "view_position": "ViewPosition",
    }
    for key, name in names.items():
        if dataset.get(name):
            meta[key] = one_line(str(dataset.get(name)), 64)
    if dataset.get("BitsStored"):
        meta["bit_depth"] = int(dataset.BitsStored)
    window = _first_window(dataset)
    if window is not None and int(dataset.get("SamplesPerPixel", 1)) == 1:
        meta["window"] = window
    return meta


def thickness(dataset: Any) -> float | None:
    """mm from slice to slice as the header states it."""
    measures = _functional(dataset, 0, "PixelMeasuresSequence") or dataset
    for name in ("SpacingBetweenSlices", "SliceThickness"):
        value = measures.get(name)
        if value is not None and float(value) > 0:
            return float(value)
    return None


Plane = tuple[Any, Any, Any]  # ImagePositionPatient, ImageOrientationPatient, PixelSpacing; None where absent


def plane_of(dataset: Any, frame: int = 0) -> Plane:
    """Where a frame lies: its functional groups (enhanced objects), else the data set itself."""
    position = (_functional(dataset, frame, "PlanePositionSequence") or dataset).get("ImagePositionPatient")
    orientation = (_functional(dataset, frame, "PlaneOrientationSequence") or dataset).get("ImageOrientationPatient")
    measures = _functional(dataset, frame, "PixelMeasuresSequence") or dataset
    # Projection X-ray gives the pixel pitch at the detector instead.
    spacing = measures.get("PixelSpacing") or dataset.get("ImagerPixelSpacing")
    return (
        [float(v) for v in position] if position is not None and len(position) == 3 else None,
        [float(v) for v in orientation] if orientation is not None and len(orientation) == 6 else None,
        [float(v) for v in spacing] if spacing is not None and len(spacing) == 2 and min(spacing) > 0 else None,
    )


Geometry = tuple["np.ndarray | None", "tuple[float, ...] | None", "np.ndarray | None"]


def stack_geometry(source: str, planes: list[Plane], stated_step: float | None, strict: bool = True) -> Geometry:
    """Affine, spacing (z, h, w) and slice order of parallel planes.

    Frames without positions, or at one place, are frames in time: no affine and no order, and a spacing only when the
    header states the step (always for a lone slice, whose step counts as 1 mm when it isn't stated). With ``strict``,
    slices at one place or unevenly apart raise ``MediaError``.
    """
    position, orientation, spacing = planes[0]
    lone_step = stated_step or 1.0
    flat = None if spacing is None else (lone_step, spacing[0], spacing[1])
    if len(planes) > 1 and stated_step is None:
        flat = None
    if position is None or orientation is None or spacing is None or any(plane[0] is None for plane in planes):
        return None, flat, None
    normal = slice_normal(orientation)
    if len(planes) == 1:
        return dicom_affine(position, orientation, spacing, normal * lone_step), flat, None
    along = np.array([np.dot(normal, plane[0]) for plane in planes])
    order = np.argsort(along, kind="stable")
    gaps = np.diff(along[order])
    usual = float(np.median(gaps))
    doubled, uneven = gaps.min() < 1e-3, np.abs(gaps - usual).max() > 0.1 * usual
    if (doubled or uneven) and not strict:
        return None, flat, None
    if doubled:
        raise refusal(source, "several of its slices lie at the same position", "keep one volume of the series only")
    if uneven:
        raise refusal(
            source,
            f"its slices are unevenly spaced ({gaps.min():.3g} to {gaps.max():.3g} mm)",
            "add the missing slices or resample the series",
        )
    first, last = np.array(planes[order[0]][0]), np.array(planes[order[-1]][0])
    step = (last - first) / (len(planes) - 1)
    affine = dicom_affine(first, orientation, spacing, step)
    return affine, (float(np.linalg.norm(step)), spacing[0], spacing[1]), order


def _planes(dataset: Any, frames: int) -> Iterator[Plane]:
    offsets = dataset.get("GridFrameOffsetVector")  # RT dose: along the normal, from the first frame
    for frame in range(frames):
        position, orientation, spacing = plane_of(dataset, frame)
        if offsets is not None and position is not None and orientation is not None and len(offsets) == frames:
            position = list(position + slice_normal(orientation) * (float(offsets[frame]) - float(offsets[0])))
        yield position, orientation, spacing


def _functional(dataset: Any, frame: int, name: str) -> Any:
    """The one item of a functional-group sequence: the frame's own, else the shared one, else None."""
    own = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for group in [*own[frame : frame + 1], *shared[:1]]:
        if group.get(name):
            return group.get(name)[0]
    return None


def _rescaled_by_frame(array: np.ndarray, dataset: Any) -> np.ndarray:
    """Enhanced objects carry slope and intercept in their functional groups."""
    frames = int(dataset.get("NumberOfFrames") or 1)
    groups = [_functional(dataset, frame, "PixelValueTransformationSequence") for frame in range(frames)]
    pairs = [
        (float(g.get("RescaleSlope", 1)), float(g.get("RescaleIntercept", 0))) if g else (1.0, 0.0) for g in groups
    ]
    if set(pairs) == {(1.0, 0.0)}:
        return array
    stack = array.reshape(frames, *array.shape[-2:]).astype(np.float64)
    slope, intercept = np.array(pairs).T[:, :, None, None]
    return (stack * slope + intercept).reshape(array.shape)


def _first_window(dataset: Any) -> tuple[float, float] | None:
    source = _functional(dataset, 0, "FrameVOILUTSequence") or dataset
    centre, width = source.get("WindowCenter"), source.get("WindowWidth")
    if centre is None or width is None or centre == "" or width == "":
        return None
    if hasattr(centre, "__len__"):
        centre = centre[0] if len(centre) else None
    if hasattr(width, "__len__"):
        width = width[0] if len(width) else None
    return None if centre is None or width is None or float(width) <= 0 else (float(centre), float(width))


def _native(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))


def _stored_samples(dataset: Any, samples: int) -> float:
    """YBR_FULL_422 stores two values a pixel instead of three."""
    return 2 if str(dataset.get("PhotometricInterpretation")) == "YBR_FULL_422" else samples


def _is_compressed(dataset: Any) -> bool:
    syntax = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
    return bool(syntax is not None and syntax.is_transfer_syntax and syntax.is_compressed and syntax != _DEFLATED)


def _transfer_syntax(path: Path, read_file_meta_info: Any) -> Any:
    try:
        return getattr(read_file_meta_info(path), "TransferSyntaxUID", "")
    except Exception:  # no preamble: dcmread decides
        return ""


def _check_deflated(path: Path) -> None:
    """A deflated data set is unpacked whole before its header can be read, so its size on disk has to do."""
    if path.stat().st_size * _DEFLATE_MAX_RATIO > limits.MAX_INFLATED_BYTES:
        raise refusal(path, "it is a deflated DICOM file too large to unpack safely", "export it uncompressed")
