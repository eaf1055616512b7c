"""What comes with a request, at its worst: names that lead elsewhere, zips that are no zips or far too much."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.serve.toy import png
from zoo.errors import MediaError, OptionError
from zoo.plugin import Input, Output, Paper, Plugin
from zoo.serve.uploads import Budget, Intake, TooLargeError, clean, scrubbed, unpacked

CARD = Plugin(
    name="toy", title="t", summary="s", paper=Paper("T", ("A B",), "ISIC"), task="segmentation", modality="any",
    inputs=(
        Input("image", "image", "a picture", required=True), Input("region", "mask", "where"),
        Input("bank", "folder", "a folder"), Input("word", "text", "a word"), Input("table", "file", "a table"),
        Input("box", "box", "where", many=True), Input("scans", "images", "several"),
    ),
    outputs=(Output("mask", "m"),), model="a.b:C",
)  # fmt: skip


@pytest.fixture
def intake(tmp_path: Path) -> Intake:
    (tmp_path / "request").mkdir()
    return Intake(CARD, tmp_path / "request", Budget(1 << 20, 50))


def packed(files: dict[str, bytes], **options: int) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", options.get("compression", zipfile.ZIP_DEFLATED)) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def send(intake: Intake, name: str, filename: str, content: bytes) -> None:
    intake.file(name, filename, io.BytesIO(content))


@pytest.mark.parametrize(
    "filename",
    ["../../etc/passwd", "..\\..\\boot.ini", "/etc/passwd", "C:\\x.png", "~root", "..", ".", "", "\0", "a\nb.png",
     ".bashrc", "a" * 5000 + ".nii.gz", "é" * 300, "phantom:fundus", "x/", "\udcff.png", "*.png", "a;b&c|d"],
)  # fmt: skip
def test_a_name_stays_in_its_folder(intake: Intake, filename: str) -> None:
    send(intake, "image", filename, png())
    (path,) = map(Path, intake.inputs)
    assert path.parent == intake.folder / "1"
    assert path.read_bytes() == png()
    assert not path.name.startswith((".", "~"))
    assert len(path.name.encode()) <= 160
    assert all(c.isprintable() for c in path.name)
    assert [one.name for one in intake.folder.parent.iterdir()] == ["request"]


def test_a_name_keeps_its_suffix() -> None:
    assert clean("brain.nii.gz") == "brain.nii.gz"
    assert clean("a" * 300 + ".nii.gz").endswith(".nii.gz")
    assert clean("C:\\scans\\eye of A.png") == "eye of A.png"
    assert clean("глаз😀.png") == "глаз😀.png"


@pytest.mark.parametrize("value", ["/etc/passwd", "~/secret.png", "pairs:/data", "../x", "", "hf://org/repo", "*"])
def test_no_text_names_a_file_of_the_server(intake: Intake, value: str) -> None:
    with pytest.raises(OptionError, match="must be uploaded as a file"):
        intake.text("image", value)
    for option in ("region", "bank", "table", "scans"):
        one = Intake(CARD, intake.folder, Budget(1, 1))
        one.text("image", "sample:retina")
        one.text(option, value)
        with pytest.raises(OptionError, match=f"option {option}, which is a .*, must be uploaded"):
            one.asked("toy")


def test_a_sample_or_a_phantom_may_be_named_but_no_size_of_one(intake: Intake) -> None:
    intake.text("image", "sample:retina")
    intake.text("input", "phantom:fundus?seed=7")
    intake.text("region", "phantom:fundus?seed=1")
    asked = intake.asked("toy")
    assert asked.inputs == ["sample:retina", "phantom:fundus?seed=7"]
    assert asked.chosen["region"] == "phantom:fundus?seed=1"
    for value in ("phantom:fundus?size=1000000", "phantom:fundus?seed=1&n=9", "phantom:fundus?seed=-1"):
        with pytest.raises(OptionError, match="takes the seed of a phantom and no other option"):
            intake.text("image", value)
    intake.texts = [("table", "sample:retina")]
    with pytest.raises(OptionError, match=r"option table, which is a file, must be uploaded as a file$"):
        intake.asked("toy")


def test_options_arrive_checked(intake: Intake) -> None:
    intake.text("image", "sample:retina")
    for name, value in (("word", "a=b,c"), ("box", "1,2,3,4"), ("box", "5,6,7,8")):
        intake.text(name, value)
    send(intake, "region", "mask, rough.png", png())
    asked = intake.asked("toy")
    assert asked.chosen == {
        "word": "a=b,c", "box": ((1, 2, 3, 4), (5, 6, 7, 8)), "region": str(intake.folder / "1" / "mask, rough.png"),
    }  # fmt: skip
    send(intake, "word", "a.txt", b"x")
    with pytest.raises(OptionError, match="option word is a text, not a file"):
        intake.asked("toy")


def test_several_files_of_one_option_become_a_folder_in_their_order(intake: Intake) -> None:
    intake.text("image", "sample:retina")
    for name in ("b.png", "a.png"):
        send(intake, "scans", name, png())
    folder = Path(intake.asked("toy").chosen["scans"])
    assert sorted(path.name for path in folder.iterdir()) == ["0001_b.png", "0002_a.png"]


def test_a_zip_is_the_folder_in_it(intake: Intake) -> None:
    inside = {"case/a.png": png(), "case/b.png": png(), "__MACOSX/._a.png": b"x", "case/.DS_Store": b"x"}
    send(intake, "image", "case.zip", packed(inside))
    send(intake, "bank", "bank.zip", packed({"one.png": png(), "two.png": png()}))
    asked = intake.asked("toy")
    assert sorted(path.name for path in Path(asked.inputs[0]).iterdir()) == ["a.png", "b.png"]
    assert sorted(path.name for path in Path(asked.chosen["bank"]).iterdir()) == ["one.png", "two.png"]
    assert scrubbed(f"can't read {asked.inputs[0]}/a.png", intake.folder) == "can't read case/case/a.png"


def with_link(target: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        link = zipfile.ZipInfo("a.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, target)
    return stream.getvalue()


def encrypted() -> bytes:
    content = bytearray(packed({"a.png": png()}))
    content[6] |= 1
    content[content.rfind(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


ESCAPES = {
    "upwards": packed({"../../../tmp/evil.png": png()}),
    "upwards in the middle": packed({"a/../../evil.png": png()}),
    "absolute": packed({"/tmp/evil.png": png()}),
    "upwards as Windows writes it": packed({"..\\..\\evil.png": png()}),
    "a drive": packed({"C:evil.png": png()}),
    "deep": packed({"/".join("a" * 40) + "/evil.png": png()}),
    "a link": with_link("/etc/passwd"),
    "a password": encrypted(),
    "another way of packing": packed({"a.png": png()}, compression=zipfile.ZIP_LZMA),
    "twice": packed({"a.png": png(), "a.png ": png()}),
    "a file that is a folder": packed({"a": b"x", "a/b.png": png()}),
    "cut": packed({"a.png": png()})[:-30],
    "no end": b"PK\x03\x04" + bytes(100),
    "nothing but an end of another": b"PK\x05\x06" + b"\xff" * 18,
}


@pytest.mark.parametrize("kind", ESCAPES)
def test_a_zip_that_leads_elsewhere_is_refused(intake: Intake, kind: str) -> None:
    send(intake, "image", "scan.zip", ESCAPES[kind])
    with pytest.raises(MediaError, match=r"^can't (read|take) scan\.zip: ") as refused:
        intake.asked("toy")
    assert "\n" not in str(refused.value)
    assert [one.name for one in intake.folder.parent.iterdir()] == ["request"]
    assert not list(intake.folder.rglob("*evil*"))
    assert not any(path.is_symlink() for path in intake.folder.rglob("*"))


def test_a_bomb_stops_at_the_limit(intake: Intake, tmp_path: Path) -> None:
    send(intake, "image", "bomb.zip", packed({"a.png": bytes(50 << 20)}))  # 50 MB in 50 kB
    with pytest.raises(TooLargeError, match=r"can't take bomb\.zip: unpacked, it is larger"):
        intake.asked("toy")
    assert sum(path.stat().st_size for path in intake.folder.rglob("*") if path.is_file()) <= 2 << 20


def test_a_bomb_that_lies_about_its_size_stops_too(tmp_path: Path) -> None:
    content = bytearray(packed({"a.png": bytes(3 << 20)}))
    for start, offset in ((content.find(b"PK\x03\x04"), 22), (content.find(b"PK\x01\x02"), 24)):
        content[start + offset : start + offset + 4] = struct.pack("<I", 100)
    (tmp_path / "liar.zip").write_bytes(bytes(content))
    with pytest.raises(MediaError):
        unpacked(tmp_path / "liar.zip", Budget(1 << 20, 50))
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 2 << 20


def test_a_bomb_of_files_stops_before_its_list_is_read(intake: Intake) -> None:
    send(intake, "image", "many.zip", packed({f"{number:06d}.png": b"" for number in range(2000)}))
    with pytest.raises(TooLargeError, match="holds more files than this server takes"):
        intake.asked("toy")


def test_bytes_are_counted_before_anything_is_unpacked(intake: Intake) -> None:
    with pytest.raises(TooLargeError):
        send(intake, "image", "a.png", np.random.default_rng(0).bytes(2 << 20))


def test_a_zip_in_a_zip_is_no_image(intake: Intake) -> None:
    send(intake, "image", "outer.zip", packed({"inner.zip": packed({"a.png": png()}), "b.png": png()}))
    folder = Path(intake.asked("toy").inputs[0])
    assert sorted(path.name for path in folder.iterdir()) == ["b.png", "inner.zip"]
