"""Predictions by points: where they may come from, which classifiers they select in, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo import media
from zoo.data.phantoms.skin_trap import skin_trap
from zoo.errors import DataError, OptionError, PluginError
from zoo.models.tts_skin import data
from zoo.models.tts_skin import model as models
from zoo.models.tts_skin.model import TtsSkin, TtsSkinConfig

SMALL = TtsSkinConfig(backbone="small", image_size=32, small_channels=(8, 20), small_strides=(2, 2))


@pytest.fixture(scope="module")
def model() -> TtsSkin:
    torch.manual_seed(0)
    return TtsSkin(SMALL).eval()


@pytest.fixture(scope="module")
def case():
    return skin_trap(3, size=64, bias=1.0)


def test_all_channels_are_the_plain_classifier_and_a_prediction_changes_no_weight(model, case):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    whole = model.predict(case.image, mask=case.masks["mask"], keep=1.0, tta=5)
    assert whole.probabilities == whole.baseline
    assert whole.tts_applied
    found = model.predict(case.image, mask=case.masks["mask"], tta=5)
    assert found.baseline == whole.baseline
    assert found.kept.sum() == 2  # a tenth of 20
    assert found.probabilities != found.baseline
    for method in ("random", "noisecrop", "tent", "t3a"):
        other = model.predict(case.image, mask=case.masks["mask"], method=method, tta=5)
        assert not other.tts_applied
        assert other.baseline == whole.baseline
        assert sum(other.probabilities.values()) == pytest.approx(1)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_without_points_nothing_is_made_up(model, case):
    found = model.predict(case.image, tta=3)
    assert not found.tts_applied
    assert found.probabilities == found.baseline
    assert any("was not applied" in note for note in found.notes)
    record = json.loads(json.dumps(found.to_dict()))
    assert record["kept_channels"] is None
    assert record["points"] == {"origin": None, "positive": [], "negative": []}


def test_one_copy_is_the_image_and_one_pair_of_points_is_enough(model, case):
    found = model.predict(case.image, positive=(30, 32), negative=[(2, 2)], tta=1)
    view = data.view_of(media.read(case.image), 32)
    x = torch.from_numpy(view.picture.copy()).permute(2, 0, 1)[None].float() / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        expected = model((x - mean) / std).softmax(1)[0]
    assert list(found.baseline.values()) == pytest.approx(expected.tolist(), abs=1e-5)
    assert (len(found.positive), len(found.negative), found.origin) == (1, 1, "given")
    assert found.options["alpha"] == 0.4


def test_points_on_artifacts_weigh_more_and_an_image_without_one_has_positive_points_only(model, case):
    mask, artifact = case.masks["mask"], np.zeros((64, 64), np.uint8)
    none = model.predict(case.image, mask=mask, artifact_mask=artifact, tta=2)
    assert len(none.negative) == 0
    assert any("positive ones alone" in note for note in none.notes)
    artifact[:3] = 1
    some = model.predict(case.image, mask=mask, artifact_mask=artifact, tta=2, n_points=7)
    assert some.options["alpha"] == 0.2
    assert (some.negative[:, 1] < 3).all()
    assert (len(some.positive), len(some.negative)) == (7, 7)
    assert all(mask[int(y), int(x)] for x, y in some.positive)
    assert not any(mask[int(y), int(x)] for x, y in model.predict(case.image, mask=mask, tta=2).negative)


def test_of_a_long_photograph_the_middle_is_seen_and_points_outside_do_not_count(model):
    wide = np.random.default_rng(0).integers(0, 256, (60, 120, 3), dtype=np.uint8)
    assert tuple(data.window_of(60, 120)) == (20, 0, 80, 60)
    assert np.allclose(data.window_of(60, 120).grid(np.array([[19.5, -0.5], [99.5, 59.5]])), [[-1, -1], [1, 1]])
    found = model.predict(wide, positive=[(60, 30)], negative=[(5, 5), (30, 30)], tta=2)
    assert found.negative.tolist() == [[30, 30]]
    assert any("1 points lie outside" in note for note in found.notes)
    with pytest.raises(OptionError, match="all positive points lie outside"):
        model.predict(wide, positive=[(5, 5)], tta=1)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"positive": [(64, 3)]}, "outside of the image of 64 x 64"),
        ({"negative": [(3, 3)]}, "add --with positive="),
        ({"artifact_mask": np.ones((64, 64), np.uint8)}, "add --with positive="),
        ({"mask": np.ones((4, 4), np.uint8)}, "the mask is 4 x 4 px"),
        ({"method": "noisecrop"}, "add --with mask="),
        ({"model": "tts-skin"}, "itself"),
        ({"model": "map-vessel"}, "can't be reached by points"),
        ({"model": "timm:resnet18", "model_weights": "."}, "leave them out"),
        ({"auto_mask": "local-global-prototypes"}, "doesn't find one region"),
        ({"model": "local-global-prototypes", "method": "tent"}, "needs the network itself"),
    ],
)
def test_what_cannot_be_done_is_refused(model, case, given, why):
    with pytest.raises(OptionError, match=why):
        model.predict(case.image, tta=1, **given)


def test_an_unknown_model_is_refused(model, case):
    with pytest.raises(PluginError, match="there is no model"):
        model.predict(case.image, model="no-such-model", tta=1)


def test_points_of_a_folder_come_from_one_file(model, tmp_path: Path, case):
    for name in ("a", "b", "c"):
        Image.fromarray(case.image).save(tmp_path / f"{name}.png")
    table = tmp_path / "points.csv"
    table.write_text("image,x,y,kind\na.png,30,30,lesion\na.png,2,2,background\nb,31,30,positive\nb,1,1,ruler\n")
    a, b, c = model.predict_batch([str(tmp_path / f"{n}.png") for n in "abc"], keypoints=str(table), tta=1)
    assert (a.positive.tolist(), a.negative.tolist(), a.options["alpha"]) == ([[30, 30]], [[2, 2]], 0.4)
    assert (b.negative.tolist(), b.options["alpha"]) == ([[1, 1]], 0.2)
    assert not c.tts_applied
    studio = tmp_path / "points.json"
    marks = [{"x": 50, "y": 25, "keypointlabels": ["lesion"]}, {"x": 1, "y": 1, "keypointlabels": ["hair"]}]
    studio.write_text(json.dumps([{"img": "/data/upload/a.jpg", "kp-1": marks}]))
    (found,) = model.predict_batch([str(tmp_path / "a.png")], keypoints=str(studio), tta=1)
    assert found.positive.tolist() == [[31.5, 15.5]]
    assert len(found.negative) == 0
    table.write_text("image,x,y,kind\na.png,30,30,spot\n")
    with pytest.raises(OptionError, match="of the kind 'spot'"):
        model.predict(str(tmp_path / "a.png"), keypoints=str(table), tta=1)
    table.write_text("image,where\na.png,3\n")
    with pytest.raises(DataError, match="the columns image, x, y and kind"):
        model.predict(str(tmp_path / "a.png"), keypoints=str(table), tta=1)


def test_another_model_by_name_finds_the_lesion(model, case, monkeypatch: pytest.MonkeyPatch):
    asked = []

    class Finder:
        plugin = SimpleNamespace(
            task="segmentation", labels=("background", "lesion"), primary_input=SimpleNamespace(kind="image")
        )

        def predict(self, image: media.Image) -> SimpleNamespace:
            return SimpleNamespace(
                mask=case.masks["mask"] * self.found, unlike=False, provenance=SimpleNamespace(weights="demo")
            )

    def load(name: str, **options: object) -> Finder:
        asked.append(name)
        return Finder()

    monkeypatch.setattr(models.inference, "load", load)
    monkeypatch.setattr(models.registry, "find", lambda name: SimpleNamespace(name=name))
    fresh = TtsSkin(SMALL).eval()
    Finder.found = 1
    found = [fresh.predict(case.image, auto_mask="finder", tta=1) for _ in range(2)]
    assert asked == ["finder"]  # loaded once
    assert all(case.masks["mask"][int(y), int(x)] for x, y in found[0].positive)
    assert any("lesion mask by finder" in note for note in found[0].notes)
    Finder.found = 0
    assert not fresh.predict(case.image, auto_mask="finder", tta=1).tts_applied


def test_a_model_of_the_zoo_answers_as_it_does_itself_and_by_its_own_labels(model, case):
    other = zoo.load("local-global-prototypes", device="cpu")
    own = other.predict(case.image)
    found = model.predict(case.image, mask=case.masks["mask"], model="local-global-prototypes", tta=1)
    assert found.baseline == pytest.approx(own.probabilities, abs=1e-5)
    assert found.kept.sum() == 6  # of 64
    assert found.probabilities != pytest.approx(found.baseline, abs=1e-3)
    assert found.unlike == own.unlike
    assert "local-global-prototypes" in found.footer


def test_a_network_of_timm_from_the_hub_brings_its_labels(model, case, tmp_path: Path, monkeypatch):
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file

    torch.manual_seed(0)
    net = timm.create_model("test_resnet", pretrained=False, num_classes=3)
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    stated = {"architecture": "test_resnet", "num_classes": 3, "label_names": ["x", "y", "z"], "pretrained_cfg": {
        "input_size": [3, 64, 64], "mean": [0.5] * 3, "std": [0.5] * 3, "num_classes": 3, "first_conv": "conv1",
        "classifier": "fc"}}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(stated))
    monkeypatch.setattr(models, "fetch_backbone", lambda name, **_: tmp_path)
    found = model.predict(case.image, positive=[(30, 30)], negative=[(2, 2)], model="hf-hub:org/skin", tta=1)
    assert list(found.probabilities) == ["x", "y", "z"]
    x = torch.from_numpy(case.image).permute(2, 0, 1)[None].float() / 255 * 2 - 1
    with torch.no_grad():
        expected = net.eval()(x).softmax(1)[0]
    assert list(found.baseline.values()) == pytest.approx(expected.tolist(), abs=1e-4)
    assert model.predict(case.image, model="hf-hub:org/skin", method="tent", tta=4).method == "tent"
