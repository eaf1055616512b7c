from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zoo.errors import MissingExtraError
from zoo.media import MediaError, codecs, expand, limits, read, write_mask

pydicom = pytest.importorskip("pydicom")
Build = Callable[..., Path]

GREY = np.array([[0, 100, 200], [300, 400, 500]], np.int16)


def test_rescale_gives_modality_units(dicom_file: Build) -> None:
    image = read(dicom_file("a.dcm", GREY, RescaleSlope=2, RescaleIntercept=-1024, PixelSpacing=[0.5, 0.7]))
    np.testing.assert_array_equal(image.array, GREY * 2.0 - 1024)
    assert image.array.dtype == np.float32
    assert image.spacing == (0.5, 0.7)
    assert image.affine is None
    assert image.format == "dicom"
    assert image.meta["modality"] == "CT"


def test_window_is_kept_and_used_for_grey(dicom_file: Build) -> None:
    image = read(dicom_file("a.dcm", GREY, WindowCenter=[200, 40], WindowWidth=[200, 80]))
    assert image.meta["window"] == (200.0, 200.0)
    np.testing.assert_array_equal(image.array, GREY)
    grey = image.grey()
    assert grey[0, 0] == 0
    assert grey[1].tolist() == pytest.approx([1, 1, 1])
    assert grey[0, 2] == pytest.approx(0.5, abs=0.01)
    assert image.grey(window=(250, 500))[0, 1] == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("dtype", [np.int16, np.uint8])
def test_monochrome1_is_inverted_with_its_window(dtype, dicom_file: Build) -> None:
    array = np.array([[0, 60], [120, 255]], dtype)
    plain = read(dicom_file("a.dcm", array, WindowCenter=60, WindowWidth=100))
    inverted = read(
        dicom_file("b.dcm", array, PhotometricInterpretation="MONOCHROME1", WindowCenter=60, WindowWidth=100)
    )
    np.testing.assert_array_equal(inverted.array, [[255, 195], [135, 0]])
    assert inverted.array.dtype == plain.array.dtype
    assert inverted.meta["window"] == (195, 100)
    np.testing.assert_allclose(inverted.grey(), 1 - plain.grey(), atol=0.02)


def test_rgb_stays_as_stored(dicom_file: Build) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    image = read(dicom_file("a.dcm", colours, colour=True))
    np.testing.assert_array_equal(image.array, colours)
    assert image.channels == 3


@pytest.mark.parametrize(
    "name",
    ["SC_rgb_dcmtk_+eb+cy+n1.dcm", "SC_rgb_dcmtk_+eb+cy+np.dcm", "SC_ybr_full_422_uncompressed.dcm", "SC_rgb_rle.dcm"],
)
def test_ybr_becomes_rgb(name: str) -> None:
    path = pydicom.data.get_testdata_file(name, download=False)
    assert path is not None
    rgb = read(path).rgb()
    np.testing.assert_allclose(rgb[5, 50], [1, 0, 0], atol=0.02)
    np.testing.assert_allclose(rgb[25, 50], [0, 1, 0], atol=0.02)
    np.testing.assert_allclose(rgb[95, 50], [1, 1, 1], atol=0.02)


def test_palette_colour_is_looked_up() -> None:
    image = read(pydicom.data.get_testdata_file("examples_palette.dcm", download=False))
    assert image.array.shape == (350, 800, 3)
    assert np.ptp(image.rgb(), axis=-1).max() > 0.3


def test_a_file_that_is_both_tiff_and_dicom_is_dicom() -> None:
    path = pydicom.data.get_testdata_file("CT_small.dcm", download=False)
    assert Path(path).read_bytes()[:2] in (b"II", b"MM")
    image = read(path)
    assert image.format == "dicom"
    assert image.array.min() == 128 - 1024


def test_cine_loop_is_a_volume_without_geometry(dicom_file: Build) -> None:
    image = read(dicom_file("a.dcm", np.arange(24, dtype=np.uint8).reshape(4, 2, 3), PixelSpacing=[1, 1]))
    assert image.array.shape == (4, 2, 3)
    assert image.ndim_spatial == 3
    assert image.affine is None
    assert image.spacing is None
    assert image.meta["frames"] == 4


def test_enhanced_object_sorts_and_rescales_its_frames(dicom_file: Build) -> None:
    def item(**elements: Any) -> Any:
        dataset = pydicom.Dataset()
        for key, value in elements.items():
            setattr(dataset, key, value)
        return dataset

    frames = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=[0, 0, z])],
            PixelValueTransformationSequence=[item(RescaleSlope=1, RescaleIntercept=z)],
        )
        for z in (20.0, 10.0, 15.0)
    ]
    shared = item(
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        PixelMeasuresSequence=[item(PixelSpacing=[2, 3], SliceThickness=4)],
    )
    image = read(
        dicom_file(
            "a.dcm",
            np.zeros((3, 4, 5), np.int16),
            PerFrameFunctionalGroupsSequence=frames,
            SharedFunctionalGroupsSequence=[shared],
        )
    )
    assert image.array[:, 0, 0].tolist() == [10, 15, 20]
    assert image.spacing == (5, 2, 3)
    np.testing.assert_allclose(image.affine, [[-3, 0, 0, 0], [0, -2, 0, 0], [0, 0, 5, 10], [0, 0, 0, 1]])


def test_series_is_sorted_by_position_with_spacing_and_affine(dicom_series: Build) -> None:
    folder = dicom_series("ct", [30.0, 10.0, 20.0, 15.0, 25.0])
    image = read(folder)
    assert image.array[:, 0, 0].tolist() == [2.0 * i - 1000 for i in (1, 3, 2, 4, 0)]
    assert image.array.dtype == np.float32
    assert image.spacing == (5.0, 0.5, 0.75)
    np.testing.assert_allclose(image.affine, [[-0.75, 0, 0, 10], [0, -0.5, 0, 20], [0, 0, 5, 10], [0, 0, 0, 1]])
    assert image.meta["orientation"] == "LPS"
    assert expand([str(folder)]) == [str(folder)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(angles=st.tuples(*[st.floats(-3, 3)] * 3), step=st.floats(0.5, 8), seed=st.integers(0, 2**20))
def test_oblique_series_maps_every_corner_to_its_patient_position(
    angles, step, seed, dicom_file: Build, tmp_path_factory
) -> None:
    a, b, c = angles
    turn_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    turn_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    turn_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    rows, columns, normal = (turn_x @ turn_y @ turn_z).T
    origin, uid = np.array([5.0, -7.0, 11.0]), pydicom.uid.generate_uid()
    name = f"series{seed}-{tmp_path_factory.mktemp('x').name}"
    order = np.random.default_rng(seed).permutation(4)
    path = Path()
    for file, k in enumerate(order):
        path = dicom_file(
            f"{name}/{file}.dcm",
            np.full((3, 2), k, np.int16),
            SeriesInstanceUID=uid,
            ImagePositionPatient=[f"{v:.9g}"[:16] for v in origin + k * step * normal],
            ImageOrientationPatient=[f"{v:.9f}"[:16] for v in (*rows, *columns)],
            PixelSpacing=[0.5, 0.75],
        )
    image = read(path.parent)
    assert image.array[:, 0, 0].tolist() == [0, 1, 2, 3]
    for w, h, z in ((0, 0, 0), (1, 2, 3)):
        lps = origin + w * 0.75 * rows + h * 0.5 * columns + z * step * normal
        np.testing.assert_allclose((image.affine @ [w, h, z, 1])[:3], lps * [-1, -1, 1], atol=1e-4)


def test_mask_of_a_series_is_a_nifti_with_its_affine(dicom_series: Build, tmp_path: Path) -> None:
    nib = pytest.importorskip("nibabel")
    image = read(dicom_series("ct", [10.0, 15.0, 20.0]))
    mask = np.zeros(image.size, np.uint8)
    mask[2, 3, 1] = 7
    path = write_mask(tmp_path / "out.v1", mask, image)
    assert path.name == "out.v1.nii.gz"
    written = nib.load(path)
    np.testing.assert_allclose(written.affine, image.affine, atol=1e-6)
    assert np.asarray(written.dataobj)[1, 3, 2] == 7


def test_mask_of_a_slice_with_position_is_a_nifti_and_without_a_png(dicom_file: Build, tmp_path: Path) -> None:
    nib = pytest.importorskip("nibabel")
    geometry = {
        "ImagePositionPatient": [1, 2, 3],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [2, 2],
        "SliceThickness": 5,
    }
    placed = read(dicom_file("a.dcm", GREY, **geometry))
    assert placed.ndim_spatial == 2
    written = nib.load(write_mask(tmp_path / "a", placed.array > 250, placed))
    assert written.shape == (3, 2, 1)
    np.testing.assert_allclose(written.header.get_zooms(), [2, 2, 5])
    floating = read(dicom_file("b.dcm", GREY))
    assert write_mask(tmp_path / "b", floating.array > 250, floating).suffix == ".png"


def test_scout_beside_a_series_does_not_count(dicom_series: Build, dicom_file: Build) -> None:
    folder = dicom_series("ct", [10.0, 15.0, 20.0])
    dicom_file("ct/scout.dcm", GREY)
    assert read(folder).array.shape == (3, 4, 6)


def test_two_series_in_a_folder_are_refused(dicom_series: Build) -> None:
    folder = dicom_series("ct", [10.0, 15.0, 20.0], SeriesDescription="thin")
    other = dicom_series("other", [110.0, 115.0, 120.0, 125.0], SeriesDescription="thick")
    for path in other.iterdir():
        path.rename(folder / f"other-{path.name}")
    with pytest.raises(MediaError, match=r"2 DICOM series: .*(4|3) slices\).*; move each to a folder"):
        read(folder)


@pytest.mark.parametrize(
    ("positions", "reason"),
    [([10.0, 15.0, 25.0, 30.0], "unevenly spaced"), ([10.0, 15.0, 15.0], "same position")],
)
def test_missing_or_doubled_slices_are_refused(positions: list[float], reason: str, dicom_series: Build) -> None:
    with pytest.raises(MediaError, match=f"ct: .*{reason}"):
        read(dicom_series("ct", positions))


def test_truncated_pixels_are_refused(dicom_file: Build) -> None:
    path = dicom_file("a.dcm", np.zeros((64, 64), np.int16))
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(MediaError, match=r"a\.dcm: its (pixel|DICOM) data is .*truncated"):
        read(path)
    with pytest.raises(MediaError, match=r"truncated \(8,130 of 8,192 bytes\)"):
        read(pydicom.data.get_testdata_file("MR_truncated.dcm", download=False))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(share=st.floats(0.05, 0.95))
def test_dicom_cut_anywhere_is_one_sentence(share: float, dicom_file: Build) -> None:
    path = dicom_file("a.dcm", np.zeros((16, 16), np.int16))
    content = path.read_bytes()
    path.write_bytes(content[: max(1, int(len(content) * share))])
    with pytest.raises(MediaError, match=r"a\.dcm") as caught:
        read(path)
    assert "\n" not in str(caught.value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_dicom_never_raises_anything_else(data: st.DataObject, dicom_file: Build) -> None:
    geometry = {
        "ImagePositionPatient": [1, 2, 3],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [2, 2],
    }
    path = dicom_file("a.dcm", GREY, WindowCenter=40, WindowWidth=80, RescaleSlope=1, RescaleIntercept=2, **geometry)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(132, 700))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        image = read(path)
    except MediaError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert np.isfinite(image.array).all()


def test_zeros_for_an_orientation_are_refused(dicom_file: Build) -> None:
    geometry = {"ImagePositionPatient": [1, 2, 3], "ImageOrientationPatient": [0] * 6, "PixelSpacing": [2, 2]}
    with pytest.raises(MediaError, match="position, orientation or pixel spacing is invalid"):
        read(dicom_file("a.dcm", GREY, **geometry))


def test_absurd_header_is_refused_before_decoding(dicom_file: Build) -> None:
    with pytest.raises(MediaError, match="40,000 x 40,000 pixels"):
        read(dicom_file("a.dcm", GREY, Rows=40_000, Columns=40_000))
    with pytest.raises(MediaError, match=r"1,000,000 x 2 x 3 voxels|pixel data is truncated"):
        read(dicom_file("b.dcm", GREY, NumberOfFrames=1_000_000))
    with pytest.raises(MediaError, match="declares a size of 0 x 3"):
        read(dicom_file("c.dcm", GREY, Rows=0))


def test_large_deflated_file_is_refused(dicom_file: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pydicom.data.get_testdata_file("image_dfl.dcm", download=False)
    assert read(path).array.shape == (512, 512)
    monkeypatch.setattr(limits, "MAX_INFLATED_BYTES", 1000)
    with pytest.raises(MediaError, match="deflated DICOM file too large"):
        read(path)


def deflated(path: Path, **elements: Any) -> Path:
    """The same file with its data set deflated."""
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def test_a_deflated_series_is_the_series(dicom_series: Build) -> None:
    folder = dicom_series("series", [0.0, 2.0, 4.0])
    plain = read(folder)
    for path in folder.iterdir():
        deflated(path)
    packed = read(folder)
    np.testing.assert_array_equal(packed.array, plain.array)
    np.testing.assert_array_equal(packed.affine, plain.affine)
    assert packed.meta == plain.meta


@pytest.mark.parametrize("element", ["EncapsulatedDocument", "DataSetTrailingPadding"])  # before and behind the pixels
def test_what_unpacks_to_more_than_its_header_says_takes_no_memory(dicom_file: Build, element: str) -> None:
    import tracemalloc

    from zoo.media.dicom import load

    path = deflated(dicom_file("a.dcm", GREY), **{element: bytes(2**27)})
    assert path.stat().st_size < 2**18
    tracemalloc.start()
    with pytest.raises(MediaError, match=r"unpacks to far more than its header says|truncated or damaged"):
        read(path)
    with contextlib.suppress(MediaError):
        load(path, header_only=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**25


def test_a_series_is_measured_before_its_pixels_are_read(
    dicom_series: Build, dicom_file: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zoo.media import series

    folder = dicom_series("series", [0.0, 2.0, 4.0], Rows=3000, Columns=3000)
    monkeypatch.setattr(limits, "MAX_VOXELS", 2 * 3000 * 3000)
    load = series.load

    def only_headers(path: Path, header_only: bool = False) -> Any:
        assert header_only
        return load(path, header_only)

    monkeypatch.setattr(series, "load", only_headers)
    with pytest.raises(MediaError, match="3 x 3,000 x 3,000 voxels"):
        read(folder)


def test_a_link_in_a_circle_spares_the_series(dicom_series: Build) -> None:
    folder = dicom_series("series", [0.0, 2.0])
    (folder / "loop.dcm").symlink_to(folder / "loop.dcm")
    (folder / "up").symlink_to(folder)
    (folder / "nowhere.dcm").symlink_to(folder / "missing")
    assert read(folder).size == (2, 4, 6)
    assert expand([str(folder)]) == [str(folder)]
    with pytest.raises(MediaError, match="it is a link that leads back to itself"):
        read(folder / "loop.dcm")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("rtplan.dcm", r"without an image \(modality RTPLAN\)"),
        ("test-SR.dcm", r"without an image \(modality SR\)"),
        ("badVR.dcm", "header is damaged"),
        ("dicomdirtests/DICOMDIR", "DICOMDIR index"),
    ],
)
def test_objects_without_a_readable_image_are_named(name: str, reason: str) -> None:
    folder = Path(pydicom.data.get_testdata_file("CT_small.dcm", download=False)).parent
    with pytest.raises(MediaError, match=reason):
        read(folder / name)


# ---- header text from outside -------------------------------------------------------------------------------------

TEXTS = ["NaN", "inf", "1e400", "abc", "", "40,5", "40\\abc", "\\", "0", "-3", "1_0", "٣"]
ELEMENTS = [
    "WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept", "PixelSpacing", "ImagePositionPatient",
    "ImageOrientationPatient", "SliceThickness", "SpacingBetweenSlices", "NumberOfFrames", "ImagerPixelSpacing",
]  # fmt: skip


@pytest.fixture
def dicom_texts(dicom_file: Build) -> Build:
    """A DICOM file whose number texts are written as they are, whatever they say."""
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    def build(array: np.ndarray = GREY, texts: dict[str, str] | None = None, **elements: Any) -> Path:
        path = dicom_file("a.dcm", array, **elements)
        dataset = pydicom.dcmread(path)
        for name, text in (texts or {}).items():
            value, kind = text.encode() + b" " * (len(text.encode()) % 2), "IS" if name == "NumberOfFrames" else "DS"
            dataset[Tag(name)] = RawDataElement(Tag(name), kind, len(value), value, 0, False, True)
        dataset.save_as(path)
        return path

    return build


@pytest.mark.parametrize("name", ELEMENTS)
def test_no_text_of_a_header_gives_a_traceback_or_nan(name: str, dicom_texts: Build) -> None:
    plain = {"WindowCenter": 40, "WindowWidth": 80, "RescaleSlope": 1, "RescaleIntercept": 2, "PixelSpacing": [2, 2]}
    place = {"ImagePositionPatient": [1, 2, 3], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
    for text in TEXTS:
        try:
            image = read(dicom_texts(texts={name: text}, **plain, **place))
            grey = image.unit()
        except MediaError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert np.isfinite(grey).all(), text
            assert image.affine is None or np.isfinite(image.affine).all(), text
            assert all(np.isfinite(v) for v in image.spacing or ()), text


def test_a_window_with_a_decimal_comma_is_read_and_said(dicom_texts: Build) -> None:
    image = read(dicom_texts(texts={"WindowCenter": "40,5", "WindowWidth": "80"}))
    assert image.meta["window"] == (40.5, 80)
    assert image.notes == ("the window center '40,5' was taken as 40.5",)


@pytest.mark.parametrize(
    ("width", "said"), [("NaN", "'NaN' is no number"), ("abc", "'abc' is no"), ("0", "not above 0")]
)
def test_a_window_that_is_no_number_is_left_out_and_said(width: str, said: str, dicom_texts: Build) -> None:
    image = read(dicom_texts(texts={"WindowCenter": "200", "WindowWidth": width}))
    assert "window" not in image.meta
    assert said in image.notes[0]
    np.testing.assert_allclose(image.grey(), GREY / 500, atol=1e-6)


def test_an_empty_slope_or_intercept_is_taken_as_none(dicom_texts: Build) -> None:
    image = read(dicom_texts(texts={"RescaleSlope": "", "RescaleIntercept": "-1024"}))
    np.testing.assert_array_equal(image.array, GREY - 1024.0)
    assert image.notes == ("the rescale slope is empty and was taken as 1",)
    image = read(dicom_texts(texts={"RescaleSlope": "2,5", "RescaleIntercept": ""}))
    np.testing.assert_array_equal(image.array, GREY * 2.5)
    assert image.notes == (
        "the rescale slope '2,5' was taken as 2.5",
        "the rescale intercept is empty and was taken as 0",
    )
    for text in ("NaN", "0", "abc"):
        with pytest.raises(MediaError, match=f"its rescale slope is .*{text}.*, which is no scale; export it again"):
            read(dicom_texts(texts={"RescaleSlope": text}))


def test_window_functions_follow_the_standard(dicom_file: Build) -> None:
    window = {"WindowCenter": 200, "WindowWidth": 100}
    soft = read(dicom_file("a.dcm", GREY, VOILUTFunction="SIGMOID", **window)).grey()
    np.testing.assert_allclose(soft, 1 / (1 + np.exp(-4 * (GREY - 200.0) / 100)), atol=1e-6)
    exact = read(dicom_file("b.dcm", GREY, VOILUTFunction="LINEAR_EXACT", **window)).grey()
    np.testing.assert_allclose(exact, np.clip((GREY - 200.0) / 100 + 0.5, 0, 1), atol=1e-6)
    other = read(dicom_file("c.dcm", GREY, VOILUTFunction="CUBIC", **window))
    assert "'CUBIC' is unknown and was taken as LINEAR" in other.notes[0]


@pytest.mark.parametrize(("photometric", "darkest"), [("MONOCHROME2", 100), ("MONOCHROME1", 500)])
def test_padding_is_not_part_of_the_grey_range(photometric: str, darkest: int, dicom_file: Build) -> None:
    padded = GREY.copy()
    padded[0, 0] = -2000
    path = dicom_file("a.dcm", padded, PixelPaddingValue=-2000, PhotometricInterpretation=photometric)
    image = read(path)
    assert image.grey()[0, 0] == 0
    assert image.grey().max() == 1
    assert sorted(set(np.ravel(image.array))) == [100, 200, 300, 400, 500]
    assert "padding" in image.notes[0]
    unused = read(dicom_file("b.dcm", GREY, PixelPaddingValue=300))  # a value within the range is a grey value too
    np.testing.assert_array_equal(unused.array, GREY)
    assert unused.notes == ()


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize("bits", [1, 6])
def test_few_stored_bits_reach_from_black_to_white(bits: int, photometric: str, dicom_file: Build) -> None:
    full = 2**bits - 1
    array = np.array([[0, full], [full, full // 2]], np.uint8)
    elements = {"BitsStored": bits, "HighBit": bits - 1, "PhotometricInterpretation": photometric}
    if bits == 1:
        elements |= {"BitsAllocated": 1, "PixelData": np.packbits(array.ravel(), bitorder="little").tobytes() + b"\0"}
    grey = read(dicom_file("a.dcm", array, **elements)).grey()
    expected = array / full
    np.testing.assert_allclose(grey, 1 - expected if photometric == "MONOCHROME1" else expected, atol=1e-6)


@pytest.mark.parametrize("implicit", [True, False])
def test_a_file_without_file_meta_is_read_as_it_is_encoded(implicit: bool, dicom_file: Build) -> None:
    dataset = pydicom.dcmread(path := dicom_file("a.dcm", GREY))
    del dataset.file_meta
    dataset.preamble = None
    pydicom.dcmwrite(path, dataset, implicit_vr=implicit, little_endian=True)
    assert path.read_bytes()[128:132] != b"DICM"
    image = read(path)
    np.testing.assert_array_equal(image.array, GREY)
    assert f"read as {'Implicit' if implicit else 'Explicit'} VR Little Endian" in image.notes[0]


def test_rounding_does_not_part_a_series(dicom_file: Build) -> None:
    uid = pydicom.uid.generate_uid()
    for index in range(6):
        cosine = 0.995 + (-1) ** index * 2e-6
        path = dicom_file(
            f"ct/{index}.dcm",
            np.full((3, 2), index, np.int16),
            SeriesInstanceUID=uid,
            ImagePositionPatient=[0, 0, index * 2],
            ImageOrientationPatient=[f"{cosine:.6f}", f"{(1 - cosine**2) ** 0.5:.6f}", 0, 0, 0, -1],
            PixelSpacing=[1, 1],
        )
    with pytest.raises(MediaError, match="same position"):
        read(path.parent)  # one series of six, whose slices don't move along their normal here


def test_what_reading_assumed_reaches_the_prediction(dicom_texts: Build) -> None:
    import zoo

    array = read("phantom:fundus?seed=5").array[::8, ::8, 1].astype(np.int16)
    path = dicom_texts(array, {"WindowCenter": "127,5", "WindowWidth": "256"})
    (result,) = zoo.predict("map-vessel", str(path), modality="fundus", device="cpu")
    assert result.notes[0] == "the window center '127,5' was taken as 127.5"


@pytest.mark.parametrize("name", ["MR_small_jpeg_ls_lossless.dcm", "MR_small_jp2klossless.dcm", "MR_small_RLE.dcm"])
def test_lossless_codecs_give_the_stored_values(name: str) -> None:
    plain, packed = (read(pydicom.data.get_testdata_file(one, download=False)) for one in ("MR_small.dcm", name))
    assert np.array_equal(plain.array, packed.array)
    assert plain.spacing == packed.spacing


def test_jpeg_lossless_is_read() -> None:
    image = read(pydicom.data.get_testdata_file("SC_rgb_jpeg_gdcm.dcm", download=False))
    plain = read(pydicom.data.get_testdata_file("SC_rgb_jpeg_dcmtk.dcm", download=False))  # the same bars, lossy
    assert image.size == (100, 100)
    assert np.abs(image.rgb() - plain.rgb()).mean() < 0.02


def jpeg(name: str, path: Path, change: Callable[[bytes], bytes]) -> Path:
    """A file of pydicom's with another JPEG in it."""
    dataset = pydicom.dcmread(pydicom.data.get_testdata_file(name, download=False))
    (frame,) = pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1)
    dataset.PixelData = pydicom.encaps.encapsulate([change(frame.rstrip(b"\0"))])
    dataset.save_as(path)
    return path


BASELINE, LOSSLESS, TWELVE = "SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_jpeg_gdcm.dcm", "JPGExtended.dcm"


def test_twelve_bit_jpeg_is_read() -> None:
    """The values are libjpeg-turbo's."""
    pytest.importorskip("gdcm")
    found = read(pydicom.data.get_testdata_file(TWELVE, download=False))
    assert (found.array.sum(), found.array.max()) == (3767007, 264)
    assert found.array[500, ::64].tolist() == [1, 23, 10, 22]


@pytest.mark.parametrize("name", [BASELINE, LOSSLESS, TWELVE])
def test_a_jpeg_that_breaks_off_is_noticed(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """GDCM says of damage on the error stream alone, and gives samples all the same; Pillow says nothing."""
    pytest.importorskip("gdcm")
    for share in (0.3, 0.9):
        path = jpeg(name, tmp_path / "a.dcm", lambda frame, share=share: frame[: int(share * len(frame))] + b"\xff\xd9")
        with pytest.raises(MediaError, match="is damaged or"):
            read(path)
    assert capfd.readouterr() == ("", "")


def test_bytes_that_a_writer_leaves_behind_a_jpeg_are_no_damage(tmp_path: Path) -> None:
    pytest.importorskip("gdcm")
    sound = read(pydicom.data.get_testdata_file(BASELINE, download=False))
    padded = read(jpeg(BASELINE, tmp_path / "a.dcm", lambda frame: frame[:-2] + bytes(3) + frame[-2:]))
    np.testing.assert_array_equal(padded.array, sound.array)
    with pytest.raises(MediaError, match="is damaged or"):
        read(jpeg(BASELINE, tmp_path / "a.dcm", lambda frame: frame[:-2] + bytes(300) + frame[-2:]))


def test_a_damaged_jpeg_does_not_end_the_process(tmp_path: Path) -> None:
    """Of a lost Huffman table GDCM makes an exception of C++ that nothing catches."""
    gdcm = pytest.importorskip("gdcm")
    name = "SC_rgb_small_odd_jpeg.dcm"

    def without_table(frame: bytes) -> bytes:
        assert frame[177:179] == b"\xff\xc4"
        return frame[:177] + b"\xfd" + frame[178:]

    for _ in range(2):
        with pytest.raises(MediaError, match="is damaged or"):
            read(jpeg(name, tmp_path / "a.dcm", without_table))
        assert read(pydicom.data.get_testdata_file(name, download=False)).size == (3, 3)
    assert gdcm


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no process is halted here")
def test_a_decoder_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gdcm")
    path = pydicom.data.get_testdata_file(BASELINE, download=False)
    sound = read(path)
    monkeypatch.setattr(codecs, "SECONDS", 0.3)
    os.kill(codecs._Apart.one().process.pid, signal.SIGSTOP)
    with pytest.raises(MediaError, match="is damaged or"):
        read(path)
    monkeypatch.undo()
    np.testing.assert_array_equal(read(path).array, sound.array)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no process is forked here")
def test_threads_and_forked_processes_do_not_take_each_others_frames() -> None:
    pytest.importorskip("gdcm")
    paths = [pydicom.data.get_testdata_file(name, download=False) for name in (BASELINE, LOSSLESS, TWELVE)]
    expected = [read(path).array.sum(dtype=np.float64) for path in paths]

    def sums(_: int) -> list[float]:
        return [read(path).array.sum(dtype=np.float64) for path in paths]

    with ThreadPoolExecutor(4) as threads:
        assert all(found == expected for found in threads.map(sums, range(8)))
    forked = os.fork()
    if not forked:
        os._exit(0 if sums(0) == expected else 1)
    assert sums(1) == expected
    assert os.waitpid(forked, 0)[1] == 0


def test_missing_codec_is_said_with_its_remedy() -> None:
    path = pydicom.data.get_testdata_file("MR_small_jpeg_ls_lossless.dcm", download=False)
    try:
        image = read(path)
    except MediaError as error:
        assert "JPEG-LS" in str(error)  # noqa: PT017
        assert "pylibjpeg" in str(error)  # noqa: PT017
    else:
        assert image.array.shape == (64, 64)


def test_nothing_of_the_patient_is_kept(dicom_file: Build) -> None:
    image = read(dicom_file("a.dcm", GREY, PatientName="Doe^Jane", PatientID="4711"))
    assert "Doe" not in repr(image.meta)
    assert "4711" not in repr(image.meta)


def test_missing_library_names_the_extra(dicom_file: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    path = dicom_file("a.dcm", GREY)
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with pytest.raises(MissingExtraError, match=r"a\.dcm needs the library pydicom.*medimg-zoo\[imaging\]"):
        read(path)
