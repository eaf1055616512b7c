"""DICOM objects made of an image: segmentations (SEG) and structured reports (SR), by highdicom.

They refer to the DICOM files that the image was read from: patient, study, frame of reference and the place of every
plane are theirs. Each says by what it was made: model, weights and their commit, and what may be believed of it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo.diagnoses import OWN_SCHEME, Code
from zoo.errors import MediaError, MissingExtraError
from zoo.media.dicom import Source
from zoo.media.files import brief, quiet, replacing
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
_NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows", "Columns")


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
    if form == "dicom-seg" and origin.frames and not origin.headers[0].get("SharedFunctionalGroupsSequence"):
        return "its frames state no place in a frame of reference"
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
    with _making(like):
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
        _complete(made, like)
    return _saved(made, path_without_suffix)


def _complete(made: Any, like: Image) -> None:
    """What the standard asks of a segmentation and its source leaves out, as far as it is known."""
    measures = made.SharedFunctionalGroupsSequence[0].get("PixelMeasuresSequence")
    if measures and "SliceThickness" not in measures[0] and like.ndim_spatial == 3 and like.spacing:
        measures[0].SliceThickness = round(like.spacing[0], 6)
    if "FrameOfReferenceUID" not in made and "PatientOrientation" not in made:
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
