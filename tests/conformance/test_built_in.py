"""Our own plugins keep the promises that we ask of others."""

from __future__ import annotations

import pytest

from zoo import registry
from zoo.conformance import check
from zoo.extras import DISTRIBUTION

BUILT_IN = [entry.name for entry in registry.entries() if entry.distribution == DISTRIBUTION]


def test_there_are_some():
    assert "map-vessel" in BUILT_IN


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILT_IN)
def test_a_plugin_of_ours_conforms(name):
    report = check(f"{DISTRIBUTION}:{name}")
    assert report.ok, str(report)
    skipped = {result.check for result in report.results if result.status == "skipped"}
    assert skipped <= {"sample", "phantom", "cuda"}, str(report)
