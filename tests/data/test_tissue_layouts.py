"""Public sets of nuclei, glands, tissue and polyps, as made-up folders of exactly their layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.data.layouts.bcss import of_five
from zoo.data.sets import load_dataset, read_mask
from zoo.errors import DataError


def picture(path: Path, array: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((12, 16, 3), 90, np.uint8) if array is None else array).save(path)
    return path


def numbered() -> np.ndarray:
    labels = np.zeros((12, 16), np.uint8)
    labels[1:4, 1:5], labels[6:10, 8:14] = 1, 2
    return labels


XML = """<?xml version="1.0"?><Annotations MicronsPerPixel="0.252000"><Annotation Id="1"><Regions>
<Region Id="1"><Vertices><Vertex X="1" Y="1" Z="0"/><Vertex X="4" Y="1" Z="0"/><Vertex X="4" Y="3" Z="0"/>
<Vertex X="1" Y="3" Z="0"/></Vertices></Region>
<Region Id="2"><Vertices><Vertex X="8" Y="6"/><Vertex X="13" Y="6"/><Vertex X="13" Y="9"/>
<Vertex X="8" Y="9"/></Vertices></Region>
<Region Id="3"><Vertices><Vertex X="8" Y="6"/></Vertices></Region></Regions></Annotation></Annotations>"""


@pytest.fixture
def monuseg(tmp_path: Path) -> Path:
    inner = tmp_path / "MoNuSeg 2018 Training Data"
    for folder, images, name in (
        (inner / "Annotations", inner / "Tissue Images", "TCGA-18-5592-01Z-00-DX1"),
        (tmp_path / "MoNuSegTestData", tmp_path / "MoNuSegTestData", "TCGA-2Z-A9J9-01A-01-TS1"),
    ):
        picture(images / f"{name}.tif")
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.xml").write_text(XML)
    return tmp_path


def test_monuseg_draws_outlines_as_numbered_nuclei(monuseg: Path) -> None:
    dataset = load_dataset(f"monuseg:{monuseg}")
    assert [(e.id, e.patient, e.split) for e in dataset.entries] == [
        ("TCGA-18-5592-01Z-00-DX1", "TCGA-18-5592", "train"),
        ("TCGA-2Z-A9J9-01A-01-TS1", "TCGA-2Z-A9J9", "test"),
    ]
    assert np.array_equal(read_mask(dataset[0], "instances"), numbered())
    assert np.array_equal(read_mask(dataset[0]), numbered() > 0)


def test_monuseg_refuses_entities_and_lost_images(monuseg: Path) -> None:
    note = next(monuseg.rglob("*5592*.xml"))
    note.write_text('<!DOCTYPE x [<!ENTITY a "b">]>' + XML.partition("?>")[2])
    with pytest.raises(DataError, match="declares entities"):
        load_dataset(f"monuseg:{monuseg}")[0]
    note.write_text("<Annotations><Region>")
    with pytest.raises(DataError, match="is no annotation of MoNuSeg"):
        load_dataset(f"monuseg:{monuseg}")[0]
    next(monuseg.rglob("*5592*.tif")).unlink()
    with pytest.raises(DataError, match=r"has no image TCGA-18-5592-01Z-00-DX1\.tif"):
        load_dataset(f"monuseg:{monuseg}")


def test_glas_joins_both_test_parts_and_states_grades(tmp_path: Path) -> None:
    inner = tmp_path / "Warwick QU Dataset (Released 2016_07_08)"
    for name in ("train_1", "testA_1", "testB_1"):
        picture(inner / f"{name}.bmp")
        picture(inner / f"{name}_anno.bmp", numbered())
    (inner / "Grade.csv").write_text(
        "name, patient ID, grade (GlaS), grade (Sirinukunwattana et al. 2015)\ntrain_1, 1, benign, adenomatous\n"
    )
    dataset = load_dataset(f"glas:{tmp_path}")
    cases = {case.id: case for case in dataset}
    assert {entry.id: entry.split for entry in dataset.entries} == {
        "train_1": "train", "testA_1": "test", "testB_1": "test"
    }  # fmt: skip
    assert cases["train_1"].label == "benign"
    assert cases["train_1"].attributes == {"part": "train", "patient": "1"}
    assert read_mask(cases["testB_1"], "instances").max() == 2
    assert read_mask(cases["testB_1"]).max() == 1
    (inner / "testA_1_anno.bmp").unlink()
    with pytest.raises(DataError, match=r"has no testA_1_anno\.bmp"):
        load_dataset(f"glas:{tmp_path}")


def test_crag_takes_its_valid_part_for_the_test(tmp_path: Path) -> None:
    for part, name in (("train", "train_1"), ("valid", "test_1")):
        picture(tmp_path / "CRAG" / part / "Images" / f"{name}.png")
        picture(tmp_path / "CRAG" / part / "Annotation" / f"{name}.png", numbered())
    dataset = load_dataset(f"crag:{tmp_path}")
    assert [(entry.id, entry.split) for entry in dataset.entries] == [("train_1", "train"), ("test_1", "test")]
    assert np.array_equal(read_mask(dataset[1], "instances"), numbered())
    (tmp_path / "CRAG" / "valid" / "Annotation" / "test_1.png").unlink()
    with pytest.raises(DataError, match="has no annotation"):
        load_dataset(f"crag:{tmp_path}")


@pytest.mark.parametrize("names", [("image", "mask"), ("images", "masks"), ("images_og", "masks")])
def test_the_five_polyp_sets_are_read_under_all_names_of_their_folders(tmp_path: Path, names: tuple[str, str]) -> None:
    sets = ("CVC-300", "CVC-ClinicDB", "Kvasir", "CVC-ColonDB", "ETIS-LaribPolypDB")
    for folder in (tmp_path / "TrainDataset", *(tmp_path / "TestDataset" / name for name in sets)):
        picture(folder / names[0] / "1.png")
        picture(folder / names[1] / "1.png", np.where(numbered() > 0, 255, 0).astype(np.uint8))
    dataset = load_dataset(f"polyp:{tmp_path}")
    assert dataset.ids == ["train/1", *(f"{name}/1" for name in sets)]
    assert [entry.split for entry in dataset.entries] == ["train"] + 5 * ["test"]
    assert dataset[3].attributes == {"set": "Kvasir"}
    assert np.array_equal(read_mask(dataset[0]), numbered() > 0)
    (tmp_path / "TestDataset" / "Kvasir" / names[1] / "1.png").unlink()
    with pytest.raises(DataError, match="has no mask of its name"):
        load_dataset(f"polyp:{tmp_path}")


def test_bcss_divides_by_institute_and_brings_its_codes_to_five_classes(tmp_path: Path) -> None:
    inner = tmp_path / "0_Public-data-Amgad2019_0.25MPP"
    codes = np.array([[0, 1, 19, 20], [2, 3, 10, 11], [4, 7, 5, 21]], np.uint8)
    for name in ("TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500", "TCGA-OL-A66P-DX1_xmin1_ymin2_MPP-0.2500"):
        picture(inner / "rgbs_colorNormalized" / f"{name}.png")
        picture(inner / "masks" / f"{name}.png", np.kron(codes, np.ones((4, 4), np.uint8)))
    dataset = load_dataset(f"bcss:{tmp_path}")
    assert [(entry.patient, entry.split) for entry in dataset.entries] == [
        ("TCGA-A1-A0SK", "train"), ("TCGA-OL-A66P", "test")
    ]  # fmt: skip
    assert dataset.labels == ("unlabelled", "tumour", "stroma", "inflammatory", "necrosis", "other")
    expected = [[0, 1, 1, 1], [2, 3, 3, 3], [4, 0, 5, 5]]
    assert np.array_equal(read_mask(dataset[0])[::4, ::4], expected)
    assert np.array_equal(of_five(codes), expected)
    with pytest.raises(DataError, match="there is no folder"):
        load_dataset(f"bcss:{inner / 'masks'}")
