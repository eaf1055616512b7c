"""DICOM objects made of an image: read back, they lie where their source lies and say by whom they were made."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from zoo import media
from zoo.diagnoses import Code, code_of
from zoo.errors import MediaError, MissingExtraError, OptionError
from zoo.media.objects import MAKER
from zoo.prediction import Classification, Provenance, Segmentation

hd = pytest.importorskip("highdicom")
Build = Callable[..., Any]

PROVENANCE = Provenance(
    "toy-model", "toy-zoo", "1.2", "hf://org/toy", "a" * 40, "phantom:toy", "trained on phantoms; not for clinical use"
)
PATIENT = {
    "PatientName": "Müller^Änne", "PatientID": "4711", "PatientBirthDate": "19600102", "PatientSex": "F",
    "AccessionNumber": "A1", "StudyID": "S7", "StudyDate": "20200103", "StudyTime": "101112",
    "StudyInstanceUID": "1.2.3.4.5", "SpecificCharacterSet": "ISO_IR 100", "ReferringPhysicianName": "Who^Doctor",
    "PositionReferenceIndicator": "", "PatientPosition": "HFS", "SeriesNumber": 3, "InstanceNumber": 1,
}  # fmt: skip
SECONDARY = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "ConversionType": "WSD"}  # a capture, which lies nowhere
CARRIED = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
           "StudyTime", "StudyInstanceUID", "FrameOfReferenceUID", "ReferringPhysicianName")  # fmt: skip


def turned(a: float, b: float, c: float) -> np.ndarray:
    """Direction of rows, of columns and normal (as rows of the matrix) of a plane turned about x, y and z."""
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return (x @ y @ z).T


SERIES = {
    "axial": (np.eye(3), 5.0 * np.array([0, 0, 1.0])),
    "oblique": (turned(0.4, -0.3, 0.7), None),
    "flipped": (np.array([[-1.0, 0, 0], [0, 1, 0], [0, 0, -1]]), 4.0 * np.array([0, 0, 1.0])),
    "backwards": (np.eye(3), 3.0 * np.array([0, 0, -1.0])),
    "tilted": (np.eye(3), np.array([0, 2.0, 5.0])),  # a gantry that leans: slices are sheared against each other
}


@pytest.fixture
def series(dicom_file: Build) -> Build:
    """A folder with a series of 5 slices of 6 x 8 px, file names out of order."""

    def build(kind: str) -> Path:
        axes, step = SERIES[kind]
        step = 2.5 * axes[2] if step is None else step
        uid, frame, path = generate_uid(), generate_uid(), Path()
        for k in (3, 0, 4, 2, 1):
            path = dicom_file(
                f"{kind}/{9 - k}.dcm", np.full((6, 8), k * 10, np.int16), SeriesInstanceUID=uid,
                FrameOfReferenceUID=frame, SliceThickness=2,
                ImagePositionPatient=[f"{v:.9g}"[:16] for v in np.array([5.0, -7, 11]) + k * step],
                ImageOrientationPatient=[f"{v:.9f}"[:16] for v in (*axes[0], *axes[1])],
                PixelSpacing=[0.5, 0.75], **PATIENT,
            )  # fmt: skip
        return path.parent

    return build


def segmented(image: media.Image, **more: Any) -> Segmentation:
    mask = np.zeros(image.size, np.uint8)
    mask[..., 1:4, 2:7] = 1
    mask[..., 4:6, 0:3] = 2
    if mask.ndim == 3:
        mask[1] = 0  # an empty plane between others
    return Segmentation(
        source=image.source,
        provenance=PROVENANCE,
        image=image,
        mask=mask,
        labels=("background", "vessel", "thing"),
        **more,
    )


def read_back(path: Path, source: pydicom.Dataset) -> dict[tuple[int, str], np.ndarray]:
    """The planes of a segmentation by segment and the SOP instance (and frame) that they lie on, checked."""
    read = hd.seg.segread(path)
    assert pydicom.dcmread(path).SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.4"
    for name in CARRIED:
        assert read.get(name) == source.get(name), name
    shared = read.SharedFunctionalGroupsSequence[0]
    assert [float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing] == [0.5, 0.75]
    orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    np.testing.assert_allclose(orientation, source.ImageOrientationPatient, atol=1e-6)
    return {
        (
            int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber),
            str(group.PlanePositionSequence[0].ImagePositionPatient),
        ): frame
        for group, frame in zip(read.PerFrameFunctionalGroupsSequence, read.pixel_array, strict=True)
    }


@pytest.mark.parametrize("kind", SERIES)
def test_a_series_comes_back_on_its_own_planes(kind, series, tmp_path):
    folder = series(kind)
    image = media.read(folder)
    result = segmented(image)
    written = result.save(tmp_path / "out", figure=False)
    (path,) = [one for one in written if one.suffix == ".dcm"]
    headers = [pydicom.dcmread(one) for one in folder.iterdir()]
    frames = read_back(path, headers[0])
    read = hd.seg.segread(path)
    assert read.number_of_segments == 2
    for header in headers:
        # where zoo.media put that slice: its value is the place in the series
        (place,) = np.flatnonzero(image.array[:, 0, 0] == header.pixel_array[0, 0])
        for number in (1, 2):
            expected = result.mask[place] == number
            frame = frames.get((number, str(header.ImagePositionPatient)))
            if expected.any():
                np.testing.assert_array_equal(frame, expected)
            else:
                assert frame is None
    planes = read.get_pixels_by_source_instance(
        [header.SOPInstanceUID for header in headers], combine_segments=True, assert_missing_frames_are_empty=True
    )
    for header, plane in zip(headers, planes, strict=True):
        (place,) = np.flatnonzero(image.array[:, 0, 0] == header.pixel_array[0, 0])
        np.testing.assert_array_equal(plane, result.mask[place])
    if kind != "tilted":  # which is no regular grid
        volume = read.get_volume(combine_segments=True, allow_missing_positions=True)
        lps = np.diag([-1.0, -1, 1, 1]) @ image.affine
        for place in np.argwhere(volume.array > 0)[::7]:
            point = (volume.affine @ [*place, 1])[:3]
            w, h, z, _ = np.round(np.linalg.solve(lps, [*point, 1]), 3)
            assert result.mask[int(z), int(h), int(w)] == volume.array[tuple(place)]


def test_a_segment_names_what_it_is_and_who_found_it(series, tmp_path):
    result = segmented(
        media.read(series("axial")), label_codes={"thing": Code("12738006", "Brain", category="anatomy")}
    )
    result.save(tmp_path, figure=False)
    (path,) = tmp_path.glob("*.dcm")
    read = hd.seg.segread(path)
    vessel, thing = read.SegmentSequence
    assert (vessel.SegmentLabel, vessel.SegmentAlgorithmType) == ("vessel", "AUTOMATIC")
    concept = vessel.SegmentedPropertyTypeCodeSequence[0]
    assert (concept.CodeValue, concept.CodingSchemeDesignator) == ("59820001", "SCT")
    assert vessel.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "123037004"
    assert thing.SegmentedPropertyTypeCodeSequence[0].CodeValue == "12738006"
    made = vessel.SegmentationAlgorithmIdentificationSequence[0]
    assert (made.AlgorithmName, made.AlgorithmVersion) == ("toy-model", "toy-zoo 1.2")
    for said in ("weights=hf://org/toy", "commit=" + "a" * 40, "disclaimer=trained on phantoms; not for clinical use"):
        assert said in made.AlgorithmParameters
    assert read.ContentDescription == "trained on phantoms; not for clinical use"
    assert "not for clinical use" in vessel.SegmentDescription
    assert "not for clinical use" in read.SeriesDescription
    assert read.Manufacturer == MAKER
    result.prompted = True
    result.save(tmp_path / "prompted", figure=False)
    (path,) = (tmp_path / "prompted").glob("*.dcm")
    assert hd.seg.segread(path).SegmentSequence[0].SegmentAlgorithmType == "SEMIAUTOMATIC"


def enhanced(dicom_file: Build) -> Path:
    """A multi-frame object with functional groups, its frames out of order."""

    def item(**elements: Any) -> Any:
        dataset = pydicom.Dataset()
        for key, value in elements.items():
            setattr(dataset, key, value)
        return dataset

    frames = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=[1, 2, z])],
            FrameContentSequence=[item(DimensionIndexValues=[i + 1])],
        )
        for i, z in enumerate((20.0, 10.0, 15.0))
    ]
    shared = item(
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        PixelMeasuresSequence=[item(PixelSpacing=[0.5, 0.75], SliceThickness=4)],
    )
    pixels = np.repeat(np.array([20, 10, 15], np.int16), 48).reshape(3, 6, 8)
    return dicom_file(
        "enhanced.dcm", pixels, PerFrameFunctionalGroupsSequence=frames, SharedFunctionalGroupsSequence=[shared],
        FrameOfReferenceUID=generate_uid(), SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1", **PATIENT,
    )  # fmt: skip


def test_a_multi_frame_object_comes_back_frame_by_frame(dicom_file, tmp_path):
    image = media.read(enhanced(dicom_file))
    assert image.array[:, 0, 0].tolist() == [10, 15, 20]
    result = segmented(image)
    result.save(tmp_path / "out", "result", figure=False)
    read = hd.seg.segread(tmp_path / "out" / "result_mask.dcm")
    header = pydicom.dcmread(image.source)
    planes = read.get_pixels_by_source_frame(
        header.SOPInstanceUID, [1, 2, 3], combine_segments=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(planes, result.mask[[2, 0, 1]])  # z = 20, 10, 15
    places = {str(g.PlanePositionSequence[0].ImagePositionPatient[2]) for g in read.PerFrameFunctionalGroupsSequence}
    assert places == {"10.0", "20.0"}  # the plane between is empty


@pytest.mark.parametrize("placed", [True, False])
def test_a_single_image_comes_back(placed, dicom_file, tmp_path):
    where = {"ImagePositionPatient": [1, 2, 3], "ImageOrientationPatient": [0, 1, 0, 0, 0, -1], "PixelSpacing": [2, 3],
             "FrameOfReferenceUID": "1.2.3", "SliceThickness": 1}  # fmt: skip
    where = where if placed else SECONDARY
    image = media.read(dicom_file("one.dcm", np.arange(48, dtype=np.int16).reshape(6, 8), **where, **PATIENT))
    result = segmented(image)
    result.save(tmp_path / "out", "one", figure=False)
    read = hd.seg.segread(tmp_path / "out" / "one_mask.dcm")
    header = pydicom.dcmread(image.source)
    pixels = read.get_pixels_by_source_instance([header.SOPInstanceUID], combine_segments=True)
    np.testing.assert_array_equal(pixels[0], result.mask)
    assert read.PatientName == "Müller^Änne"
    if placed:
        assert list(read.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient) == [1, 2, 3]


CINE = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.3.1", "Modality": "US", "FrameTime": 40}
EYE = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.5.1", "Modality": "OP"}  # a kind for several frames
DOSE = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.2", "Modality": "RTDOSE", "FrameOfReferenceUID": "1.2.7",
        "ImagePositionPatient": [1, 2, 3], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [2, 3],
        "GridFrameOffsetVector": [0, -4, -8], "DoseUnits": "GY", "DoseType": "PHYSICAL",
        "DoseSummationType": "PLAN", "FrameIncrementPointer": 0x3004000C}  # fmt: skip


def frames_of(count: int) -> np.ndarray:
    return np.arange(48 * count, dtype=np.uint8).reshape(count, 6, 8)


def segmentation_of(image: media.Image, folder: Path) -> Any:
    segmented(image).save(folder, "x", figure=False, format="dicom-seg")
    return hd.seg.segread(folder / "x_mask.dcm")


@pytest.mark.parametrize("sized", [True, False])
def test_frames_of_a_cine_loop_are_referred_to_by_number_and_lie_nowhere(sized, dicom_file, tmp_path):
    known = {"PixelSpacing": [0.5, 0.75], "SliceThickness": 3} if sized else {}
    image = media.read(dicom_file("loop.dcm", frames_of(4), **CINE, **known, **PATIENT))
    read = segmentation_of(image, tmp_path / "out")
    planes = read.get_pixels_by_source_frame(
        pydicom.dcmread(image.source).SOPInstanceUID, [1, 2, 3, 4], combine_segments=True,
        assert_missing_frames_are_empty=True, ignore_spatial_locations=True,
    )  # fmt: skip
    np.testing.assert_array_equal(planes, segmented(image).mask)
    groups = read.PerFrameFunctionalGroupsSequence
    assert [g.FrameContentSequence[0].TemporalPositionIndex for g in groups] == [1, 3, 4] * 2  # the second is empty
    (shared,) = read.SharedFunctionalGroupsSequence
    assert "FrameOfReferenceUID" not in read
    assert not [g for g in (shared, *groups) if "PlanePositionSequence" in g or "PlaneOrientationSequence" in g]
    assert ("PixelMeasuresSequence" in shared) is sized
    if sized:
        (measures,) = shared.PixelMeasuresSequence
        assert [float(v) for v in (*measures.PixelSpacing, measures.SliceThickness)] == [0.5, 0.75, 3]
        assert "SpacingBetweenSlices" not in measures


@pytest.mark.parametrize("kind", [EYE, {**CINE, "NumberOfFrames": 1}], ids=["photograph of an eye", "one frame"])
def test_one_frame_of_a_kind_for_several_comes_back(kind, dicom_file, tmp_path):
    image = media.read(dicom_file("one.dcm", frames_of(1)[0], **kind, **PATIENT))
    read = segmentation_of(image, tmp_path / "out")
    pixels = read.get_pixels_by_source_instance([pydicom.dcmread(image.source).SOPInstanceUID], combine_segments=True)
    np.testing.assert_array_equal(pixels[0], segmented(image).mask)


def test_frames_whose_places_stand_outside_functional_groups_keep_them(dicom_file, tmp_path):
    image = media.read(dicom_file("dose.dcm", frames_of(3), **DOSE, **PATIENT))
    read = segmentation_of(image, tmp_path / "out")
    places = {float(g.PlanePositionSequence[0].ImagePositionPatient[2]) for g in read.PerFrameFunctionalGroupsSequence}
    assert places == {3, -5}  # the plane between is empty
    assert read.FrameOfReferenceUID == "1.2.7"
    assert [float(v) for v in read.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing] == [2, 3]


def items(report: Any) -> list[Any]:
    found = [report]
    for one in report.get("ContentSequence", []):
        found += items(one)
    return found


def diagnosis(image: media.Image) -> Classification:
    return Classification(
        source=image.source, provenance=PROVENANCE, image=image, probabilities={"MEL": 0.7, "BKL": 0.3},
        label_names={"MEL": "melanoma", "BKL": "benign keratosis"}, notes=("something was assumed",),
    )  # fmt: skip


def test_a_diagnosis_is_a_structured_report(dicom_file, tmp_path):
    image = media.read(dicom_file("mole.dcm", np.arange(48, dtype=np.int16).reshape(6, 8), **PATIENT))
    diagnosis(image).save(tmp_path / "out", "mole", figure=False)
    read = hd.sr.srread(tmp_path / "out" / "mole_report.dcm")
    assert read.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.33"
    assert (read.PatientID, read.StudyInstanceUID) == ("4711", "1.2.3.4.5")
    (group,) = read.content.get_image_measurement_groups()
    assert (group.finding_type.value, group.finding_type.scheme_designator) == ("1162635006", "SCT")
    numbers = {one.name.meaning: float(one.value) for one in group.get_measurements()}
    assert numbers == {"Probability of melanoma": 0.7, "Probability of benign keratosis": 0.3}
    texts = "\n".join(str(item.TextValue) for item in items(read) if "TextValue" in item)
    for said in ("not for clinical use", "something was assumed", "toy-model", "commit=" + "a" * 40):
        assert said in texts
    uids = [
        one.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for one in items(read) if "ReferencedSOPSequence" in one
    ]
    assert pydicom.dcmread(image.source).SOPInstanceUID in uids


def test_the_report_of_a_mask_states_volumes(series, tmp_path):
    result = segmented(media.read(series("tilted")))
    written = result.save(tmp_path, "x", figure=False, format="dicom-sr")
    assert sorted(path.name for path in written) == ["x.json", "x_report.dcm"]
    read = hd.sr.srread(tmp_path / "x_report.dcm")
    groups = read.content.get_image_measurement_groups()
    volume = {
        g.finding_type.meaning: float(m.value)
        for g in groups
        for m in g.get_measurements()
        if m.name.value == "118565006"
    }
    assert volume == {
        "Blood vessel": pytest.approx(60 * 0.375 * 5 / 1000),
        "thing": pytest.approx(24 * 0.375 * 5 / 1000),
    }


def test_an_unlike_image_has_a_report_without_a_diagnosis(dicom_file, tmp_path):
    from zoo.domain import Verdict

    image = media.read(dicom_file("mole.dcm", np.arange(48, dtype=np.int16).reshape(6, 8), **PATIENT))
    result = diagnosis(image)
    result.domain = Verdict((1,), 1, "sharpness", 50)
    result.save(tmp_path, "mole", figure=False)
    read = hd.sr.srread(tmp_path / "mole_report.dcm")
    (group,) = read.content.get_image_measurement_groups()
    assert group.finding_type is None
    assert group.get_measurements() == []
    texts = "\n".join(str(item.TextValue) for item in items(read) if "TextValue" in item)
    assert "no result is stated" in texts
    assert "melanoma" not in str(read).lower()


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy, of the Debian package dicom3tools")
def test_a_validator_finds_no_error(series, dicom_file, tmp_path):
    images = [media.read(series(kind)) for kind in SERIES]
    images.append(
        media.read(dicom_file("one.dcm", np.arange(48, dtype=np.int16).reshape(6, 8), **SECONDARY, **PATIENT))
    )
    images += [
        media.read(dicom_file(f"{name}.dcm", array, **kind, **PATIENT))
        for name, array, kind in (
            ("loop", frames_of(4), CINE),
            ("sized-loop", frames_of(4), {**CINE, "PixelSpacing": [0.5, 0.75], "SliceThickness": 3}),
            ("eye", frames_of(1)[0], EYE),
            ("dose", frames_of(3), DOSE),
        )
    ]
    images.append(media.read(enhanced(dicom_file)))
    for number, image in enumerate(images):
        for form in ("dicom-seg", "dicom-sr"):
            segmented(image).save(tmp_path / "out", f"{number}-{form}", figure=False, format=form)
    diagnosis(images[5]).save(tmp_path / "out", "diagnosis", figure=False)
    made = sorted((tmp_path / "out").glob("*.dcm"))
    assert len(made) == 23
    for path in made:
        told = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
        assert [line for line in (told.stdout + told.stderr).splitlines() if line.startswith("Error")] == [], path.name


def test_the_form_can_be_chosen(series, dicom_file, tmp_path):
    volume, plane = (
        media.read(series("oblique")),
        media.read(dicom_file("one.dcm", np.eye(8, dtype=np.int16), **PATIENT)),
    )
    for form, name in (("nifti", "x_mask.nii.gz"), ("dicom", "x_mask.dcm"), ("nrrd", "x_mask.nrrd")):
        if form == "nrrd":
            pytest.importorskip("SimpleITK")
        result = segmented(volume)
        assert name in [path.name for path in result.save(tmp_path / form, "x", figure=False, format=form)]
    back = media.read(tmp_path / "nifti" / "x_mask.nii.gz")
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-5)
    result = segmented(plane)
    assert "x_mask.png" in [path.name for path in result.save(tmp_path / "png", "x", figure=False, format="png")]
    np.testing.assert_array_equal(media.read_labels(tmp_path / "png" / "x_mask.png").array, result.mask)
    photo = segmented(media.Image(np.eye(8, dtype=np.uint8), "photo.png", "png"))
    assert "x_mask.nii.gz" in [path.name for path in photo.save(tmp_path / "photo", "x", figure=False, format="nifti")]
    assert media.read(tmp_path / "photo" / "x_mask.nii.gz").size[-2:] == (8, 8)
    with pytest.raises(MediaError, match="is a volume, which PNG doesn't hold; choose --format nifti"):
        segmented(volume).save(tmp_path / "no", "x", figure=False, format="png")
    with pytest.raises(OptionError, match=r"wasn't read from DICOM files; choose --format auto"):
        segmented(photo.image).save(tmp_path / "no", "x", figure=False, format="dicom-seg")
    with pytest.raises(OptionError, match="a classification has no mask to write as nifti"):
        diagnosis(plane).save(tmp_path / "no", "x", figure=False, format="nifti")
    assert list((tmp_path / "no").iterdir()) == []


def test_what_no_object_can_refer_to_is_written_as_before(dicom_file, tmp_path):
    bare = media.read(dicom_file("bare.dcm", np.eye(8, dtype=np.int16)))  # names no study
    assert "x_mask.png" in [path.name for path in segmented(bare).save(tmp_path / "a", "x", figure=False)]
    with pytest.raises(OptionError, match="its header lacks StudyInstanceUID"):
        segmented(bare).save(tmp_path / "b", "x", figure=False, format="dicom-seg")
    lost = media.read(dicom_file("lost.dcm", np.eye(8, dtype=np.int16), **PATIENT))  # a CT without a frame of reference
    result = segmented(lost)
    assert "x_mask.png" in [path.name for path in result.save(tmp_path / "l", "x", figure=False)]
    assert "not written as a DICOM object" in result.notes[-1]
    with pytest.raises(MediaError, match=r"its header doesn't allow it .*choose --format nifti or png"):
        segmented(lost).save(tmp_path / "m", "x", figure=False, format="dicom-seg")
    cine = media.read(dicom_file("cine.dcm", np.zeros((3, 6, 8), np.int16), **PATIENT))
    assert "x_mask.nii.gz" in [path.name for path in segmented(cine).save(tmp_path / "c", "x", figure=False)]
    with pytest.raises(OptionError, match="it holds 3 frames, and a file of its kind may hold one"):
        segmented(cine).save(tmp_path / "d", "x", figure=False, format="dicom-seg")


def test_a_missing_library_names_the_extra_and_writes_nothing(series, tmp_path, monkeypatch):
    result = segmented(media.read(series("axial")))
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(MissingExtraError, match=r"highdicom.*medimg-zoo\[imaging\]"):
        result.save(tmp_path / "out", figure=False)
    assert list((tmp_path / "out").iterdir()) == []


def test_codes_are_those_of_the_dicom_dictionary():
    """Where pydicom's dictionary has the concept; the others were looked up by hand."""
    from pydicom.sr._concepts_dict import concepts

    from zoo.diagnoses import CODES

    known = {code for found in concepts["SCT"].values() for code in found}
    unknown = {name for name, code in CODES.items() if code.value not in known}
    assert unknown == {
        "naevus", "basal cell carcinoma", "bacterial pneumonia", "viral pneumonia", "left lung", "left kidney",
        "right kidney",
    }  # fmt: skip
    assert code_of("MEL", "melanoma").value == "1162635006"
    assert code_of("BKL", "benign keratosis") == Code("BKL", "benign keratosis", "99MEDZOO")
