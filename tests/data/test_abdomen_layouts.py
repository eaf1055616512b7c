"""KiTS19, AMOS22 and the Decathlon's abdominal tasks, in folders made as they are unpacked."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from zoo.data.sets import load_dataset, read_mask
from zoo.data.support import named, structures
from zoo.errors import DataError


def write(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.full((4, 5, 6), value, np.uint8), np.eye(4)), path)


def test_kits_has_the_labelled_cases(tmp_path: Path) -> None:
    for name in ("case_00000", "case_00007", "case_00210"):
        write(tmp_path / "kits19/data" / name / "imaging.nii.gz", 3)
    for name in ("case_00000", "case_00007"):
        write(tmp_path / "kits19/data" / name / "segmentation.nii.gz", 2)
    dataset = load_dataset(f"kits:{tmp_path}")
    assert dataset.ids == ["case_00000", "case_00007"]
    assert set(structures(dataset[0])) == {"kidney", "kidney tumour"}
    assert int(read_mask(dataset[1]).max()) == 2
    (tmp_path / "kits19/data/case_00007/imaging.nii.gz").unlink()
    with pytest.raises(DataError, match=r"case_00007 has no imaging"):
        load_dataset(f"kits:{tmp_path}")
    with pytest.raises(DataError, match="holds no case_NNNNN"):
        load_dataset(f"kits:{tmp_path / 'kits19/data/case_00210'}")


def test_amos_has_the_labelled_ct(tmp_path: Path) -> None:
    for part, number in (("Tr", 1), ("Tr", 507), ("Va", 8), ("Ts", 3)):
        write(tmp_path / f"amos22/images{part}/amos_{number:04}.nii.gz", 1)
        if part != "Ts":
            write(tmp_path / f"amos22/labels{part}/amos_{number:04}.nii.gz", 10)
    dataset = load_dataset(f"amos:{tmp_path}")
    assert dataset.ids == ["amos_0001", "amos_0008"]
    assert [entry.split for entry in dataset.entries] == ["train", "validation"]
    assert dataset.labels[10] == "pancreas"
    (tmp_path / "amos22/labelsVa/amos_0008.nii.gz").unlink()
    with pytest.raises(DataError, match="amos_0008"):
        load_dataset(f"amos:{tmp_path}")
    with pytest.raises(DataError, match="holds no imagesTr"):
        load_dataset(f"amos:{tmp_path / 'amos22/imagesTs'}")


@pytest.mark.parametrize(
    ("task", "labels"),
    [
        ("Task03_Liver", {"0": "background", "1": "liver", "2": "cancer"}),
        ("Task07_Pancreas", {"0": "background", "1": "pancreas", "2": "cancer"}),
        ("Task09_Spleen", {"0": "background", "1": "spleen"}),
    ],
)
def test_decathlon_tasks_of_the_abdomen(tmp_path: Path, task: str, labels: dict[str, str]) -> None:
    organ = labels["1"]
    write(tmp_path / task / f"imagesTr/{organ}_12.nii.gz", 0)
    write(tmp_path / task / f"labelsTr/{organ}_12.nii.gz", len(labels) - 1)
    items = [{"image": f"./imagesTr/{organ}_12.nii.gz", "label": f"./labelsTr/{organ}_12.nii.gz"}]
    document = {"tensorImageSize": "3D", "labels": labels, "training": items, "test": []}
    (tmp_path / task / "dataset.json").write_text(json.dumps(document))
    dataset = load_dataset(f"msd:{tmp_path / task}")
    assert dataset.ids == [f"{organ}_12"]
    assert set(structures(named(dataset)[0])) == set(labels.values()) - {"background"}


@pytest.fixture
def hospitals(tmp_path: Path) -> Path:
    for number in range(3):
        write(tmp_path / f"Task03_Liver/imagesTr/liver_{number}.nii.gz", 0)
        write(tmp_path / f"Task03_Liver/labelsTr/liver_{number}.nii.gz", 2)
    items = [{"image": f"imagesTr/liver_{i}.nii.gz", "label": f"labelsTr/liver_{i}.nii.gz"} for i in range(3)]
    document = {"labels": {"0": "background", "1": "liver", "2": "cancer"}, "training": items}
    (tmp_path / "Task03_Liver/dataset.json").write_text(json.dumps(document))
    parts = {"training": [2], "validation": [0], "testing": [1]}
    lists = {part: [{"image": f"IM_OWN_00{i}.nii.gz"} for i in some] for part, some in parts.items()}
    (tmp_path / "datalist.json").write_text(json.dumps(lists))
    (tmp_path / "client.csv").write_text(
        "path,classes,split\nmsd:Task03_Liver,liver; liver tumour,datalist.json\n"
        "phantom:abdominal-ct?n=2&size=32&slices=16&labels=spleen,spleen,\n"
    )
    return tmp_path


def test_a_table_of_clients_says_who_has_annotated_what(hospitals: Path) -> None:
    dataset = load_dataset(f"clients:{hospitals / 'client.csv'}")
    assert [entry.split for entry in dataset.entries] == ["validation", "test", "train", None, None]
    first, last = dataset[0], dataset[4]
    assert (first.attributes["client"], last.attributes["client"]) == (0, 1)
    assert set(structures(first)) == {"liver", "liver tumour"}
    assert set(structures(last)) == {"spleen"}


def test_a_table_of_clients_that_does_not_fit_is_refused(hospitals: Path) -> None:
    table = hospitals / "client.csv"
    table.write_text("path,classes\nmsd:Task03_Liver,liver; spleen\n")
    with pytest.raises(DataError, match=r"no 'spleen' in msd:.*liver, liver tumour"):
        load_dataset(f"clients:{table}")
    table.write_text("path,classes\nmsd:Task03_Liver,\n")
    with pytest.raises(DataError, match="path and classes must be filled"):
        load_dataset(f"clients:{table}")
    lists = json.loads((hospitals / "datalist.json").read_text())
    lists["training"] = [{"image": "IM_LVR_2.nii.gz"}]
    (hospitals / "datalist.json").write_text(json.dumps(lists))
    table.write_text("path,classes,split\nmsd:Task03_Liver,liver,datalist.json\n")
    with pytest.raises(DataError, match="isn't the released list of LVR: its training part differs"):
        load_dataset(f"clients:{table}")
    lists["training"] = [{"image": "IM_OWN_77.nii.gz"}]
    lists["validation"], lists["testing"] = [], []
    (hospitals / "datalist.json").write_text(json.dumps(lists))
    with pytest.raises(DataError, match="its list names 1 cases"):
        load_dataset(f"clients:{table}")
