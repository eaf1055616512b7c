"""Tables as spreadsheets, R, pandas and people write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoo.data.sets import load_dataset
from zoo.data.tables import images_in, inside, matched, table_rows
from zoo.errors import DataError
from zoo.media.sniff import SUFFIXES

ROWS = [{"image": "a.png", "label": "x, y", "patient": "p1"}, {"image": "b.png", "patient": "p2"}]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ('image,label,patient\na.png,"x, y",p1\nb.png,,p2\n', "utf-8"),
        ("image;label;patient\na.png;x, y;p1\nb.png;;p2\n", "utf-8"),
        ('"image";"label";"patient"\r\n"a.png";"x, y";"p1"\r\n"b.png";;"p2"\r\n', "utf-8"),
        ("image\tlabel\tpatient\na.png\tx, y\tp1\nb.png\t\tp2\n", "utf-8"),
        ("image|label|patient\na.png|x, y|p1\nb.png||p2\n", "utf-8"),
        ("sep=;\nimage;label;patient\na.png;x, y;p1\nb.png;;p2\n", "utf-8"),
        ('image,label,patient\na.png,"x, y",p1\nb.png,,p2\n', "utf-8-sig"),
        ("image\tlabel\tpatient\na.png\tx, y\tp1\nb.png\t\tp2\n", "utf-16"),
        ('image, label, patient\na.png, "x, y", p1\nb.png,  , p2\n', "utf-8"),
        ('\n\nimage,label,patient,\na.png,"x, y",p1,\n,,,\nb.png,,p2,\n,,\n', "utf-8"),
        ('image,label,patient\ra.png,"x, y",p1\rb.png,,p2\r', "utf-8"),
        (',image,label,patient\n0,a.png,"x, y",p1\n1,b.png,,p2\n', "utf-8"),
    ],
    ids=["plain", "semicolon", "quoted", "tab", "bar", "sep", "bom", "utf16", "spaces", "empty", "cr", "index"],
)
def test_every_dialect_gives_the_same_rows(tmp_path: Path, text: str, encoding: str) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes(text.encode(encoding))
    assert table_rows(table) == ROWS


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"image,label\na.png,caf\xe9\n", "is not in UTF-8 (byte 21); save it as CSV in UTF-8"),
        (b"image,label,label\na.png,x,y\n", "has two columns called 'label'; give each a name of its own"),
        (b"image,label\na.png,x,y\n", "row 1 of TABLE doesn't fit its columns"),
        (b"image,label\na.png,x\0\n", "row 1 of TABLE holds a zero byte; save the table again"),
        (b'image,label\na.png,"x\n', "can't be read as a table: unexpected end of data"),
    ],
)
def test_what_is_no_table_is_refused_in_one_sentence(tmp_path: Path, content: bytes, reason: str) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes(content)
    with pytest.raises(DataError) as refused:
        table_rows(table)
    assert reason.replace("TABLE", str(table)) in str(refused.value)


@pytest.mark.parametrize(
    "header", ["image,label,patient", "image, label, patient", "Image,Label,Patient", "IMAGE,LABEL,Patient ID",
               "image,label,patient_id", "image,label,PatientID"],
)  # fmt: skip
def test_near_misses_of_column_names_keep_patients_together(tmp_path: Path, header: str) -> None:
    (tmp_path / "t.csv").write_text(f"{header}\n" + "".join(f"{i}.png,x,p{i // 2}\n" for i in range(6)))
    dataset = load_dataset(f"csv:{tmp_path / 't.csv'}")
    assert [entry.patient for entry in dataset.entries] == ["p0", "p0", "p1", "p1", "p2", "p2"]
    assert set(dataset.columns) == {"image", "label", "patient"}


def test_two_columns_that_mean_one_thing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,patient,Patient\na.png,1,2\n")
    with pytest.raises(DataError, match="two columns that mean 'patient'; keep one of them"):
        load_dataset(f"csv:{tmp_path / 't.csv'}")


def test_an_absolute_path_is_taken_where_it_lies_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "set" / "t.csv"
    assert inside(table.parent, str(tmp_path / "set" / "a.png"), table) == tmp_path / "set" / "a.png"
    monkeypatch.chdir(tmp_path)
    assert inside(Path("set"), str(tmp_path / "set" / "a.png"), table) == tmp_path / "set" / "a.png"
    for other in (tmp_path / "a.png", "../a.png", "/etc/passwd", tmp_path / "set" / ".." / "a.png"):
        with pytest.raises(DataError, match="lies outside its folder"):
            inside(Path("set"), str(other), table)


def test_sets_take_every_suffix_that_can_be_read(tmp_path: Path) -> None:
    for ending in SUFFIXES:
        (tmp_path / f"a{ending}").touch()
        (tmp_path / f"B{ending.upper()}").touch()
    (tmp_path / "a.txt").touch()
    assert len(images_in(tmp_path)) == 2 * len(SUFFIXES)


@pytest.mark.parametrize(
    ("images", "masks", "pairs"),
    [
        (["01_test"], ["01_manual1"], {"01_manual1": "01_test"}),
        (["21_training", "22_training"], ["21_manual1", "22_manual1"],
         {"21_manual1": "21_training", "22_manual1": "22_training"}),
        (["a", "b"], ["a_mask", "b_segmentation"], {"a_mask": "a", "b_segmentation": "b"}),
        (["a", "a_mask"], ["a_mask"], {"a_mask": "a_mask"}),  # the same stem comes first
        (["a"], ["a_mask", "a_seg"], {}),  # two for one: nobody knows which
        (["a"], ["b_mask"], {}),
    ],
)  # fmt: skip
def test_masks_find_their_images(images: list[str], masks: list[str], pairs: dict[str, str]) -> None:
    assert matched(*({name: Path(name) for name in names} for names in (images, masks))) == pairs
