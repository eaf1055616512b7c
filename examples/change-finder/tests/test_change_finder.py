"""What this plugin promises; `zoo check change-finder` tests what every plugin promises."""

from __future__ import annotations

import zoo
from zoo.conformance import check

UNSEEN = "phantom:change-finder?n=12&seed=5000"


def test_it_is_listed():
    assert "change-finder" in zoo.list_models()


def test_the_demo_weights_do_what_their_card_says():
    found = zoo.evaluate("change-finder", UNSEEN, split="all", progress=False)
    for metric, stated in zoo.info("change-finder").weights.metrics.items():
        assert abs(found[metric].mean - stated) < 0.1, metric


def test_it_conforms():
    report = check("change-finder")
    assert report.ok, str(report)
