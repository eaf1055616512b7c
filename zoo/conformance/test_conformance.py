"""The checks as tests: ``pytest --pyargs zoo.conformance --model NAME``."""

from __future__ import annotations

import pytest

from zoo.conformance.report import Examination
from zoo.conformance.rules import RULES
from zoo.errors import ZooError


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    names = metafunc.config.getoption("model", None)
    if not names:
        raise pytest.UsageError("say which model to check: pytest --pyargs zoo.conformance --model NAME")
    try:
        examinations = [Examination(name) for name in names]
    except ZooError as error:
        raise pytest.UsageError(str(error)) from error
    cases = [(examination, rule) for examination in examinations for rule in RULES]
    identities = [f"{examination.entry.name}-{rule.replace(' ', '-')}" for examination, rule in cases]
    metafunc.parametrize(("examination", "rule"), cases, ids=identities)


def test_plugin(examination: Examination, rule: str) -> None:
    result = examination.result(rule)
    if result.status == "skipped":
        pytest.skip(result.detail)
    if result.status == "failed":
        pytest.fail(f"{RULES[rule].summary}: {result.detail}", pytrace=False)
