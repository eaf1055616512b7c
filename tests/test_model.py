"""What ``zoo.Model`` does for every plugin: options, reading, eval mode, and what a prediction says about itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import zoo
from zoo import Input, Model, Output, Paper, Plugin, Segmentation
from zoo.errors import MediaError, OptionError, PluginError

CARD = Plugin(
    name="toy",
    title="t",
    summary="s",
    paper=Paper("T", ("A B",), "ISIC"),
    task="segmentation",
    modality="any",
    inputs=(
        Input("image", "image", "a picture", required=True),
        Input("threshold", "number", "cut", default=0.5, minimum=0, maximum=1),
        Input("count", "integer", "how many", minimum=1, maximum=9),
        Input("mode", "choice", "how", default="fast", choices=("fast", "exact")),
        Input("box", "box", "where", many=True),
        Input("region", "mask", "where to look"),
        Input("bank", "folder", "a folder"),
    ),
    outputs=(Output("mask", "m"),),
    labels=("dark", "bright"),
    model="a.b:C",
)
IMAGE = np.arange(16, dtype=np.uint8).reshape(4, 4)


@dataclass(frozen=True)
class ToyConfig:
    pass


class Toy(Model[Segmentation]):
    plugin = CARD
    config_class = ToyConfig

    def __init__(self, config: ToyConfig | None = None) -> None:
        super().__init__(config)
        self.layer = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Dropout())
        self.seen: dict[str, object] = {}

    def _predict(self, images, *, threshold, count, mode, box, region, bank):
        self.seen = {"threshold": threshold, "count": count, "mode": mode, "box": box, "region": region, "bank": bank}
        self.modes = [module.training for module in self.modules()]
        self.inference = torch.is_inference_mode_enabled()
        masks = [(image.grey() >= threshold).astype(np.uint8) for image in images]
        how = {"mode": "exact"} if count == 2 else {}
        return [
            Segmentation(image=image, mask=mask, labels=CARD.labels, options=how)
            for image, mask in zip(images, masks, strict=True)
        ]


@pytest.fixture
def model() -> Toy:
    return Toy()


def test_options_that_are_left_out_have_the_defaults_of_the_card(model: Toy) -> None:
    model.predict(IMAGE)
    nothing = {"count": None, "box": None, "region": None, "bank": None}
    assert model.seen == {"threshold": 0.5, "mode": "fast", **nothing}
    model.predict(IMAGE, threshold=None, mode="exact")
    assert model.seen == {"threshold": 0.5, "mode": "exact", **nothing}


def test_a_prediction_says_where_it_came_from_and_how(model: Toy, tmp_path: Path) -> None:
    found = model.predict("phantom:fundus?seed=1", threshold=0.25, bank=tmp_path, region=IMAGE)
    assert found.source == "phantom:fundus?seed=1"
    assert found.provenance is model.provenance
    assert found.options == {
        "threshold": 0.25, "count": None, "mode": "fast", "box": None, "region": "array", "bank": str(tmp_path),
    }  # fmt: skip


def test_what_the_plugin_states_of_its_options_stays(model: Toy) -> None:
    assert model.predict(IMAGE, count=2).options["mode"] == "exact"


@pytest.mark.parametrize(
    ("given", "arrives"),
    [
        ({"threshold": np.float32(0.5)}, 0.5),
        ({"threshold": np.array(0.25)}, 0.25),
        ({"threshold": torch.tensor(0.75)}, 0.75),
        ({"count": np.int64(3)}, 3),
        ({"mode": np.str_("exact")}, "exact"),
        ({"box": (1, 2, 3, 4)}, ((1, 2, 3, 4),)),
        ({"box": [np.float64(1), 2, 3, 4]}, ((1, 2, 3, 4),)),
        ({"box": np.array([1.0, 2.0, 3.0, 4.0])}, ((1, 2, 3, 4),)),
        ({"box": np.array([[1, 2, 3, 4], [5, 6, 7, 8]])}, ((1, 2, 3, 4), (5, 6, 7, 8))),
        ({"box": [(1, 2, 3, 4), np.array([5, 6, 7, 8])]}, ((1, 2, 3, 4), (5, 6, 7, 8))),
        ({"box": ()}, None),
    ],
)
def test_numbers_of_numpy_and_torch_arrive_as_pythons_own(model: Toy, given, arrives) -> None:
    model.predict(IMAGE, **given)
    ((name, _),) = given.items()
    assert model.seen[name] == arrives
    assert type(model.seen[name]) is type(arrives)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"threshold": 7.0}, "threshold must be a number from 0 to 1, not 7.0"),
        ({"threshold": "high"}, "threshold must be a number from 0 to 1, not 'high'"),
        ({"threshold": True}, "threshold must be a number from 0 to 1, not True"),
        ({"threshold": float("nan")}, "threshold must be a number from 0 to 1, not nan"),
        ({"threshold": np.zeros((300, 300))}, "not an array of 300 x 300"),
        ({"threshold": 10**5000}, "not a number of thousands of digits"),
        ({"count": 10**6}, "count must be a whole number from 1 to 9, not 1000000"),
        ({"count": np.float64(2)}, "count must be a whole number from 1 to 9, not 2.0"),
        ({"mode": "xor"}, "mode must be one of fast, exact, not 'xor'"),
        ({"mode": ["fast"]}, "mode must be one of fast, exact"),
        (
            {"box": (1, 2, 3)},
            r"box must be 4 numbers separated by commas, without spaces: x0,y0,x1,y1, not \(1, 2, 3\)",
        ),
        ({"box": [(1, 2, 3, float("inf"))]}, "box must be 4 numbers"),
        ({"box": [None]}, "box must be 4 numbers separated by commas, without spaces: x0,y0,x1,y1, not None"),
        (
            {"box": "everywhere"},
            "box must be 4 numbers separated by commas, without spaces: x0,y0,x1,y1, not 'everywhere'",
        ),
        ({"region": "no/such/file.png"}, "region names no/such/file.png, which does not exist"),
        ({"region": 1.5}, "region must be a mask, not 1.5"),
        ({"bank": "no/such/folder"}, "bank names no/such/folder, which does not exist"),
        ({"bank": 3}, "bank must be a folder, not 3"),
        ({"treshold": 0.5}, "toy has no option 'treshold'; did you mean threshold"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_read(model: Toy, given, message) -> None:
    with pytest.raises(OptionError, match=message) as told:
        model.predict("there is no such file", **given)
    assert "\n" not in str(told.value)
    with pytest.raises(OptionError, match=message):
        model.predict_batch([IMAGE, IMAGE], **given)


def test_a_wrong_input_is_refused(model: Toy) -> None:
    with pytest.raises(MediaError, match="toy"):
        model.predict(zoo.media.Image(np.zeros((5, 8, 8), np.uint8), ndim_spatial=3))


def test_it_predicts_in_eval_mode_and_leaves_every_module_as_it_was(model: Toy) -> None:
    model.train()
    model.layer[0].eval()
    before = [module.training for module in model.modules()]
    assert any(before)
    model.predict(IMAGE)
    assert not any(model.modes)
    assert model.inference
    assert [module.training for module in model.modules()] == before


def test_a_batch_gives_one_prediction_for_each_input(model: Toy) -> None:
    both = model.predict_batch([IMAGE, IMAGE.T.copy()], threshold=np.float64(0.03))
    assert np.array_equal(both[1].mask, both[0].mask.T)
    assert model.predict_batch([]) == []


def test_predict_belongs_to_the_zoo() -> None:
    with pytest.raises(PluginError, match="Own has a predict of its own; write _predict, which predict calls"):

        class Own(Model):
            def predict(self, image): ...


def test_something_else_than_predictions_is_refused(model: Toy, monkeypatch) -> None:
    monkeypatch.setattr(Toy, "_predict", lambda self, images, **options: [image.grey() for image in images])
    with pytest.raises(PluginError, match=r"give a zoo\.Prediction for each of 1 inputs, not ndarray"):
        model.predict(IMAGE)


def test_a_model_is_one_line(model: Toy) -> None:
    assert repr(model) == "Toy(toy, weights none, 2 parameters, cpu)"
