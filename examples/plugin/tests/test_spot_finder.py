"""What this plugin promises; `zoo check spot-finder` tests what every plugin promises."""

from __future__ import annotations

import numpy as np

import zoo
from zoo.conformance import check

DATA = "phantom:spot-finder?n=40&seed=1"
UNSEEN = "phantom:spot-finder?n=12&seed=5000"


def test_it_is_listed():
    assert "spot-finder" in zoo.list_models(task="segmentation")


def test_the_demo_weights_find_the_lesions():
    result = zoo.evaluate("spot-finder", UNSEEN, split="all", progress=False)
    assert result["dice"].mean > 0.8


def test_training_learns(tmp_path):
    before = zoo.evaluate("spot-finder", UNSEEN, weights="none", split="all", progress=False)
    out = zoo.train("spot-finder", DATA, preset="demo", out=tmp_path / "run", device="cpu")
    after = zoo.evaluate("spot-finder", UNSEEN, weights=str(out), split="all", progress=False)
    assert after["dice"].mean > max(0.7, before["dice"].mean + 0.2)


def test_a_higher_threshold_marks_less():
    model = zoo.load("spot-finder", device="cpu")
    low, high = (model.predict("phantom:spot-finder?seed=3", threshold=t).mask for t in (0.1, 0.9))
    assert 0 < high.sum() < low.sum()
    assert np.all(low >= high)


def test_lesions_below_the_minimum_area_are_left_out():
    model = zoo.load("spot-finder", device="cpu")
    everything, nothing = (model.predict("phantom:spot-finder?seed=7", minimum_area=a).mask for a in (0, 64 * 64))
    assert everything.any()
    assert not nothing.any()


def test_it_conforms():
    report = check("spot-finder")
    assert report.ok, str(report)
