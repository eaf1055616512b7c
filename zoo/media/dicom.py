"""One DICOM file, by pydicom: still image, multi-frame volume or cine loop.

Grey images are given in modality units (Hounsfield units for CT) after the rescale slope and intercept or modality
LUT; MONOCHROME1 is inverted so that larger is always brighter; palettes and YBR become RGB. The first window of the
file is kept in ``meta["window"]`` (and ``meta["window_function"]``) and used only when grey in [0, 1] is asked for.
Padding beyond the range of the image is clipped to it. VOI LUT sequences, overlays and RT dose scaling are not applied.
What had to be assumed of a header stands in ``Image.notes``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import MediaError, MissingExtraError, ZooError
from zoo.media import codecs, limits
from zoo.media.deflated import SYNTAX, read_deflated
from zoo.media.files import brief, printable, quiet, refusal
from zoo.media.geometry import dicom_affine, is_map, orientation_code, slice_normal
from zoo.media.header import functional, note, notes, number, numbers, rescale
from zoo.media.image import WINDOW_FUNCTIONS, Image

_DAMAGED = "copy or export it again"


@dataclass(frozen=True)
class Source:
    """The headers that an image came from, without pixels, for objects that refer to it (``zoo.media.objects``).

    ``headers``: of each plane of the array, or the one of a file; ``frames``: which frame of it each plane is, from 0.
    """

    headers: tuple[Any, ...]
    frames: tuple[int, ...] | None = None


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
        planes = list(planes_of(dataset, frames))
        affine, spacing, order = stack_geometry(str(path), planes, thickness(dataset), strict=False)
    if frames == 1:
        plane_spacing = None if spacing is None else spacing[1:]
        return finish(array, str(path), dataset, meta, plane_spacing, affine, 2, Source((dataset,)))
    meta["frames"] = frames
    array = array if order is None else array[order]
    source = Source((dataset,), tuple(range(frames)) if order is None else tuple(map(int, order)))
    return finish(array, str(path), dataset, meta, spacing, affine, 3, source)


def load(path: Path, header_only: bool = False) -> Any:
    """The data set of a file. Raises ``MediaError`` when it can't be parsed, ``MissingExtraError`` without pydicom."""
    try:
        import pydicom
        from pydicom.filereader import read_file_meta_info
    except ImportError:
        raise MissingExtraError(f"reading {path}", "pydicom", "imaging") from None
    try:
        with quiet():
            if str(_transfer_syntax(path, read_file_meta_info)) == SYNTAX:
                return read_deflated(path, header_only)
            return _with_syntax(path, pydicom.dcmread(path, force=True, stop_before_pixels=header_only))
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
            kind = printable(str(dataset.get("Modality") or "unknown"), 16)
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
            plugin = codecs.plugin_for(str(dataset.file_meta.TransferSyntaxUID)) if _is_compressed(dataset) else ""
            array = pixel_array(dataset, raw=False, decoding_plugin=plugin)
            if dataset.PhotometricInterpretation == "PALETTE COLOR":
                return _native(apply_color_lut(array, dataset))
            if int(dataset.get("SamplesPerPixel", 1)) == 3:
                return _native(array)
            array = _clip_padding(array, dataset)
            scale = rescale(path, dataset, dataset)
            if dataset.get("ModalityLUTSequence"):
                array = apply_modality_lut(array, dataset)
            elif scale is None:
                array = _rescaled_by_frame(path, array, dataset)
            elif scale != (1.0, 0.0):
                array = array.astype(np.float64) * scale[0] + scale[1]
    except (MediaError, MemoryError):
        raise
    except Exception as error:
        if not _is_compressed(dataset):
            raise refusal(path, f"its pixel data can't be decoded ({brief(error)})", _DAMAGED) from error
        syntax = dataset.file_meta.TransferSyntaxUID.name.split(",")[0]
        raise refusal(
            path,
            f"its pixel data is damaged or compressed in a way that no installed codec reads ({syntax})",
            "export it uncompressed, or install codecs (pylibjpeg and others) with: pip install 'medimg-zoo[imaging]'",
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
    origin: Source,
) -> Image:
    """Inverts MONOCHROME1 (values and window alike) and puts the image together."""
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1":
        stored = 2 ** min(meta.get("bit_depth", 8), 8) - 1
        total = stored if array.dtype == np.uint8 else float(array.min()) + float(array.max())
        array = (total - array).astype(array.dtype)
        if "window" in meta:
            meta["window"] = (total - meta["window"][0], meta["window"][1])
    if found := notes(dataset):
        meta["notes"] = found
    if affine is not None:
        if not is_map(affine):
            raise refusal(source, "its patient position, orientation or pixel spacing is invalid", _DAMAGED)
        meta["orientation"] = orientation_code(affine)
    for header in origin.headers:
        for name in _PIXEL_ELEMENTS:
            if name in header:
                del header[name]
    return Image(array, source, "dicom", spacing, affine, meta, ndim_spatial, origin)


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
            meta[key] = printable(str(dataset.get(name)), 64)
    if dataset.get("BitsStored"):
        meta["bit_depth"] = int(dataset.BitsStored)
    if int(dataset.get("SamplesPerPixel", 1)) == 1 and meta.get("photometric_interpretation") != "PALETTE COLOR":
        meta.update(_window(dataset))
    return meta


def thickness(dataset: Any) -> float | None:
    """mm from slice to slice as the header states it."""
    measures = functional(dataset, 0, "PixelMeasuresSequence") or dataset
    stated = (number(measures, name) for name in ("SpacingBetweenSlices", "SliceThickness"))
    return next((value for value in stated if value is not None and value > 0), None)


Plane = tuple[Any, Any, Any]  # ImagePositionPatient, ImageOrientationPatient, PixelSpacing; None where absent


def plane_of(dataset: Any, frame: int = 0) -> Plane:
    """Where a frame lies: its functional groups (enhanced objects), else the data set itself."""
    position = functional(dataset, frame, "PlanePositionSequence") or dataset
    orientation = functional(dataset, frame, "PlaneOrientationSequence") or dataset
    measures = functional(dataset, frame, "PixelMeasuresSequence") or dataset
    # Projection X-ray gives the pixel pitch at the detector instead.
    spacing = numbers(measures, "PixelSpacing", 2) or numbers(dataset, "ImagerPixelSpacing", 2)
    return (
        numbers(position, "ImagePositionPatient", 3),
        numbers(orientation, "ImageOrientationPatient", 6),
        spacing if spacing is not None and min(spacing) > 0 else None,
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


def planes_of(dataset: Any, frames: int) -> Iterator[Plane]:
    offsets = numbers(dataset, "GridFrameOffsetVector", frames)  # RT dose: along the normal, from the first frame
    for frame in range(frames):
        position, orientation, spacing = plane_of(dataset, frame)
        if offsets is not None and position is not None and orientation is not None:
            position = tuple(position + slice_normal(orientation) * (offsets[frame] - offsets[0]))
        yield position, orientation, spacing


def _clip_padding(array: np.ndarray, dataset: Any) -> np.ndarray:
    """Stored values without the padding that lies beyond the others: it would spread the range of grey values."""
    value = number(dataset, "PixelPaddingValue")
    if value is None:
        return array
    other = number(dataset, "PixelPaddingRangeLimit")
    first, last = sorted((value, value if other is None else other))
    padded = (array >= first) & (array <= last)
    rest = array[~padded]
    if not padded.any() or not rest.size or not (last < rest.min() or first > rest.max()):
        return array
    inverted = dataset.get("PhotometricInterpretation") == "MONOCHROME1"
    note(dataset, "padding was set to the darkest value of the rest")
    return np.where(padded, rest.max() if inverted else rest.min(), array)


def _rescaled_by_frame(path: Path, array: np.ndarray, dataset: Any) -> np.ndarray:
    """Enhanced objects carry slope and intercept in their functional groups."""
    frames = int(dataset.get("NumberOfFrames") or 1)
    groups = [functional(dataset, frame, "PixelValueTransformationSequence") for frame in range(frames)]
    pairs = [(rescale(path, group, dataset) if group else None) or (1.0, 0.0) for group in groups]
    if set(pairs) == {(1.0, 0.0)}:
        return array
    stack = array.reshape(frames, *array.shape[-2:]).astype(np.float64)
    slope, intercept = np.array(pairs).T[:, :, None, None]
    return (stack * slope + intercept).reshape(array.shape)


def _window(dataset: Any) -> dict[str, Any]:
    """The first window and its function; for pixels of fewer than 8 bits without one, their whole range."""
    source = functional(dataset, 0, "FrameVOILUTSequence") or dataset
    centre, width = number(source, "WindowCenter"), number(source, "WindowWidth")
    function = str(source.get("VOILUTFunction") or "LINEAR").strip()
    if width is not None and width <= 0:
        note(dataset, f"the window width {width:g} is not above 0 and was left out")
    elif centre is not None and width is not None:
        if function not in WINDOW_FUNCTIONS:
            note(dataset, f"the window function {printable(function, 32)!r} is unknown and was taken as LINEAR")
            function = "LINEAR"
        return {"window": (centre, width), **({} if function == "LINEAR" else {"window_function": function})}
    bits = int(dataset.get("BitsStored") or 8)
    rescaled = any(name in dataset for name in ("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"))
    if bits < 8 and not rescaled:
        full = float(2**bits - 1)
        return {"window": (full / 2, full), "window_function": "LINEAR_EXACT"}
    if dataset.get("VOILUTSequence"):
        note(dataset, "its VOI LUT is not applied")
    return {}


def _native(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))


def _stored_samples(dataset: Any, samples: int) -> float:
    """YBR_FULL_422 stores two values a pixel instead of three."""
    return 2 if str(dataset.get("PhotometricInterpretation")) == "YBR_FULL_422" else samples


def _is_compressed(dataset: Any) -> bool:
    syntax = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
    return bool(syntax is not None and syntax.is_transfer_syntax and syntax.is_compressed and syntax != SYNTAX)


def _with_syntax(path: Path, dataset: Any) -> Any:
    """A data set without file meta, or whose meta doesn't name the syntax, gets the one that it was read by."""
    if getattr(dataset.file_meta, "TransferSyntaxUID", None):
        return dataset
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if bytes(dataset.get("PixelData") or b"")[:4] == b"\xfe\xff\x00\xe0":
        raise refusal(path, "it lacks the file meta that says how its pixels are compressed", "export it again")
    implicit, little = dataset.original_encoding
    syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    dataset.file_meta.TransferSyntaxUID = syntax
    note(dataset, f"the file states no transfer syntax; it was read as {syntax.name}")
    return dataset


def _transfer_syntax(path: Path, read_file_meta_info: Any) -> Any:
    try:
        return getattr(read_file_meta_info(path), "TransferSyntaxUID", "")
    except Exception:  # no preamble: dcmread decides
        return ""
