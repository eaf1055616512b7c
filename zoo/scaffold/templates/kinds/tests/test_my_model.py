"""What this plugin promises; `zoo check my-model` tests what every plugin promises."""

from __future__ import annotations

from my_model.data import METRIC

import zoo
from zoo.conformance import check

UNSEEN = "phantom:my-model?n=12&seed=5000"


def test_it_is_listed():
    assert "my-model" in zoo.list_models()


def test_the_demo_weights_do_what_their_card_says():
    stated = zoo.info("my-model").weights.metrics[METRIC]
    assert zoo.evaluate("my-model", UNSEEN, split="all", progress=False)[METRIC].mean > stated - 0.1


def test_it_conforms():
    report = check("my-model")
    assert report.ok, str(report)
