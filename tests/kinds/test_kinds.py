from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from zoo import media, results
from zoo.domain import Verdict
from zoo.kinds import (
    Box,
    Detection,
    Embedding,
    Measurement,
    MultiTask,
    Quantity,
    Reconstruction,
    Report,
    Token,
    VolumeSegmentation,
)
from zoo.prediction import Classification, Prediction, Provenance, Segmentation

PROVENANCE = Provenance("toy", weights="demo", trained_on="phantom:toy", disclaimer="trained on phantoms")
UNLIKE = Verdict(odd=(1,), count=1, reason="colour", images=20)


def an_image(shape: tuple[int, ...] = (40, 60), spacing: tuple[float, ...] | None = None) -> media.Image:
    rng = np.random.default_rng(0)
    image = media.read(rng.random(shape).astype(np.float32), mode="volume" if len(shape) == 3 else "auto")
    if spacing:
        object.__setattr__(image, "spacing", spacing)
    return image


def detection(spacing: tuple[float, float] | None = (0.5, 0.25)) -> Detection:
    boxes = [Box("nodule", 0.4, 30, 20, 50, 36), Box("mass", 0.9, 2, 4, 12, 10)]
    return Detection(image=an_image(spacing=spacing), boxes=boxes, labels=("nodule", "mass", "cyst"))


def measurement() -> Measurement:
    values = {
        "diameter": Quantity(12.4, "mm", (10.9, 13.8), normal=(0, 10)),
        "ratio": Quantity(0.61, "1", (0.55, 0.66), level=0.9),
    }
    return Measurement(image=an_image(), values=values)


def classification(image: media.Image) -> Classification:
    return Classification(image=image, probabilities={"benign": 0.2, "malignant": 0.8})


def multitask() -> MultiTask:
    image = an_image()
    mask = np.zeros(image.size, np.uint8)
    mask[5:15, 5:25] = 1
    lesion = Segmentation(image=image, mask=mask, labels=("background", "lesion"))
    return MultiTask(image=image, parts={"diagnosis": classification(image), "lesion": lesion})


def report() -> Report:
    tokens = [Token("The heart", 0.9), Token(" is enlarged.", 0.3), Token("\nNo effusion.", 0.8)]
    text = "".join(token.text for token in tokens)
    return Report(image=an_image(), text=text, tokens=tokens, findings_by_name={"cardiomegaly": 0.7, "effusion": "no"})


def reconstruction(truth: bool = True) -> Reconstruction:
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:40, :60] / 40
    reference = (np.hypot(y - 0.5, x - 0.7) < 0.3).astype(np.float32)
    output = reference + 0.05 * rng.standard_normal(reference.shape).astype(np.float32)
    start = reference + 0.3 * rng.standard_normal(reference.shape).astype(np.float32)
    scores = {"psnr_db": 26.0} if truth else {}
    known = reference if truth else None
    return Reconstruction(image=an_image(), output=output, start=start, reference=known, scores=scores)


def volume() -> VolumeSegmentation:
    image = an_image((10, 20, 30), spacing=(5.0, 2.0, 1.0))
    mask = np.zeros(image.size, np.uint8)
    mask[2:6, 5:10, 10:20] = 1
    return VolumeSegmentation(image=image, mask=mask, labels=("background", "liver"))


def embedding(seed: int = 0, space: str = "vit-s") -> Embedding:
    vector = np.random.default_rng(seed).standard_normal(100).astype(np.float32)
    return Embedding(image=an_image(), vector=vector, space=space)


EVERY = [detection, measurement, multitask, report, reconstruction, volume, embedding]


def dressed(prediction: Prediction, **more: object) -> Prediction:
    for name, value in {"source": "a/eye.png", "provenance": PROVENANCE, **more}.items():
        setattr(prediction, name, value)
    return prediction


@pytest.mark.parametrize("make", EVERY)
def test_every_kind_saves_what_its_json_names(make, tmp_path: Path) -> None:
    prediction = dressed(make())
    written = prediction.save(tmp_path)
    assert {path.name for path in written} == {path.name for path in tmp_path.iterdir()}
    record = json.loads((tmp_path / "eye.json").read_text())
    assert record["kind"] == prediction.kind
    assert record["demonstration"] is True  # the weights know phantoms, and this is none
    named = {value for value in record.values() if isinstance(value, str) and (tmp_path / value).is_file()}
    assert named == {path.name for path in written} - {"eye.json"}


@pytest.mark.parametrize("make", EVERY)
def test_every_kind_has_a_row_of_plain_values(make) -> None:
    row = results.row(dressed(make()))
    assert all(value is None or isinstance(value, (bool, int, float, str)) for value in row.values())
    assert set(row) > {"input", "model", "label", "notes"}


@pytest.mark.parametrize("make", EVERY)
def test_no_kind_states_numbers_of_an_input_that_is_unlike(make) -> None:
    prediction = dressed(make(), domain=UNLIKE)
    plain = make()
    assert UNLIKE.sentence() in prediction.summary()
    assert prediction.findings() == []
    row = results.row(prediction)
    assert not [name for name in plain.quantities() if row.get(name) is not None]
    assert np.asarray(prediction.figure()).shape[-1] == 3


def test_boxes_are_ranked_counted_and_measured(tmp_path: Path) -> None:
    found = dressed(detection())
    assert [box.label for box in found.boxes] == ["mass", "nodule"]
    assert found.quantities() == {
        "count_nodule": 1, "count_mass": 1, "count_cyst": 0,
        "score_nodule": 0.4, "score_mass": 0.9, "score_cyst": None,
    }  # fmt: skip
    # 10 columns of 0.25 mm, 6 rows of 0.5 mm
    assert found.to_dict()["boxes"][0]["size_mm"] == [2.5, 3.0]
    assert "best score 0.90" in found.summary()
    found.save(tmp_path)
    rows = list(csv.DictReader((tmp_path / "eye_boxes.csv").open()))
    assert [(row["label"], row["x0"], row["y1"]) for row in rows] == [("mass", "2", "10"), ("nodule", "30", "36")]


@pytest.mark.parametrize("box", [(5, 5, 5, 9), (5, 9, 8, 2)])
def test_a_box_has_an_area(box) -> None:
    with pytest.raises(ValueError, match="no area"):
        Box("nodule", 0.5, *box)


def test_a_box_of_no_known_class_is_refused() -> None:
    with pytest.raises(ValueError, match="none of nodule"):
        Detection(image=an_image(), boxes=[Box("cat", 0.5, 1, 1, 2, 2)], labels=("nodule",))
    with pytest.raises(ValueError, match=r"score of a box must lie in \[0, 1\]"):
        Box("nodule", 1.5, 1, 1, 2, 2)


def test_nothing_found_is_said() -> None:
    assert Detection(image=an_image(), boxes=[], labels=("nodule",)).summary() == "nothing found"


def test_quantities_keep_unit_and_interval() -> None:
    found = measurement()
    assert found.quantities() == {
        "diameter_mm": 12.4, "diameter_mm_low": 10.9, "diameter_mm_high": 13.8,
        "ratio": 0.61, "ratio_low": 0.55, "ratio_high": 0.66,
    }  # fmt: skip
    assert found.summary() == "diameter 12.4 mm (10.9 to 13.8), ratio 0.61 (0.55 to 0.66)"
    assert found.to_dict()["values"]["ratio"]["level"] == 0.9


@given(st.floats(-1e6, 1e6), st.floats(0, 1e3), st.floats(0, 1e3))
def test_any_quantity_can_be_drawn(value: float, below: float, above: float) -> None:
    quantity = Quantity(value, "mm", (value - below, value + above))
    assert Measurement(image=None, values={"x": quantity}).figure().width > 0


@pytest.mark.parametrize("wrong", [{"value": float("nan")}, {"interval": (3.0, 2.0)}, {"normal": (0.0, float("inf"))}])
def test_a_quantity_is_finite_and_in_order(wrong) -> None:
    with pytest.raises(ValueError, match=r"finite|lower"):
        Quantity(**{"value": 1.0, "unit": "mm", **wrong})


def test_parts_keep_their_names_and_their_kinds(tmp_path: Path) -> None:
    both = dressed(multitask())
    record = both.to_dict()
    assert record["parts"]["diagnosis"]["label"] == "malignant"
    assert record["parts"]["lesion"]["kind"] == "segmentation"
    assert "disclaimer" not in record["parts"]["lesion"]  # the whole says it
    assert both.quantities()["diagnosis.probability_malignant"] == 0.8
    assert both.summary().count("demonstration") == 1
    assert (tmp_path / "eye_lesion_mask.png") in both.save(tmp_path)


def test_of_an_unlike_input_the_diagnosis_is_withheld_and_the_mask_is_marked() -> None:
    both = dressed(multitask(), domain=UNLIKE)
    assert "diagnosis: withheld" in both.summary()
    assert "malignant" not in both.summary()
    titles = [panel.title for panel in both.panels()]
    assert not [title for title in titles if title.startswith("diagnosis")]
    assert "lesion: prediction" in titles
    assert both.to_dict()["parts"]["diagnosis"]["label"] is None


def test_a_report_keeps_its_text_its_findings_and_its_doubts(tmp_path: Path) -> None:
    said = dressed(report())
    assert said.certainty == pytest.approx((0.9 * 0.3 * 0.8) ** (1 / 3))
    assert said.quantities()["finding_cardiomegaly"] == 0.7
    said.save(tmp_path)
    assert (tmp_path / "eye_text.txt").read_text().startswith("The heart is enlarged.\nNo effusion.\n")
    assert "trained on phantoms" in (tmp_path / "eye_text.txt").read_text()


def test_a_report_on_an_unlike_image_is_not_written(tmp_path: Path) -> None:
    said = dressed(report(), domain=UNLIKE)
    written = said.save(tmp_path)
    assert not [path for path in written if path.suffix == ".txt"]
    assert "enlarged" not in (tmp_path / "eye.json").read_text()


def test_the_error_map_is_the_distance_from_the_truth(tmp_path: Path) -> None:
    made = dressed(reconstruction())
    np.testing.assert_array_equal(made.error(), np.abs(made.output - made.reference))
    made.save(tmp_path)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "eye_output.tif")), made.output)
    assert len(made.panels()) == 5
    unknown = dressed(reconstruction(truth=False))
    assert unknown.error() is None
    assert "truth not known" in unknown.summary()
    assert len(unknown.panels()) == 2


def test_a_reconstruction_of_an_image_with_a_place_keeps_it(tmp_path: Path) -> None:
    affine = np.array([[0, 0, 2.0, 5], [0, 1.5, 0, -7], [3.0, 0, 0, 9], [0, 0, 0, 1]])
    path = tmp_path / "slice.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.random.default_rng(0).random((12, 9, 1)).astype(np.float32), affine), path)
    image = media.read(path).require_2d("toy")
    output = np.random.default_rng(1).random(image.size).astype(np.float32)
    written = media.write_image(tmp_path / "out", output, image)
    again = media.read(written).require_2d("toy")
    np.testing.assert_allclose(again.array, output, rtol=1e-6)
    np.testing.assert_allclose(nibabel.load(written).affine, affine)


@pytest.mark.wrong_types
def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="the start is"):
        Reconstruction(image=an_image(), output=np.zeros((4, 4)), start=np.zeros((4, 5)))


def test_a_volume_is_told_in_millilitres_and_shown_in_three_planes() -> None:
    found = dressed(volume())
    # 4 x 5 x 10 voxels of 10 mm³
    assert found.summary() == "demonstration: liver 2 ml"
    assert [panel.title for panel in found.panels()] == ["axial, slice 4", "coronal", "sagittal"]
    coronal = found.panels()[1].picture
    assert coronal.width / coronal.height == pytest.approx(30 * 1.0 / (10 * 5.0), rel=0.05)
    assert found.legend()[0].name == "liver (2 ml)"


def test_embeddings_of_one_space_are_compared(tmp_path: Path) -> None:
    a, b = embedding(), embedding(1)
    cosine = np.dot(a.vector, b.vector) / np.linalg.norm(a.vector) / np.linalg.norm(b.vector)
    assert a.similarity(b) == pytest.approx(float(cosine), abs=1e-6)
    assert a.similarity(a) == pytest.approx(1)
    with pytest.raises(ValueError, match="can't be compared"):
        a.similarity(embedding(space="resnet"))
    dressed(a).save(tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "eye_vector.npy", allow_pickle=False), a.vector)


def test_an_embedding_is_finite() -> None:
    with pytest.raises(ValueError, match="finite"):
        Embedding(image=an_image(), vector=np.array([1.0, np.inf]), space="x")
