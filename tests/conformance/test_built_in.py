"""Our own plugins keep the promises that we ask of others: each check once for a model."""

from __future__ import annotations

import pytest

from zoo import registry
from zoo.conformance.rules import RULES
from zoo.extras import DISTRIBUTION

BUILT_IN = [entry.name for entry in registry.entries() if entry.distribution == DISTRIBUTION]
MAY_BE_SKIPPED = ("sample", "phantom", "cuda")


def test_there_are_some():
    assert "map-vessel" in BUILT_IN


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.replace(" ", "-"))
@pytest.mark.parametrize("name", BUILT_IN)
def test_a_plugin_of_ours_conforms(examination, name, rule):
    result = examination(name).result(rule)
    if result.status == "skipped" and rule in MAY_BE_SKIPPED:
        pytest.skip(result.detail)
    assert result.status == "passed", f"{RULES[rule].summary}: {result.detail}"
