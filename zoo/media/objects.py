"""DICOM objects made of an image: segmentations (SEG) and structured reports (SR), by highdicom.

They refer to the DICOM files that the image was read from: patient, study, frame of reference and the place of every
plane are theirs; frames that lie nowhere, such as those of a cine loop, are referred to by their numbers. Each says by
what it was made: model, weights and their commit, and what may be believed of it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo.diagnoses import OWN_SCHEME, Code
from zoo.errors import MediaError, MissingExtraError
from zoo.media.dicom import Plane, Source, planes_of, thickness
from zoo.media.files import brief, quiet, replacing
from zoo.media.header import functional
from zoo.media.image import Image
from zoo.plugin import Form

MAKER = "medimg-zoo"
_CATEGORIES = {
    "anatomy": ("123037004", "Anatomical Structure"),
    "abnormal": ("49755003", "Morphologically Abnormal Structure"),
    "tissue": ("85756007", "Tissue"),
    "object": ("260787004", "Physical object"),
}
# Type 2 elements: they must be there, and may be empty.
_MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
_PLANE_POSITION, _FRAME_CONTENT, _TIME_INDEX = 0x00209113, 0x00209111, 0x00209128
_NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows", "Columns")
_OF_ONE_FRAME = {f"1.2.840.10008.5.1.4.1.1.{kind}" for kind in ("1", "2", "4", "6.1", "7", "128")}


class UnreferableError(MediaError):
    """No DICOM object can refer to an image."""


@dataclass(frozen=True)
class Algorithm:
    """What made a result. ``prompted``: a person showed it where to look."""

    name: str
    version: str
    weights: str
    revision: str | None
    trained_on: str
    disclaimer: str
    prompted: bool = False


@dataclass(frozen=True)
class Measured:
    """One number of a report: ``unit`` is a code of UCUM, ``1`` for none."""

    name: Code
    value: float
    unit: str = "1"


@dataclass(frozen=True)
class Finding:
    """What a report says of one thing: what it is, and numbers about it."""

    name: str
    code: Code | None
    numbers: tuple[Measured, ...] = ()


def unreferable(image: Image, form: Form) -> str:
    """Why no DICOM object of a form can refer to an image, as the end of a sentence; empty where one can."""
    origin = image.header
    if not isinstance(origin, Source):
        return "it wasn't read from DICOM files"
    if image.meta.get("slice_axis"):
        return "it is a slice across the planes of its file"
    for header in origin.headers:
        for name in _NEEDED:
            if not header.get(name):
                return f"its header lacks {name}"
    if form == "dicom-seg" and origin.frames and origin.headers[0].SOPClassUID in _OF_ONE_FRAME:
        return f"it holds {len(origin.frames)} frames, and a file of its kind may hold one"
    return ""


def write_segmentation(
    path_without_suffix: Path,
    mask: np.ndarray,
    like: Image,
    segments: Sequence[tuple[str, Code]],
    algorithm: Algorithm,
) -> Path:
    """Write a mask as ``.dcm``: a binary segment for each of ``segments``, whose numbers in the mask start at 1.

    ``mask``: integer ``[h w]`` or ``[z h w]`` on the grid of ``like``. Raises ``MediaError`` where no object can refer
    to ``like``, ``MissingExtraError`` without highdicom.
    """
    hd = _highdicom(f"writing {path_without_suffix.name}.dcm")
    headers, frames = _origin(like, "dicom-seg")
    planes = mask.reshape(-1, *mask.shape[-2:]).astype(np.uint16 if len(segments) > 255 else np.uint8)
    if frames is not None:
        stored = np.zeros_like(planes)
        stored[list(frames)] = planes
        planes = stored
    made_by = _identification(hd, algorithm)
    described = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=_long(label),
            segmented_property_category=hd.sr.CodedConcept(*_category(code)),
            segmented_property_type=_concept(hd, code),
            algorithm_type="SEMIAUTOMATIC" if algorithm.prompted else "AUTOMATIC",
            algorithm_identification=made_by,
        )
        for number, (label, code) in enumerate(segments, start=1)
    ]
    for one in described:
        one.SegmentDescription = algorithm.disclaimer[:1024]
    made_up: tuple[str, ...] = ()
    with _making(like):
        if len(headers) == 1:
            headers[0], made_up = _grouped(hd, headers[0], frames)
        made = hd.seg.Segmentation(
            source_images=headers,
            pixel_array=planes,
            segmentation_type="BINARY",
            segment_descriptions=described,
            content_label="SEGMENTATION",
            content_description=_long(algorithm.disclaimer),
            omit_empty_frames=bool(planes.any()),
            **_series(hd, algorithm, 9001),
        )
        _without(made, made_up)
        _complete(made, like)
    return _saved(made, path_without_suffix)


def _grouped(hd: Any, header: Any, frames: tuple[int, ...] | None) -> tuple[Any, tuple[str, ...]]:
    """The header of a file with the functional groups in which highdicom looks for places and sizes, made from what it
    states elsewhere; and what of them is made up because it states nothing, and has to go again.

    A frame that comes alone needs no place.
    """
    from pydicom import Dataset

    count, shared = 1 if frames is None else len(frames), (header.get("SharedFunctionalGroupsSequence") or [{}])[0]
    planes: list[Plane] = list(planes_of(header, count))
    _, turn, spacing = planes[0]
    if "PixelSpacing" not in header and not functional(header, 0, "PixelMeasuresSequence"):
        spacing = None  # the pitch of a detector is none in the patient
    placed = spacing is not None and "FrameOfReferenceUID" in header and all(None not in plane for plane in planes)
    if "ImageOrientationSlide" in header or (placed and "PlaneOrientationSequence" in shared):
        return header, ()
    if placed and any(not np.allclose(plane[1], turn, atol=1e-4) for plane in planes):
        return header, ()  # planes of several directions: highdicom says no to them
    made, groups, made_up = copy(header), Dataset(), () if spacing else ("size",)
    groups.PixelMeasuresSequence = hd.PixelMeasuresSequence(spacing or (1, 1), thickness(header) or 1)
    made.NumberOfFrames, made.SharedFunctionalGroupsSequence = count, [groups]
    made.PerFrameFunctionalGroupsSequence = [Dataset() for _ in planes]
    if not placed and count == 1:
        return made, made_up
    if not placed:
        sized = spacing and thickness(header)  # highdicom reads no size of pixels without a thickness
        made.FrameOfReferenceUID, made_up = hd.UID(), ("place",) if sized else ("place", "size")  # type: ignore[assignment]
        planes = [((0, 0, -number), (1, 0, 0, 0, 1, 0), None) for number in range(count)]
    groups.PlaneOrientationSequence = hd.PlaneOrientationSequence("PATIENT", list(planes[0][1]))
    for item, (place, _, _) in zip(made.PerFrameFunctionalGroupsSequence, planes, strict=True):
        item.PlanePositionSequence = hd.PlanePositionSequence("PATIENT", list(place))
    return made, made_up


def _without(made: Any, made_up: Sequence[str]) -> None:
    """Take what was made up out of a segmentation: its frames stay in the order of those that they were made from."""
    shared = made.SharedFunctionalGroupsSequence[0]
    if "size" in made_up:
        shared.pop("PixelMeasuresSequence", None)
    if "place" not in made_up:
        return
    del shared.PlaneOrientationSequence
    for measures in shared.get("PixelMeasuresSequence", []):
        measures.pop("SpacingBetweenSlices", None)
    for name in ("FrameOfReferenceUID", "PositionReferenceIndicator", "DimensionOrganizationType"):
        made.pop(name, None)
    for group in made.PerFrameFunctionalGroupsSequence:
        del group.PlanePositionSequence
        (source,) = group.DerivationImageSequence[0].SourceImageSequence
        content, number = group.FrameContentSequence[0], int(source.ReferencedFrameNumber)
        content.TemporalPositionIndex = number
        content.DimensionIndexValues = [*list(content.DimensionIndexValues)[:-1], number]
    (place,) = [one for one in made.DimensionIndexSequence if one.FunctionalGroupPointer == _PLANE_POSITION]
    place.FunctionalGroupPointer, place.DimensionIndexPointer = _FRAME_CONTENT, _TIME_INDEX
    place.DimensionDescriptionLabel = "Temporal Position Index"


def _complete(made: Any, like: Image) -> None:
    """What the standard asks of a segmentation and its source leaves out, as far as it is known."""
    shared = made.SharedFunctionalGroupsSequence[0]
    measures = shared.get("PixelMeasuresSequence")
    placed = "PlaneOrientationSequence" in shared
    if measures and placed and "SliceThickness" not in measures[0] and like.ndim_spatial == 3 and like.spacing:
        measures[0].SliceThickness = round(like.spacing[0], 6)
    if not placed and "PatientOrientation" not in made:
        made.PatientOrientation = ""


def write_report(
    path_without_suffix: Path, like: Image, findings: Sequence[Finding], remarks: Sequence[str], algorithm: Algorithm
) -> Path:
    """Write findings as ``.dcm``: a comprehensive structured report after TID 1500, with the disclaimer and ``remarks``
    as its comment. Raises as :func:`write_segmentation`."""
    hd = _highdicom(f"writing {path_without_suffix.name}.dcm")
    headers, frames = _origin(like, "dicom-sr")
    comment = hd.sr.CodedConcept("121106", "DCM", "Comment")
    parameters = _identification(hd, algorithm)[0].AlgorithmParameters
    made_by = hd.sr.AlgorithmIdentification(_long(algorithm.name), _long(algorithm.version), [parameters])
    number = None if frames is None else [1]
    source = hd.sr.SourceImageForMeasurementGroup(headers[0].SOPClassUID, headers[0].SOPInstanceUID, number)
    groups = [
        hd.sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=hd.sr.TrackingIdentifier(hd.UID(), _long(one.name)),
            finding_type=None if one.code is None else _concept(hd, one.code),
            algorithm_id=made_by,
            measurements=[
                hd.sr.Measurement(
                    name=_concept(hd, each.name),
                    value=float(each.value),
                    unit=hd.sr.CodedConcept(each.unit, "UCUM", {"1": "no units"}.get(each.unit, each.unit)),
                )
                for each in one.numbers
            ],
            source_images=[source],
        )
        for one in findings
    ]
    observer = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=hd.UID(), name=_long(algorithm.name), manufacturer_name=MAKER, model_name=_long(algorithm.name)
    )
    with _making(like):
        content = hd.sr.MeasurementReport(
            observation_context=hd.sr.ObservationContext(
                observer_device_context=hd.sr.ObserverContext(hd.sr.CodedConcept("121007", "DCM", "Device"), observer)
            ),
            procedure_reported=hd.sr.CodedConcept("363679005", "SCT", "Imaging"),
            imaging_measurements=groups,
        )
        said = "\n".join([algorithm.disclaimer, *remarks])
        content[0].ContentSequence.append(hd.sr.TextContentItem(comment, said, "CONTAINS"))
        made = hd.sr.ComprehensiveSR(
            evidence=headers, content=content, is_complete=True, **_series(hd, algorithm, 9002)
        )
    return _saved(made, path_without_suffix)


class _making:
    """What highdicom raises of a stranger's header is a refusal of one sentence."""

    def __init__(self, like: Image) -> None:
        self.like, self.quiet, self.caught = like, quiet(), warnings.catch_warnings()

    def __enter__(self) -> None:
        self.caught.__enter__()
        warnings.simplefilter("ignore")
        self.quiet.__enter__()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.quiet.__exit__(None, None, None)
        self.caught.__exit__(None, None, None)
        if isinstance(error, Exception) and not isinstance(error, MediaError):
            raise UnreferableError(
                f"no DICOM object can refer to {self.like.source}: its header doesn't allow it ({brief(error)}); "
                "choose --format nifti or png"
            ) from error


def _origin(like: Image, form: Form) -> tuple[list[Any], tuple[int, ...] | None]:
    if why := unreferable(like, form):
        raise UnreferableError(f"no DICOM object can refer to {like.source}: {why}; choose --format nifti or png")
    for header in like.header.headers:
        for name in _MAY_BE_EMPTY:
            if name not in header:
                setattr(header, name, "")
        header.setdefault("Modality", "OT")
    return list(like.header.headers), like.header.frames


def _identification(hd: Any, algorithm: Algorithm) -> Any:
    """Model, version, weights and their commit; what they were trained on and may be used for as parameters."""
    facts: Mapping[str, str] = {
        "weights": algorithm.weights,
        "commit": algorithm.revision or "none",
        "trained on": algorithm.trained_on,
        "disclaimer": algorithm.disclaimer,
    }
    return hd.AlgorithmIdentificationSequence(
        name=_long(algorithm.name),
        family=hd.sr.CodedConcept("123109", "DCM", "Artificial Intelligence"),
        version=_long(algorithm.version),
        source=_long(algorithm.weights),
        parameters={name: value[:1024] for name, value in facts.items()},
    )


def _series(hd: Any, algorithm: Algorithm, number: int) -> dict[str, Any]:
    return {
        "series_instance_uid": hd.UID(),
        "series_number": number,
        "sop_instance_uid": hd.UID(),
        "instance_number": 1,
        "manufacturer": MAKER,
        "manufacturer_model_name": _long(algorithm.name),
        "software_versions": _long(algorithm.version),
        "device_serial_number": _long(algorithm.revision or algorithm.weights),
        "series_description": _long(f"{algorithm.name}: {algorithm.disclaimer}"),
    }


def _saved(made: Any, path_without_suffix: Path) -> Path:
    path = path_without_suffix.with_name(path_without_suffix.name + ".dcm")
    with replacing(path) as temporary:
        made.save_as(temporary)
    return path


def _concept(hd: Any, code: Code) -> Any:
    return hd.sr.CodedConcept(code.value, code.scheme, code.meaning)


def _category(code: Code) -> tuple[str, str, str]:
    value, meaning = _CATEGORIES[code.category]
    return value, "SCT", meaning


def own(value: str, meaning: str = "") -> Code:
    """A code of our own for what no terminology names."""
    return Code(value[:16], _long(meaning or value), OWN_SCHEME)


def _long(text: str) -> str:
    """At most 64 characters without a backslash, as DICOM's long strings."""
    text = " ".join(text.replace("\\", "/").split()) or "none"
    return text if len(text) <= 64 else text[:61] + "..."


def _highdicom(needed_by: str) -> Any:
    try:
        import highdicom
    except ImportError:
        raise MissingExtraError(needed_by, "highdicom", "imaging") from None
    return highdicom
