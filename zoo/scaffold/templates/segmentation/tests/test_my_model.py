"""What this plugin promises; `zoo check my-model` tests what every plugin promises."""

from __future__ import annotations

import numpy as np

import zoo
from zoo.conformance import check

DATA = "phantom:my-model?n=40&seed=1"
UNSEEN = "phantom:my-model?n=12&seed=5000"


def test_it_is_listed():
    assert "my-model" in zoo.list_models(task="segmentation")


def test_the_demo_weights_find_the_lesions():
    result = zoo.evaluate("my-model", UNSEEN, split="all", progress=False)
    assert result["dice"].mean > 0.8


def test_training_learns(tmp_path):
    before = zoo.evaluate("my-model", UNSEEN, weights="none", split="all", progress=False)
    out = zoo.train("my-model", DATA, preset="demo", out=tmp_path / "run", device="cpu")
    after = zoo.evaluate("my-model", UNSEEN, weights=str(out), split="all", progress=False)
    assert after["dice"].mean > max(0.7, before["dice"].mean + 0.2)


def test_a_higher_threshold_marks_less():
    model = zoo.load("my-model", device="cpu")
    low, high = (model.predict("phantom:my-model?seed=3", threshold=t).mask for t in (0.1, 0.9))
    assert 0 < high.sum() < low.sum()
    assert np.all(low >= high)


def test_it_conforms():
    report = check("my-model")
    assert report.ok, str(report)
