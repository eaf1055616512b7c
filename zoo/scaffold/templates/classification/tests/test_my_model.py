"""What this plugin promises; `zoo check my-model` tests what every plugin promises."""

from __future__ import annotations

import numpy as np
import pytest

import zoo
from zoo.conformance import check

DATA = "phantom:my-model?n=60&seed=1"
UNSEEN = "phantom:my-model?n=24&seed=5000"


def test_it_is_listed():
    assert "my-model" in zoo.list_models(task="classification")


def test_the_demo_weights_tell_the_nodules_apart():
    result = zoo.evaluate("my-model", UNSEEN, split="all", progress=False)
    assert result["accuracy"].mean > 0.85


def test_training_learns(tmp_path):
    out = zoo.train("my-model", DATA, preset="demo", out=tmp_path / "run", device="cpu")
    after = zoo.evaluate("my-model", UNSEEN, weights=str(out), split="all", progress=False)
    assert after["accuracy"].mean > 0.75


def test_four_views_do_not_depend_on_how_the_image_is_turned():

    from zoo.data.phantoms import make

    image = np.asarray(make("phantom:my-model?seed=7").image)
    model = zoo.load("my-model", device="cpu")
    upright, turned = (model.predict(picture, views="four").probabilities for picture in (image, np.rot90(image)))
    assert upright["smooth"] == pytest.approx(turned["smooth"], abs=1e-4)


def test_it_conforms():
    report = check("my-model")
    assert report.ok, str(report)
