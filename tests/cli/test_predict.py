"""`zoo predict` as a user meets it: what it writes, and one sentence for everything that can't work."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo import media
from zoo.data.phantoms.serial_sections import serial_sections


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small phantom fundus photograph as a PNG file."""
    path = tmp_path_factory.mktemp("photo") / "eye.png"
    picture = Image.fromarray(media.read("phantom:fundus?seed=5").array)
    picture.resize((192, 192)).save(path)
    return path


def predict(zoo_cli, *arguments, out: Path):
    return zoo_cli("predict", "map-vessel", "--device", "cpu", "--out", out, *arguments)


def nothing_left(folder: Path) -> bool:
    return not folder.exists() or not list(folder.iterdir())


def test_one_photo_gives_a_table_json_figure_and_mask(zoo_cli, photo, tmp_path) -> None:
    ran = predict(zoo_cli, photo, out=tmp_path)
    assert ran.code == 0, ran.err
    assert "vessel" in ran.out
    assert "trained on phantoms; not for clinical use" in ran.out
    record = json.loads((tmp_path / "eye.json").read_text())
    assert record["model"] == "map-vessel"
    assert record["disclaimer"] == "trained on phantoms; not for clinical use"
    assert (record["figure"], record["mask"]) == ("eye.png", "eye_mask.png")
    mask = np.asarray(Image.open(tmp_path / "eye_mask.png"))
    assert mask.shape == (192, 192)
    assert set(np.unique(mask)) <= {0, 1, 255}
    assert 0.005 < (mask > 0).mean() < 0.4
    assert record["area_fraction_of"] == "the field of view"
    assert (mask > 0).mean() < record["area_fraction"]["vessel"] < 3 * (mask > 0).mean()
    assert np.asarray(Image.open(tmp_path / "eye.png").convert("L")).std() > 10


def test_json_lines_and_no_figure(zoo_cli, photo, tmp_path) -> None:
    ran = predict(zoo_cli, photo, "--json", "--no-figure", out=tmp_path)
    (line,) = ran.out.strip().splitlines()
    record = json.loads(line)
    assert sorted(Path(path).name for path in record["files"]) == ["eye.json", "eye_mask.png"]
    assert not (tmp_path / "eye.png").exists()


def test_a_batch_reports_the_failed_file_and_goes_on(zoo_cli, photo, tmp_path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(photo, folder / "a.png")
    (folder / "b.png").write_text("not a picture")
    shutil.copy(photo, folder / "c.png")
    ran = predict(zoo_cli, folder, "--batch-size", "2", out=tmp_path / "out")
    assert ran.code == 2
    assert "b.png" in ran.err
    assert "1 of 3 inputs failed" in ran.err
    assert {path.stem for path in (tmp_path / "out").glob("*.json")} == {"a", "c"}


def test_an_error_that_nobody_foresaw_spares_the_others(zoo_cli, photo, tmp_path, monkeypatch) -> None:
    from zoo.models.map_vessel import model

    def faulty(picture, *arguments, **options):
        if picture.stem == "b":
            raise RuntimeError("a fault\nof the program")
        return prepare(picture, *arguments, **options)

    prepare = model.prepare
    monkeypatch.setattr(model, "prepare", faulty)
    for name in "abc":
        shutil.copy(photo, tmp_path / f"{name}.png")
    ran = predict(zoo_cli, *(tmp_path / f"{name}.png" for name in "abc"), "--no-figure", out=tmp_path / "out")
    assert ran.code == 2
    (told,) = [line for line in ran.err.splitlines() if "RuntimeError" in line]
    assert told.startswith(f"zoo: can't predict on {tmp_path / 'b.png'}: RuntimeError: a fault of the program; zoo --d")
    assert "Traceback" not in ran.err
    assert {path.stem for path in (tmp_path / "out").glob("*.json")} == {"a", "c"}
    debugged = zoo_cli("--debug", "predict", "map-vessel", tmp_path / "b.png", "--out", tmp_path / "out")
    assert debugged.code == 2
    assert "in faulty" in debugged.err


def test_a_result_that_cannot_be_written_spares_the_others(zoo_cli, photo, tmp_path, monkeypatch) -> None:
    from zoo.prediction import Segmentation

    def faulty(self):
        if "b.png" in self.source:
            raise ValueError("no picture")
        return figure(self)

    figure = Segmentation.figure
    monkeypatch.setattr(Segmentation, "figure", faulty)
    for name in "ab":
        shutil.copy(photo, tmp_path / f"{name}.png")
    ran = predict(zoo_cli, tmp_path / "b.png", tmp_path / "a.png", out=tmp_path / "out")
    assert ran.code == 2
    assert "b.png: ValueError: no picture" in ran.err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "a.json", "a.png", "a_mask.png", "predictions.csv",
    }  # fmt: skip


def test_no_result_overwrites_another(zoo_cli, photo, tmp_path) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    for name in ("eye.png", "eye_mask.png", "EYE.png", "eye.jpg", "x" * 240 + ".png"):
        Image.open(photo).convert("RGB").resize((64, 64)).save(inside / name)
    names = [inside / "eye.png", inside / "eye_mask.png", inside / "EYE.png", inside / "eye.jpg", inside / "eye.png"]
    ran = predict(zoo_cli, *names, inside / ("x" * 240 + ".png"), "--json", out=tmp_path / "out")
    assert ran.code == 0, ran.err
    records = [json.loads(line) for line in ran.out.splitlines()]
    files = [name.casefold() for record in records for name in record["files"]]
    assert len(records) == 5  # eye.png came once
    assert len(files) == len(set(files)) == 15
    assert len(list((tmp_path / "out").iterdir())) == 16  # and the table
    for record in records:
        stored = json.loads(next(Path(name) for name in record["files"] if name.endswith(".json")).read_text())
        assert stored["source"] == record["source"]
        assert np.isin(np.asarray(Image.open(tmp_path / "out" / stored["mask"])), (0, 255)).all()


def test_equal_names_in_different_folders_keep_apart(zoo_cli, photo, tmp_path) -> None:
    paths = []
    for side in ("left", "right"):
        (tmp_path / side).mkdir()
        paths.append(shutil.copy(photo, tmp_path / side / "eye.png"))
    assert predict(zoo_cli, *paths, "--no-figure", out=tmp_path / "out").code == 0
    assert {path.stem for path in (tmp_path / "out").glob("*.json")} == {"eye", "right_eye"}


def test_options_reach_the_model(zoo_cli, photo, tmp_path) -> None:
    shares = []
    for threshold in ("0.1", "0.9"):
        ran = predict(zoo_cli, photo, "--json", "--with", f"threshold={threshold}", out=tmp_path)
        record = json.loads(ran.out)
        assert record["options"]["threshold"] == float(threshold)
        shares.append(record["area_fraction"]["vessel"])
    assert shares[0] > shares[1]


def test_an_input_is_never_overwritten(zoo_cli, photo, tmp_path) -> None:
    mine = Path(shutil.copy(photo, tmp_path / "mine.png"))
    before = mine.read_bytes()
    assert "would overwrite an input" in predict(zoo_cli, mine, out=tmp_path).refused
    assert mine.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["mine.png"]


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


def bad_files(folder: Path, photo: Path) -> dict[str, Path]:
    import nibabel
    import pydicom
    from pydicom.data import get_testdata_file

    files = {name: folder / name for name in ("text.png", "empty.png", "cut.jpg", "huge.png", "cut.dcm", "cut.nii.gz")}
    files["text.png"].write_text("I am a text, not a picture.\n" * 20)
    files["empty.png"].touch()
    Image.open(photo).convert("RGB").save(files["cut.jpg"])
    files["cut.jpg"].write_bytes(files["cut.jpg"].read_bytes()[:2000])
    files["huge.png"].write_bytes(png_header(40_000, 40_000))
    dicom = Path(str(get_testdata_file("CT_small.dcm", download=False))).read_bytes()
    files["cut.dcm"].write_bytes(dicom[: len(dicom) // 2])
    volume = np.random.default_rng(0).normal(size=(8, 9, 10)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), folder / "whole.nii.gz")
    files["cut.nii.gz"].write_bytes((folder / "whole.nii.gz").read_bytes()[:600])
    volume[0, 0, 0] = np.nan
    files["nan.nii.gz"] = folder / "nan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), files["nan.nii.gz"])
    files["volume.nii.gz"] = folder / "whole.nii.gz"
    assert pydicom.__version__
    return files


@pytest.mark.parametrize(
    "name", ["text.png", "empty.png", "cut.jpg", "huge.png", "cut.dcm", "cut.nii.gz", "nan.nii.gz", "volume.nii.gz"]
)
def test_a_bad_file_is_named_in_one_sentence_and_leaves_nothing(zoo_cli, photo, tmp_path, name) -> None:
    path = bad_files(tmp_path, photo)[name]
    out = tmp_path / "out"
    assert path.name in predict(zoo_cli, path, out=out).refused
    assert nothing_left(out)


def test_missing_files_and_empty_folders_are_refused(zoo_cli, tmp_path) -> None:
    out = tmp_path / "out"
    assert "no/such.png" in predict(zoo_cli, "no/such.png", out=out).refused
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    assert str(tmp_path / "empty") in predict(zoo_cli, tmp_path / "empty", out=out).refused
    assert "*.jpg" in predict(zoo_cli, tmp_path / "*.jpg", out=out).refused
    assert "sample:ihc" in predict(zoo_cli, "sample:ihcc", out=out).refused
    assert nothing_left(out)


def test_a_two_channel_image_is_refused() -> None:
    import zoo

    with pytest.raises(zoo.MediaError, match="2 channels"):
        zoo.load("map-vessel", device="cpu").predict(np.random.default_rng(0).random((64, 64, 2)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--with", "treshold=0.5"], "did you mean threshold"),
        (["--with", "threshold=much"], "threshold must be a number from 0 to 1"),
        (["--with", "modality=xray"], "modality must be one of"),
        (["--with", "fov_mask=/no/such.png"], "/no/such.png"),
        (["--weights", "/no/such/folder"], "there are no weights at /no/such/folder"),
        (["--weights", "hf://no-slash"], "not a Hub address"),
        (["--device", "cuda:99"], "cuda:99"),
        (["--device", "toaster"], "toaster"),
        (["--batch-size", "0"], "batch-size"),
        (["--no-such"], "--no-such"),
    ],
)
def test_wrong_arguments_are_refused_by_name(zoo_cli, photo, tmp_path, arguments, message) -> None:
    out = tmp_path / "out"
    assert message in predict(zoo_cli, photo, *arguments, out=out).refused
    assert nothing_left(out)


def test_an_unknown_model_is_refused(zoo_cli, photo) -> None:
    assert "did you mean map-vessel" in zoo_cli("predict", "map-vesel", photo).refused


def test_weights_that_do_not_fit_are_refused(zoo_cli, photo, tmp_path) -> None:
    from importlib.resources import files

    demo = Path(str(files("zoo.models.map_vessel") / "demo"))
    out = tmp_path / "out"

    def weights(name: str) -> Path:
        return Path(shutil.copytree(demo, tmp_path / name))

    cut = weights("cut")
    (cut / "model.safetensors").write_bytes((demo / "model.safetensors").read_bytes()[:1000])
    assert "can't be read" in predict(zoo_cli, photo, "--weights", cut, out=out).refused

    other = weights("other")
    record = json.loads((demo / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**record, "model": "other-model"}))
    refusal = predict(zoo_cli, photo, "--weights", other, out=out).refused
    assert "'other-model'" in refusal
    assert "map-vessel" in refusal

    (other / "config.json").write_text("{ not json")
    assert "config.json" in predict(zoo_cli, photo, "--weights", other, out=out).refused

    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert "pickled" in predict(zoo_cli, photo, "--weights", pickled, out=out).refused
    assert nothing_left(out)


def test_an_out_that_can_not_be_a_folder_is_refused(zoo_cli, photo, tmp_path) -> None:
    (tmp_path / "file").write_text("keep me")
    assert "is a file" in predict(zoo_cli, photo, out=tmp_path / "file").refused
    assert "is a file" in predict(zoo_cli, photo, out=tmp_path / "file" / "below").refused
    assert (tmp_path / "file").read_text() == "keep me"


def test_an_unwritable_out_is_refused(zoo_cli, photo, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("zoo.cli.predict.os.access", lambda *_: False)
    assert "can't be written to" in predict(zoo_cli, photo, out=tmp_path / "locked").refused


@pytest.mark.slow
def test_the_console_script_works_on_the_real_photograph(tmp_path) -> None:
    command = [sys.executable, "-m", "zoo", "predict", "map-vessel", "sample:retina", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {
        "retina.json", "retina.png", "retina_mask.png", "predictions.csv",
    }  # fmt: skip


def test_a_folder_is_one_stack_for_a_model_of_several_images(zoo_cli, tmp_path) -> None:
    case = serial_sections(0, layers=3, size=64)
    for name in ("left", "right"):
        (tmp_path / name).mkdir()
        for z, section in enumerate(case.image):
            Image.fromarray(section).save(tmp_path / name / f"s{z}.png")
    common = ("predict", "pointcloud-recon3d", "--device", "cpu", "--no-figure", "--json")
    folders = zoo_cli(*common, tmp_path / "left", tmp_path / "right", "--out", tmp_path / "a")
    assert folders.code == 0, folders.err
    records = [json.loads(line) for line in folders.out.splitlines()]
    assert [Path(record["source"]).name for record in records] == ["left", "right"]
    assert [len(record["layers"]) for record in records] == [3, 3]
    assert {path.name for path in (tmp_path / "a").glob("*.json")} == {"left.json", "right.json"}

    singly = zoo_cli(*common, *sorted((tmp_path / "left").iterdir()), "--out", tmp_path / "b")
    assert len(json.loads(singly.out)["layers"]) == 3
    assert (tmp_path / "b" / "s0.json").exists()

    lacking = zoo_cli(*common, tmp_path / "left" / "s0.png", tmp_path / "absent.png", "--out", tmp_path / "c")
    assert "absent.png" in lacking.refused
    assert nothing_left(tmp_path / "c")


def test_dicom_gives_dicom_and_any_other_form_that_is_asked_for(zoo_cli, tmp_path) -> None:
    import pydicom
    from pydicom.data import get_testdata_file

    path = str(get_testdata_file("CT_small.dcm", download=False))
    common = (path, "--no-figure", "--with", "modality=fundus")
    assert predict(zoo_cli, *common, out=tmp_path / "auto").code == 0
    names = {one.name for one in (tmp_path / "auto").iterdir()}
    assert names == {"CT_small.json", "CT_small_mask.dcm", "predictions.csv"}
    made, source = pydicom.dcmread(tmp_path / "auto" / "CT_small_mask.dcm"), pydicom.dcmread(path)
    assert (made.Modality, made.PatientID, made.FrameOfReferenceUID) == (
        "SEG",
        source.PatientID,
        source.FrameOfReferenceUID,
    )
    assert made.SegmentSequence[0].SegmentLabel == "vessel"
    for form, name in (
        ("dicom-sr", "CT_small_report.dcm"),
        ("png", "CT_small_mask.png"),
        ("nifti", "CT_small_mask.nii.gz"),
    ):
        assert predict(zoo_cli, *common, "--format", form, out=tmp_path / form).code == 0
        assert (tmp_path / form / name).exists()
    assert "format" in predict(zoo_cli, *common, "--format", "jpg", out=tmp_path / "no").refused
    assert nothing_left(tmp_path / "no")
