"""Named inputs: by name, as a mapping, from a case, a phantom or a line of a table, they come to the same."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from zoo import Input, Measurement, Model, Output, Paper, Plugin, inputs, media, options
from zoo.data import phantoms
from zoo.data.case import Case
from zoo.data.sets import load_dataset
from zoo.errors import DataError, MediaError, OptionError
from zoo.kinds import Quantity

CARD = Plugin(
    name="toy-change",
    title="t",
    summary="s",
    paper=Paper("T", ("A B",), "ISIC"),
    task="measurement",
    modality="any",
    inputs=(
        Input("current", "image", "the image of today", required=True),
        Input("prior", "image", "the image before", required=True),
        Input("region", "mask", "where to look"),
        Input("labs", "table", "what the laboratory found"),
        Input("note", "text", "why it was taken"),
        Input("scale", "number", "a factor", default=1.0, minimum=0.0),
        Input("more", "image", "further images", many=True),
    ),
    outputs=(Output("change", "c"),),
    model="a.b:C",
    phantom="phantom:toy-change",
)


@dataclass(frozen=True)
class ToyConfig:
    pass


class Toy(Model[Measurement]):
    plugin = CARD
    config_class = ToyConfig

    def __init__(self, config: ToyConfig | None = None) -> None:
        super().__init__(config)
        self.layer = torch.nn.Linear(1, 1)
        self.asked: list[dict[str, object]] = []

    def _predict(self, images, *, prior, region, labs, note, scale, more):
        self.asked.append({"prior": prior, "labs": labs, "note": note, "more": more, "images": len(images)})
        return [
            Measurement(
                image=one, values={"change": Quantity(scale * float(one.grey().mean() - prior.grey().mean()), "1")}
            )
            for one in images
        ]


def draw(seed: int) -> Case:
    now, before = np.random.default_rng(seed).integers(0, 255, (2, 8, 8), dtype=np.uint8)
    return Case(now, f"toy-{seed}", inputs={"prior": before, "labs": [{"crp": 3.0}], "note": "cough", "unknown": 1})


class Found:
    def load(self):
        return draw


@pytest.fixture
def model(monkeypatch) -> Toy:
    monkeypatch.setitem(phantoms.PHANTOMS, "toy-change", Found())
    return Toy()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for seed in (1, 2):
        case = draw(seed)
        Image.fromarray(case.image).save(tmp_path / f"now{seed}.png")
        Image.fromarray(case.inputs["prior"]).save(tmp_path / f"before{seed}.png")
    (tmp_path / "labs.csv").write_text("test,value\ncrp,3\nldh,200\n")
    return tmp_path


def change(prediction: Measurement) -> float:
    return prediction.values["change"].value


def table(folder: Path, text: str) -> str:
    (folder / "cases.csv").write_text(text)
    return str(folder / "cases.csv")


def test_all_the_ways_to_name_two_images_come_to_the_same(model: Toy, files: Path) -> None:
    case = draw(1)
    prior = case.inputs["prior"]
    (line,) = inputs.expand(CARD, [table(files, "current,prior\nnow1.png,before1.png\n")])
    ways = [
        model.predict(str(files / "now1.png"), prior=str(files / "before1.png")),
        model.predict(case.image, prior=prior),
        model.predict({"current": case.image, "prior": Image.fromarray(prior)}),
        model.predict(case),
        model.predict("phantom:toy-change?seed=1"),
        model.predict(line),
    ]
    assert {change(one) for one in ways} == {change(ways[0])}
    assert {one.inputs["prior"]["sha256"] for one in ways} == {hashlib.sha256(prior.tobytes()).hexdigest()}
    assert {one.inputs["current"]["sha256"] for one in ways} == {hashlib.sha256(case.image.tobytes()).hexdigest()}
    assert ways[0].inputs["prior"]["source"] == str(files / "before1.png")
    assert json.loads(json.dumps(ways[4].to_dict()))["inputs"]["current"]["source"] == "phantom:toy-change?seed=1"


def test_a_plugin_gets_images_that_are_read_and_rows(model: Toy, files: Path) -> None:
    model.predict("phantom:toy-change", labs=str(files / "labs.csv"), more=[draw(3).image])
    asked = model.asked[-1]
    assert isinstance(asked["prior"], media.Image)
    assert [type(one) for one in asked["more"]] == [media.Image]
    assert asked["labs"] == ({"test": "crp", "value": "3"}, {"test": "ldh", "value": "200"})
    assert asked["note"] == "cough"
    model.predict(draw(1).image, prior=draw(2).image, labs={"crp": 3})
    assert model.asked[-1]["labs"] == ({"crp": 3},)
    assert model.asked[-1]["more"] is None


def test_a_missing_image_is_named_with_the_way_to_give_it(model: Toy) -> None:
    sentence = r"toy-change needs prior \(the image before\); add --with prior=FILE"
    for one in (draw(1).image, Case(draw(1).image, "x")):
        with pytest.raises(OptionError, match=sentence):
            model.predict(one)
    with pytest.raises(OptionError, match=r"needs current \(the image of today\)"):
        model.predict({"prior": draw(1).image})
    with pytest.raises(OptionError, match="no option 'priors'; did you mean prior"):
        model.predict({"current": draw(1).image, "priors": draw(1).image})


@pytest.mark.parametrize(
    ("bad", "why"),
    [(np.zeros((8, 8), np.uint8), "single"), (np.full((4, 4), np.nan), "NaN"), (np.zeros((3, 4, 5, 6)), "")],
)  # fmt: skip
def test_a_named_image_is_refused_as_the_first_one_is(model: Toy, bad, why) -> None:
    with pytest.raises(MediaError) as first:
        model.predict(bad, prior=draw(1).image)
    with pytest.raises(MediaError) as named:
        model.predict(draw(1).image, prior=bad)
    assert str(named.value) == f"prior: {first.value}"


def test_what_is_given_by_name_stands_before_a_cases_own(model: Toy) -> None:
    other = draw(9).inputs["prior"]
    given = model.predict("phantom:toy-change?seed=1", prior=other)
    assert given.inputs["prior"]["sha256"] == hashlib.sha256(other.tobytes()).hexdigest()


def test_cases_that_share_their_options_are_predicted_together(model: Toy) -> None:
    a, b = draw(1), draw(2)
    together = model.predict_batch([a.image, b.image], prior=a.inputs["prior"])
    assert [asked["images"] for asked in model.asked] == [2]
    assert [change(one) for one in together] == [
        change(model.predict(c.image, prior=a.inputs["prior"])) for c in (a, b)
    ]
    own = model.predict_batch([a, b])
    assert [change(one) for one in own] == [change(model.predict(one)) for one in (a, b)]
    assert model.predict_batch([], prior=a.image) == []


def test_a_table_names_each_cases_own(model: Toy, files: Path) -> None:
    spec = table(files, "id,current,prior,scale,label\nA,now1.png,before1.png,2,x\nB,now2.png,before2.png,,y\n")
    first, second = inputs.expand(CARD, [spec])
    assert [first.id, second.id] == ["A", "B"]
    assert inputs.told(first) == f"A prior={files / 'before1.png'} scale=2.0"
    assert change(model.predict(first)) == 2 * change(model.predict(draw(1)))
    assert change(model.predict(second)) == change(model.predict(draw(2)))
    assert set(inputs.files_of(first)) == {str(files / "now1.png"), str(files / "before1.png")}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            "current,prier\nnow1.png,before1.png\n",
            "column 'prier', which is no input of toy-change; did you mean prior",
        ),
        ("prior\nbefore1.png\n", "line 1 of .* names no current"),
        ("current,prior\n", "has no lines"),
        ("current,prior\nnow1.png,../before1.png\n", "outside its folder"),
        ("current,scale\nnow1.png,wide\n", "scale must be a number of at least 0, not 'wide'"),
    ],
)
def test_a_table_that_cant_be_meant_is_refused(files: Path, text: str, error: str) -> None:
    with pytest.raises((DataError, OptionError), match=error):
        inputs.expand(CARD, [table(files, text)])


def test_a_column_and_an_option_for_all_contradict_each_other(files: Path) -> None:
    spec = table(files, "current,prior\nnow1.png,before1.png\n")
    with pytest.raises(DataError, match="prior is given for all and is a column"):
        inputs.expand(CARD, [spec], ["prior"])


def test_a_data_set_states_the_named_images_of_its_cases(model: Toy, files: Path) -> None:
    spec = "csv:" + table(files, "current,prior,site\nnow1.png,before1.png,a\nnow2.png,before2.png,b\n")
    dataset = load_dataset(spec, plugin=CARD)
    assert [case.inputs["prior"] for case in dataset] == [str(files / f"before{i}.png") for i in (1, 2)]
    assert change(model.predict(dataset[0])) == change(model.predict(draw(1)))
    table(files, "image,site\nnow1.png,a\n")
    with pytest.raises(DataError, match=r"has no prior \(the image before\), which toy-change needs; write a table"):
        load_dataset(spec, plugin=CARD)
    assert load_dataset(spec)[0].inputs == {}


def test_what_may_come_with_an_input_is_asked_for_later() -> None:
    assert options.carry(CARD, ["a.csv"])
    assert options.carry(CARD, ["phantom:toy-change"])
    assert not options.carry(CARD, ["a.png", "b.dcm"])
    with pytest.raises(OptionError, match="needs prior"):
        options.parse(CARD, [], whole=not options.carry(CARD, ["a.png"]))


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.floats(0, 1e3),
    st.text(st.characters(codec="utf-8", exclude_characters='\0"\r\n', exclude_categories=("C", "Z")), max_size=20),
)
def test_a_cell_says_what_the_option_says(tmp_path_factory, scale: float, note: str) -> None:
    folder = tmp_path_factory.mktemp("table")
    (folder / "a.png").touch()
    (case,) = inputs.expand(CARD, [table(folder, f'current,scale,note\na.png,{scale!r},"{note}"\n')])
    assert case.inputs == {"scale": scale, **({"note": note} if note else {})}
