"""What this plugin promises; `zoo check my-model` tests what every plugin promises."""

from __future__ import annotations

import zoo
from zoo.conformance import check

UNSEEN = "phantom:my-model?n=40&seed=1000"  # what the numbers on the card were measured on


def test_it_is_listed():
    assert "my-model" in zoo.list_models()


def test_the_demo_weights_do_what_their_card_says():
    found = zoo.evaluate("my-model", UNSEEN, split="all", progress=False)
    for metric, stated in zoo.info("my-model").weights.metrics.items():
        assert abs(found[metric].mean - stated) < 0.1, metric


def test_it_conforms():
    report = check("my-model")
    assert report.ok, str(report)
