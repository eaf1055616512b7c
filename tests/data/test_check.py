from __future__ import annotations

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from zoo.data.check import check, patient_doubt, require
from zoo.data.sets import load_dataset, read_mask
from zoo.errors import DataError
from zoo.plugin import Input, Output, Paper, Plugin


def plugin_for(task, labels=()):
    return Plugin(
        name="any",
        title="any",
        summary="any",
        paper=Paper("any", ("A. Nobody",), "nowhere"),
        task=task,
        modality="any",
        inputs=(Input("image", "image", "a picture"),),
        outputs=(Output("mask", "a mask"),),
        labels=labels,
        model="any:Any",
    )


@pytest.fixture
def pairs(tmp_path):
    """Six good pairs."""
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    for i in range(6):
        Image.fromarray(rng.integers(0, 255, (12, 10), dtype=np.uint8)).save(tmp_path / "images" / f"c{i}.png")
        Image.fromarray(rng.integers(0, 3, (12, 10), dtype=np.uint8)).save(tmp_path / "masks" / f"c{i}.png")
    return tmp_path


def finding(report, name):
    return {item.check: item for item in report.findings}[name]


SEGMENTATION = plugin_for("segmentation", ("background", "organ", "tumour"))


def test_a_good_set_is_good(pairs):
    report = check(f"pairs:{pairs}", plugin=SEGMENTATION)
    assert report.ok
    assert report.cases == 6
    assert finding(report, "image sizes").detail == "12 x 10 (6)"
    assert "tumour 3" in finding(report, "pixels by label").detail
    assert {check for check, level, _ in report.rows() if level != "ok"} == {"patients"}  # pairs state none
    assert json.loads(json.dumps(report.to_dict()))["ok"] is True


def test_everything_wrong_is_found_in_one_go(pairs):
    (pairs / "images" / "c0.png").write_bytes(b"no picture")
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(pairs / "masks" / "c1.png")
    Image.fromarray(np.full((12, 10), 7, np.uint8)).save(pairs / "masks" / "c2.png")
    (pairs / "masks" / "c3.png").unlink()
    (pairs / "images" / "c5.png").write_bytes((pairs / "images" / "c4.png").read_bytes())
    report = check(f"pairs:{pairs}", plugin=SEGMENTATION)
    assert not report.ok
    assert finding(report, "files").detail.startswith("1 can't be read: c0: ")
    assert finding(report, "mask sizes").detail == "1 differ from the image: c1: mask is 5 x 5, the image 12 x 10"
    assert finding(report, "mask labels").detail == "1 masks leave 0 to 2: c2: 7"
    assert finding(report, "masks").detail == "1 of 6 have none: c3"
    assert finding(report, "duplicates").level == "warning"
    assert "c4=c5" in finding(report, "duplicates").detail


def test_masks_of_one_label_only_are_an_error(pairs):
    for path in (pairs / "masks").iterdir():
        Image.fromarray(np.zeros((12, 10), np.uint8)).save(path)
    assert "one label only" in finding(check(f"pairs:{pairs}"), "pixels by label").detail


def table_of(pairs, rows):
    path = pairs / "set.csv"
    path.write_text("image,label,patient,split\n" + "".join(f"images/{row}\n" for row in rows))
    return f"csv:{path}"


def test_patients_and_pictures_in_several_splits(pairs):
    (pairs / "images" / "c5.png").write_bytes((pairs / "images" / "c4.png").read_bytes())
    spec = table_of(
        pairs,
        ["c0.png,a,p0,train", "c1.png,b,p0,test", "c2.png,a,p2,train", "c4.png,b,p4,train", "c5.png,b,p5,test"],
    )
    report = check(spec)
    assert finding(report, "patients").detail == "1 in several splits: p0 in train and test"
    assert finding(report, "duplicates").level == "error"
    assert finding(report, "splits").detail == "train 3, test 2"
    assert not report.ok


def test_class_balance(pairs):
    spec = table_of(pairs, [f"c{i}.png,a,p{i}," for i in range(3)])
    assert finding(check(spec, plugin=plugin_for("classification")), "cases by label").detail == "a 3: one class only"
    spec = table_of(pairs, ["c0.png,a,p0,", "c1.png,b,p1,", "c2.png,,p2,"])
    report = check(spec, plugin=plugin_for("classification"))
    assert finding(report, "cases by label").detail == "a 1, b 1"
    assert finding(report, "labels").detail == "1 of 3 have none: images/c2.png"


@pytest.mark.parametrize(
    ("rows", "task", "words"),
    [
        (["c0.png,a,p,", "c1.png,b,p,"], "segmentation", "2 of 2 cases .* have no mask, such as images/c0.png"),
        (["c0.png,a,p,", "c1.png,,p,"], "classification", "1 of 2 cases .* have no label, such as images/c1.png"),
        (["c0.png,a,p,", "c1.png,a,p,"], "classification", "all cases .* have the label 'a'; at least two"),
        (["c0.png,a,p,train", "c1.png,b,p,test"], "classification", "patient p .* is in train and test"),
        (["c0.png,a,p,", "nope.png,b,p,"], "classification", r"names .*nope\.png, which doesn't exist"),
    ],
)
def test_training_refuses_at_once_what_needs_no_reading(pairs, rows, task, words):
    with pytest.raises(DataError, match=words) as caught:
        require(load_dataset(table_of(pairs, rows)), plugin_for(task))
    assert "\n" not in str(caught.value)


def test_training_accepts_what_is_good(pairs):
    require(load_dataset(f"pairs:{pairs}"), SEGMENTATION)


def test_some_masks_will_do_where_a_training_uses_unlabelled_cases_too(pairs):
    plugin = replace(SEGMENTATION, unlabelled=True)
    (pairs / "some.csv").write_text("image,mask\nimages/c0.png,masks/c0.png\nimages/c1.png,\n")
    require(load_dataset(f"csv:{pairs / 'some.csv'}"), plugin)
    found = finding(check(f"csv:{pairs / 'some.csv'}", plugin=plugin), "masks")
    assert (found.level, found.detail) == ("ok", "1 of 2 cases have one; the others are unlabelled")
    assert finding(check(f"csv:{pairs / 'some.csv'}", plugin=SEGMENTATION), "masks").level == "error"
    with pytest.raises(DataError, match=r"2 of 2 cases .* have no mask"):
        require(load_dataset(table_of(pairs, ["c0.png,,p,", "c1.png,,p,"])), plugin)


def test_soft_masks_are_named_and_whoever_reads_them_is_warned(pairs):
    for path in (pairs / "masks").iterdir():
        mask = np.zeros((12, 10), np.uint8)
        mask[2:9, 2:9] = 255
        Image.fromarray(mask).save(path.with_suffix(".jpg"), quality=60)
        path.unlink()
    report = check(f"pairs:{pairs}")
    assert finding(report, "mask edges").level == "warning"
    assert finding(report, "mask edges").detail == "6 have grey edges and are cut at half: c0, mask (and 5 more)"
    dataset = load_dataset(f"pairs:{pairs}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        masks = [read_mask(case) for case in dataset]
    assert all(mask.sum() == 49 for mask in masks)
    assert {str(one.message) for one in caught} == {
        f"masks in {pairs / 'masks'} have grey edges; they were cut at half"
    }


def test_notes_of_reading_are_shown(pairs):
    Image.fromarray(np.arange(120, dtype=np.uint16).reshape(12, 10) * 20).save(pairs / "images" / "c0.png")
    detail = finding(check(f"pairs:{pairs}"), "reading").detail
    assert detail.startswith("1 images are read with a note: c0: its 16-bit values reach only to 2,380 of 65,535")


@pytest.mark.parametrize(
    ("header", "rows", "doubt"),
    [
        ("image,label", "{i}.png,{i}", "no case says which patient it is of"),
        ("image,label,subject", "{i}.png,{i},s", "a patient of its own; if 'subject' does, call it patient"),
        ("image,label,patient", "{i}.png,{i},p{i}", ""),
        ("image,label,split", "{i}.png,{i},train", ""),
    ],
)
def test_a_set_without_patients_is_doubted(tmp_path, header, rows, doubt):
    table = tmp_path / "t.csv"
    table.write_text("\n".join([header, *(rows.format(i=i) for i in range(4))]))
    found = patient_doubt(load_dataset(f"csv:{table}"))
    assert doubt in found
    assert bool(doubt) == bool(found)


def test_some_without_a_patient_are_counted(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("image,patient\na.png,p\nb.png,\nc.png,p\n")
    assert patient_doubt(load_dataset(f"csv:{table}")).startswith("not every case (1 of 3 don't) says which")


def test_phantoms_are_not_doubted():
    assert patient_doubt(load_dataset("phantom:fundus?n=3")) == ""
