"""Tables of what corruptions leave of a model's accuracy."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo import media
from zoo.data.case import Case
from zoo.errors import DataError, OptionError
from zoo.evaluation import evaluate
from zoo.inference import load
from zoo.robustness import corrupted, robustness

DATA = "phantom:ultrasound?n=2&seed=77000&size=64"
ASKED = {"corruptions": ["gaussian_noise", "contrast"], "severities": [1, 5], "split": "all", "progress": False}


@pytest.fixture(scope="module")
def model():
    return load("cemb-sam", device="cpu")


@pytest.fixture(scope="module")
def table(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("robustness")
    return robustness(model, DATA, out=folder, device="cpu", **ASKED), folder


def test_the_clean_column_is_the_evaluation(table, model) -> None:
    found, _ = table
    plain = evaluate(model, DATA, split="all", device="cpu", progress=False)
    assert found.metric == plain.metrics[0].name
    assert found.values["clean", 0][found.metric] == plain[found.metric].mean
    assert list(found.values) == [
        ("clean", 0), ("gaussian_noise", 1), ("gaussian_noise", 5), ("contrast", 1), ("contrast", 5),
    ]  # fmt: skip
    assert len({values[found.metric] for values in found.values.values()}) > 1


def test_it_writes_table_figure_and_examples(table) -> None:
    found, folder = table
    with open(folder / "robustness.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    value = next(r for r in rows if (r["corruption"], r["severity"], r["metric"]) == ("contrast", "5", found.metric))
    assert float(value["mean"]) == found.values["contrast", 5][found.metric]
    assert json.loads((folder / "robustness.json").read_text())["cases"] == 2
    for name in ("figure.png", "examples.png"):
        assert Image.open(folder / name).size[0] > 200
    assert [row[0] for row in found.rows()] == ["gaussian_noise", "contrast"]


def test_an_interrupted_table_goes_on_and_another_one_is_not_taken_for_it(table, model, monkeypatch) -> None:
    found, folder = table
    import zoo.robustness as room

    def never(*_, **__):
        raise AssertionError("measured again")

    monkeypatch.setattr(room, "rows_of", never)
    again = robustness(model, DATA, out=folder, resume=True, device="cpu", **ASKED)
    assert again.values == found.values
    with pytest.raises(OptionError, match="another model, set or split"):
        robustness(model, DATA, out=folder, resume=True, device="cpu", **{**ASKED, "seed": 1})


def test_the_truth_stays_and_every_image_has_its_own_noise() -> None:
    grey = np.full((48, 48), 100, np.uint8)
    mask = np.eye(48, dtype=np.uint8)
    one, other = (corrupted(Case(grey, name, {"mask": mask}), kind="gaussian_noise", severity=2) for name in "ab")
    assert one.masks["mask"] is mask
    assert isinstance(one.image, media.Image)
    assert one.image.array.shape == (48, 48)  # still grey
    assert not np.array_equal(one.image.array, other.image.array)
    with pytest.raises(DataError, match="single images"):
        corrupted(Case(None, "patient", images=(one, other)), kind="fog", severity=1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"corruptions": ["fogg"]}, "did you mean 'fog'"),
        ({"severities": [6]}, "1 to 5"),
        ({"corruptions": []}, "at least one corruption"),
        ({"metric": "beauty"}, "no metric 'beauty'"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes, words, model) -> None:
    few = {**ASKED, "corruptions": ["contrast"], "severities": [1], **changes}
    with pytest.raises(OptionError, match=words):
        robustness(model, DATA.replace("n=2", "n=1"), device="cpu", **few)


def test_the_command_line_prints_it(zoo_cli, tmp_path: Path) -> None:
    ran = zoo_cli(
        "robustness", "cemb-sam", "--data", DATA.replace("n=2", "n=1"), "--split", "all", "--device", "cpu",
        "--corruption", "contrast", "--severity", "5", "--out", tmp_path / "out",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert "contrast" in ran.out
    assert "clean" in ran.out
