from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from zoo import figure as fig
from zoo import media
from zoo.domain import Verdict
from zoo.errors import OptionError
from zoo.prediction import Classification, Provenance, Segmentation

PROVENANCE = Provenance("toy", weights="demo", trained_on="phantoms", disclaimer="trained on phantoms")


def segmentation(shape: tuple[int, ...] = (40, 60), spacing: tuple[float, ...] | None = None) -> Segmentation:
    rng = np.random.default_rng(0)
    image = media.read(rng.random(shape).astype(np.float32), mode="volume" if len(shape) == 3 else "auto")
    if spacing:
        object.__setattr__(image, "spacing", spacing)
    mask = np.zeros(shape, np.uint8)
    mask[..., 10:20, 10:30] = 1
    mask[..., 25:30, 40:50] = 2
    return Segmentation(
        source="a/eye.png", provenance=PROVENANCE, image=image, mask=mask, labels=("background", "disc", "cup")
    )


def test_segmentation_reports_areas_and_json(tmp_path) -> None:
    result = segmentation()
    assert result.areas() == {"disc": pytest.approx(200 / 2400), "cup": pytest.approx(50 / 2400)}
    record = json.loads(json.dumps(result.to_dict()))
    assert (record["model"], record["kind"], record["shape"]) == ("toy", "segmentation", [40, 60])
    assert "disc 8.3% of the image" in result.summary()


def test_save_writes_every_file_and_names_them_in_the_json(tmp_path) -> None:
    written = segmentation().save(tmp_path)
    assert {path.name for path in written} == {path.name for path in tmp_path.iterdir()}
    record = json.loads((tmp_path / "eye.json").read_text())
    assert (tmp_path / record["figure"]).is_file()
    restored = np.asarray(Image.open(tmp_path / record["mask"]))
    assert restored.shape == (40, 60)


def test_the_json_says_what_the_values_of_the_mask_are(tmp_path) -> None:
    result = segmentation()
    result.save(tmp_path)
    assert result.to_dict()["mask_values"] == {"background": 0, "disc": 1, "cup": 2}
    np.testing.assert_array_equal(media.read_labels(tmp_path / "eye_mask.png").array, result.mask)
    assert Image.open(tmp_path / "eye_mask.png").convert("L").getextrema()[1] > 60  # a person sees it
    result.mask[result.mask == 2] = 0
    result.save(tmp_path)
    assert result.to_dict()["mask_values"] == {"background": 0, "disc": 255}  # no cup
    assert sorted(np.unique(np.asarray(Image.open(tmp_path / "eye_mask.png")))) == [0, 255]
    np.testing.assert_array_equal(media.read_labels(tmp_path / "eye_mask.png").array, result.mask)


def test_a_name_that_is_taken_moves_the_whole_prediction(tmp_path) -> None:
    result = segmentation()
    names = [path.name for path in result.save(tmp_path, taken={"eye_mask.png"})]
    assert sorted(names) == ["eye_result.json", "eye_result.png", "eye_result_mask.png"]
    assert json.loads((tmp_path / "eye_result.json").read_text())["mask"] == "eye_result_mask.png"


def test_a_volume_shows_its_fullest_slice(tmp_path) -> None:
    result = segmentation((5, 40, 60))
    result.mask[:] = 0
    result.mask[3, 5:9, 5:9] = 1
    assert result.panels()[0].title == "input (slice 3)"
    assert result.figure().width > 2 * 60


def test_a_failed_save_leaves_nothing(tmp_path, monkeypatch) -> None:
    result = segmentation()
    monkeypatch.setattr(type(result), "to_dict", lambda self: {"bad": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        result.save(tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_is_a_file_is_refused(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OptionError, match="choose another folder with --out"):
        segmentation().save(tmp_path / "file")


def test_classification_ranks_its_labels() -> None:
    image = media.read(np.zeros((32, 32, 3), np.uint8))
    result = Classification(
        source="x.png", provenance=PROVENANCE, image=image, probabilities={"benign": 0.2, "melanoma": 0.8}
    )
    assert result.label == "melanoma"
    assert result.summary().startswith("melanoma 80.0%, benign")
    assert json.loads(json.dumps(result.to_dict()))["probabilities"] == {"benign": 0.2, "melanoma": 0.8}
    assert np.asarray(result.figure().convert("L")).std() > 5


def test_a_volume_with_flat_voxels_is_drawn_in_proportion() -> None:
    result = segmentation((4, 40, 60), spacing=(5.0, 2.0, 1.0))
    picture = fig.to_picture(result.panels()[0].picture)
    assert picture.width / picture.height == pytest.approx(60 / 80, abs=0.01)


def test_shares_are_of_the_field_of_view_where_there_is_one() -> None:
    mask = np.zeros((10, 10), np.uint8)
    mask[2:4, 2:7] = 1
    inside = np.zeros((10, 10), bool)
    inside[:5] = True
    image = media.read(np.arange(100, dtype=np.uint8).reshape(10, 10))
    whole = Segmentation(image=image, mask=mask, labels=("ground", "vessel"))
    part = Segmentation(image=image, mask=mask, labels=("ground", "vessel"), inside=inside)
    assert whole.areas() == {"vessel": 0.1}
    assert part.areas() == {"vessel": 0.2}
    assert part.summary() == "vessel 20.0% of the field of view"
    assert part.to_dict()["area_fraction_of"] == "the field of view"


def test_short_labels_are_spelled_out() -> None:
    image = media.read(np.arange(100, dtype=np.uint8).reshape(10, 10))
    found = Classification(
        image=image, probabilities={"MEL": 0.75, "odd": 0.25}, label_names={"MEL": "melanoma", "NV": "naevus"}
    )
    assert found.summary() == "melanoma (MEL) 75.0%, odd 25.0%"
    assert (found.to_dict()["label"], found.to_dict()["label_name"]) == ("MEL", "melanoma")


def test_a_notebook_shows_the_figure_and_says_what_it_is() -> None:
    result = segmentation()
    result.notes = ("a <b>note</b>",)
    assert result._repr_png_().startswith(b"\x89PNG")
    page = result._repr_html_()
    assert page.startswith(
        '<figure><img alt="disc 8.3% of the image, cup 2.1% of the image" src="data:image/png;base64,'
    )
    assert "note: a &lt;b&gt;note&lt;/b&gt;" in page
    result.domain = Verdict((1,), 1, "sharpness", 50)
    assert "its shares are not stated" in result._repr_html_()
    assert "8.3%" not in result._repr_html_()
