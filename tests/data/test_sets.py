from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from zoo.data import sets
from zoo.data.case import Case
from zoo.data.finding import Found
from zoo.data.sets import Dataset, Entry, load_dataset, read_mask
from zoo.errors import DataError, OptionError


def picture(path, value=120, mask=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.full((6, 8), value, np.uint8)
    array[2:4, 3:5] = 255 if mask else 30
    if mask:
        array[array != 255] = 0
    Image.fromarray(array).save(path)
    return path


def test_pairs_match_by_stem_and_tell_what_lacks_a_mask(tmp_path):
    for name in ("a", "b", "c"):
        picture(tmp_path / "images" / f"{name}.png")
    picture(tmp_path / "masks" / "a.png", mask=True)
    picture(tmp_path / "masks" / "c.bmp", mask=True)
    dataset = load_dataset(f"pairs:{tmp_path}")
    assert dataset.ids == ["a", "b", "c"]
    assert [sorted(case.masks) for case in dataset] == [["mask"], [], ["mask"]]
    mask = read_mask(dataset[0])
    assert mask.shape == (6, 8)
    assert mask.sum() == 4  # black and white are 0 and 1


def test_pairs_in_split_folders(tmp_path):
    for part in ("train", "val", "test"):
        picture(tmp_path / part / "images" / "a.png")
        picture(tmp_path / part / "masks" / "a.png", mask=True)
    dataset = load_dataset(f"pairs:{tmp_path}")
    assert [(entry.id, entry.split) for entry in dataset.entries] == [
        ("test/a", "test"),
        ("train/a", "train"),
        ("validation/a", "validation"),
    ]


def test_a_mask_without_an_image_is_an_error(tmp_path):
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "masks" / "a.png")
    picture(tmp_path / "masks" / "z.png")
    with pytest.raises(DataError, match=r"z in .*masks belong to no image"):
        load_dataset(f"pairs:{tmp_path}")


def test_folders_of_classes(tmp_path):
    for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
        picture(tmp_path / name)
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    dataset = load_dataset(f"folder:{tmp_path}")
    assert [(entry.id, entry.case.label) for entry in dataset.entries] == [
        ("cat/1.png", "cat"),
        ("cat/2.png", "cat"),
        ("dog/1.png", "dog"),
    ]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_folder_with_metadata_in_splits(tmp_path, form):
    rows = [
        {"file_name": "1.png", "label": "benign", "patient": "p1", "mask_file_name": "m/1.png", "age": "40"},
        {"file_name": "2.png", "label": "malignant", "patient": "p2"},
    ]
    for part in ("train", "test"):
        for row in rows:
            picture(tmp_path / part / row["file_name"])
        table = tmp_path / part / f"metadata.{form}"
        if form == "jsonl":
            table.write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            names = list(rows[0])
            lines = [",".join(names), *(",".join(row.get(name, "") for name in names) for row in rows)]
            table.write_text("\n".join(lines) + "\n")
    dataset = load_dataset(f"folder:{tmp_path}")
    first = {entry.id: entry for entry in dataset.entries}["train/1.png"]
    assert (first.split, first.patient, first.case.label) == ("train", "p1", "benign")
    assert first.case.masks == {"mask": str(tmp_path / "train" / "m" / "1.png")}
    assert first.case.attributes == {"patient": "p1", "age": "40"}
    assert len(dataset) == 4
    assert {"image", "label", "patient", "mask", "split"} <= set(dataset.columns)


def test_csv_with_all_columns(tmp_path):
    table = tmp_path / "set.csv"
    table.write_text(
        "\ufeffid,image,mask,mask_fov,label,patient,site,split\n"
        'x1,"a, b.png",m.png,f.png,1,p1,s1,train\n'
        "x2,sub/c.png,,,0,p2,s2,Val\n",
        encoding="utf-8",
    )
    dataset = load_dataset(f"csv:{table}")
    one, two = dataset
    assert one.image == str(tmp_path / "a, b.png")
    assert one.masks == {"mask": str(tmp_path / "m.png"), "fov": str(tmp_path / "f.png")}
    assert one.attributes["site"] == "s1"
    assert two.masks == {}
    assert [entry.split for entry in dataset.entries] == ["train", "validation"]


@pytest.mark.parametrize("path", ["../secret.png", "/etc/passwd", "a/../../secret.png"])
@pytest.mark.parametrize("column", ["image", "mask"])
def test_a_table_cannot_point_out_of_its_folder(tmp_path, path, column):
    table = tmp_path / "set" / "set.csv"
    table.parent.mkdir()
    row = {"image": "a.png", "mask": "m.png", column: path}
    table.write_text(f"image,mask\n{row['image']},{row['mask']}\n")
    with pytest.raises(DataError, match="outside its folder"):
        load_dataset(f"csv:{table}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("picture,label\na.png,1\n", "has no 'image'"),
        ("image,label\na.png,1,2\n", "row 1 .* doesn't fit its columns"),
        ("image,split\na.png,later\n", "the split 'later'"),
        ("image\na.png\na.png\n", r"two cases with the id 'a\.png'"),
        ("image\n", "is empty"),
        ("", "is empty"),
    ],
)
def test_a_wrong_table_is_one_sentence(tmp_path, text, words):
    table = tmp_path / "set.csv"
    table.write_text(text)
    with pytest.raises(DataError, match=words) as caught:
        load_dataset(f"csv:{table}")
    assert "\n" not in str(caught.value)


def test_a_table_that_is_no_text_is_an_error(tmp_path):
    (tmp_path / "set.csv").write_bytes(b"\xff\xd8\x00image")
    with pytest.raises(DataError, match="is not in UTF-8"):
        load_dataset(f"csv:{tmp_path / 'set.csv'}")


def test_a_table_in_a_code_page_is_told_how_to_save(tmp_path):
    """Guessing the page would turn names into others in silence."""
    (tmp_path / "set.csv").write_bytes("image,label\na.png,Läsion\n".encode("cp1252"))
    with pytest.raises(DataError, match=r"is not in UTF-8 \(byte 19\); save it as CSV in UTF-8 \(in spreadsheets"):
        load_dataset(f"csv:{tmp_path / 'set.csv'}")


def test_decathlon(tmp_path):
    document = {
        "labels": {"0": "background", "2": "tumour", "1": "liver"},
        "training": [{"image": "./imagesTr/liver_1.nii.gz", "label": "./labelsTr/liver_1.nii.gz"}],
        "test": ["./imagesTs/liver_9.nii.gz"],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(document))
    dataset = load_dataset(f"msd:{tmp_path}")
    assert dataset.labels == ("background", "liver", "tumour")
    assert dataset.ids == ["liver_1"]
    assert dataset[0].masks == {"mask": str(tmp_path / "labelsTr" / "liver_1.nii.gz")}
    document["training"][0]["label"] = "../x.nii.gz"
    (tmp_path / "dataset.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match="outside its folder"):
        load_dataset(f"msd:{tmp_path}")


def test_nnunet_with_two_channels(tmp_path):
    (tmp_path / "dataset.json").write_text(
        json.dumps({"labels": {"background": 0, "zone": 1, "whole": [1, 2]}, "file_ending": ".png", "numTraining": 2})
    )
    for name in ("p1_0000", "p1_0001", "p2_0000", "p2_0001"):
        picture(tmp_path / "imagesTr" / f"{name}.png")
    (tmp_path / "imagesTr" / "._p3_0000.png").write_bytes(b"what a file system leaves behind")
    picture(tmp_path / "labelsTr" / "p1.png")
    dataset = load_dataset(f"msd:{tmp_path}")
    assert dataset.labels == ("background", "zone")
    assert dataset.ids == ["p1", "p2"]
    assert [len(case.attributes["channels"]) for case in dataset] == [2, 2]
    assert dataset[1].masks == {}


def test_a_decathlon_file_of_another_kind_is_named(tmp_path):
    (tmp_path / "dataset.json").write_text('{"hello": 1}')
    with pytest.raises(DataError, match="no Decathlon or nnU-Net description"):
        load_dataset(f"msd:{tmp_path}")


def test_drive_layout(tmp_path):
    for part, number in (("training", "21"), ("test", "01")):
        picture(tmp_path / part / "images" / f"{number}_{part}.tif")
        picture(tmp_path / part / "1st_manual" / f"{number}_manual1.gif", mask=True)
        picture(tmp_path / part / "mask" / f"{number}_{part}_mask.gif", mask=True)
    dataset = load_dataset(f"drive:{tmp_path}")
    assert [(e.id, e.split, sorted(e.case.masks)) for e in dataset.entries] == [
        ("21", "train", ["fov", "mask"]),
        ("01", "test", ["fov", "mask"]),
    ]
    assert read_mask(dataset[0]).sum() == 4
    (tmp_path / "test" / "1st_manual" / "01_manual1.gif").write_bytes(b"GIF89a")
    with pytest.raises(DataError, match=r"can't read the mask .*01_manual1\.gif"):
        read_mask(dataset[1])


def test_pneumonia_layout(tmp_path):
    root = tmp_path / "chest_xray"
    for name in (
        "train/NORMAL/IM-0115-0001.jpeg",
        "train/NORMAL/NORMAL2-IM-0381-0001.jpeg",
        "train/PNEUMONIA/person1_bacteria_1.jpeg",
        "train/PNEUMONIA/person1_bacteria_2.jpeg",
        "test/NORMAL/IM-0001-0001.jpeg",
        "test/PNEUMONIA/person1_virus_6.jpeg",
        "val/NORMAL/NORMAL2-IM-1427-0001.jpeg",
        "val/PNEUMONIA/person1946_bacteria_4874.jpeg",
    ):
        picture(root / name)
    dataset = load_dataset(f"pneumonia:{tmp_path}")
    assert [(e.split, e.patient, e.case.label) for e in load_dataset(f"pneumonia:{root}").entries] == [
        (e.split, e.patient, e.case.label) for e in dataset.entries
    ]
    told = {e.id: (e.split, e.case.label) for e in dataset.entries}
    assert told["train/PNEUMONIA/person1_bacteria_1.jpeg"] == ("train", "bacterial")
    assert told["test/PNEUMONIA/person1_virus_6.jpeg"] == ("test", "viral")
    assert told["val/NORMAL/NORMAL2-IM-1427-0001.jpeg"] == ("validation", "normal")
    assert len({e.patient for e in dataset.entries}) == 7  # one patient has two images; person1 of the test is another
    picture(root / "train" / "PNEUMONIA" / "scan7.jpeg")
    with pytest.raises(DataError, match=r"scan7\.jpeg doesn't say whether the pneumonia is bacterial or viral"):
        load_dataset(f"pneumonia:{tmp_path}")


def test_a_folder_that_is_no_pneumonia_set_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"there is no folder .*train"):
        load_dataset(f"pneumonia:{tmp_path}")
    (tmp_path / "train" / "NORMAL").mkdir(parents=True)
    with pytest.raises(DataError, match=r"there is no folder .*PNEUMONIA"):
        load_dataset(f"pneumonia:{tmp_path}")


def make_dots(seed: int, *, size: int = 8, style: str = "plain") -> Case:
    rng = np.random.default_rng(seed)
    return Case(rng.normal(size=(size, size)), f"dots-{seed}", attributes={"style": style})


@pytest.fixture
def dots(monkeypatch):
    import sys

    phantoms = pytest.importorskip("zoo.data.phantoms")
    monkeypatch.setitem(sys.modules, "dots_phantom", sys.modules[__name__])
    monkeypatch.setitem(phantoms.PHANTOMS, "dots", Found("phantom", "dots", "dots_phantom:make_dots"))


def test_a_set_of_phantoms_travels_to_another_process(dots):
    dataset = load_dataset("phantom:dots?n=3&seed=7&size=5")
    first = dataset[0]
    assert dataset[0] is first  # kept in memory
    there = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(there[0].image, first.image)
    assert there.ids == dataset.ids


def test_phantoms_are_made_when_asked_for_and_alike_each_time(dots):
    dataset = load_dataset("phantom:dots?n=3&seed=7&size=5&style=bold")
    assert dataset.ids == ["dots-7", "dots-8", "dots-9"]
    case = dataset[1]
    assert (case.id, case.image.shape, case.attributes) == ("dots-8", (5, 5), {"style": "bold"})
    again = load_dataset("phantom:dots?n=3&seed=7&size=5")
    np.testing.assert_array_equal(again[1].image, case.image)
    assert len(load_dataset("phantom:dots")) == sets.PHANTOM_CASES


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("phantom:dost", "did you mean 'dots'"),
        ("phantom:dots?m=3", "no option 'm'"),
        ("phantom:dots?n=many", "n must be a whole number"),
        ("phantom:dots?size=big", "size must be a whole number"),
        ("pair:x", "did you mean 'pairs'"),
        ("nothing", "KIND:PATH"),
        ("csv:", "names no path"),
    ],
)
def test_a_wrong_specification_is_one_sentence(dots, spec, words):
    with pytest.raises(OptionError, match=words) as caught:
        load_dataset(spec)
    assert "\n" not in str(caught.value)


def test_missing_and_empty(tmp_path):
    with pytest.raises(DataError, match="there is no"):
        load_dataset(f"pairs:{tmp_path / 'nowhere'}")
    with pytest.raises(DataError, match=r"there is no folder .*images"):
        load_dataset(f"pairs:{tmp_path}")
    with pytest.raises(DataError, match="is empty"):
        load_dataset(f"folder:{tmp_path}")


def test_a_dataset_is_a_sequence_of_cases():
    dataset = Dataset("x:y", [Entry(str(i), Case(np.zeros((2, 2)), str(i))) for i in range(5)])
    assert dataset[1:3].ids == ["1", "2"]
    assert dataset.subset([4, 0]).ids == ["4", "0"]
    assert dataset[-1].id == "4"
    assert [case.id for case in dataset] == dataset.ids


def test_masks_of_all_kinds():
    def mask_of(array):
        return read_mask(Case(np.zeros((2, 2)), "c", masks={"mask": np.array(array)}))

    assert mask_of([[0, 255]]).tolist() == [[0, 1]]
    assert mask_of([[0, 1, 2]]).tolist() == [[0, 1, 2]]
    assert mask_of([[0, 254, 255]]).tolist() == [[0, 254, 255]]
    assert mask_of([[True, False]]).tolist() == [[1, 0]]
    assert mask_of([[0.0, 3.0]]).tolist() == [[0, 3]]
    with pytest.raises(DataError, match="fractions"):
        mask_of([[0.5, 1.0]])
    with pytest.raises(DataError, match="has no mask 'disc'"):
        read_mask(Case(np.zeros((2, 2)), "c"), "disc")


def test_a_coloured_mask_file_is_refused(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (4, 4, 3), dtype=np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(DataError, match="colour"):
        read_mask(Case(np.zeros((4, 4)), "c", masks={"mask": str(tmp_path / "m.png")}))


def test_an_attribute_comes_from_a_column_or_a_table(tmp_path):
    cases = [Case("", f"x{i}", attributes={"site": "AB"[i]} if i < 2 else {}) for i in range(3)]
    data = Dataset("x", [Entry(case.id, case) for case in cases])
    assert data.values("site") == ["A", "B", "unknown"]
    table = tmp_path / "tones.csv"
    table.write_text("id,value\nx0,dark\nx2,light\n")
    assert data.values(f"file:{table}") == ["dark", "unknown", "light"]
    table.write_text("image,tone\n1,2\n")
    with pytest.raises(DataError, match="needs the columns id and value"):
        data.values(f"file:{table}")
    with pytest.raises(DataError, match="there is no file"):
        data.values(f"file:{tmp_path / 'none.csv'}")


def test_made_cases_are_made_once_in_memory():
    made = []

    def make():
        made.append(1)
        return Case("", "x")

    data = Dataset("x", [Entry("x", make)]).in_memory()
    assert len(list(data) + list(data)) == 2
    assert made == [1]


def test_nnunet_v1_names_the_case_and_not_its_channels(tmp_path):
    for folder, names in (("imagesTr", ("a_0000", "a_0001", "ab_0000")), ("labelsTr", ("a", "ab"))):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / f"{name}.nii.gz").touch()
    document = {
        "modality": {"0": "T1", "1": "T2"},
        "labels": {"0": "background", "1": "tumour"},
        "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in ("a", "ab")],
        "test": ["./imagesTs/c.nii.gz"],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(document))
    dataset = load_dataset(f"msd:{tmp_path}")
    images = tmp_path / "imagesTr"
    assert dataset.ids == ["a", "ab"]
    assert [case.image for case in dataset] == [str(images / "a_0000.nii.gz"), str(images / "ab_0000.nii.gz")]
    assert dataset[0].attributes == {"channels": [str(images / f"a_000{i}.nii.gz") for i in range(2)]}
    assert dataset[1].masks == {"mask": str(tmp_path / "labelsTr" / "ab.nii.gz")}
    assert dataset.labels == ("background", "tumour")
