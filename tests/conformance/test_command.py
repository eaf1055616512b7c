"""``zoo check`` and ``pytest --pyargs zoo.conformance``: the same checks for people, programs and CI."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from zoo.conformance.rules import RULES

CHEAP = ("card", "build", "json")


def test_the_table_tells_what_was_found_and_the_exit_code_is_0(toy, zoo_cli):
    toy()
    ran = zoo_cli("check", "toy-model", *(f"--only={name}" for name in CHEAP))
    assert ran.code == 0, ran.out + ran.err
    lines = ran.out.splitlines()
    assert lines[0] == "toy-model of toy-zoo 1.2"
    assert [line.split()[:2] for line in lines if line.startswith(CHEAP)] == [[name, "passed"] for name in CHEAP]
    assert lines[-1] == "3 passed, 0 failed, 0 skipped"


def test_a_failure_gives_exit_code_1_in_both_forms(toy, zoo_cli):
    toy(('summary="Marks what is bright."', 'summary=""'))
    ran = zoo_cli("check", "toy-model", "--only", "card")
    assert ran.code == 1
    assert "the card leaves summary empty; fill it in" in ran.out
    ran = zoo_cli("check", "toy-model", "--only", "card", "--json")
    assert ran.code == 1
    report = json.loads(ran.out)
    assert report["ok"] is False
    assert report["results"][0]["status"] == "failed"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["check", "no-such-model"], "there is no model 'no-such-model'"),
        (["check", "toy-model", "--only", "buidl"], "there is no check 'buidl'; did you mean 'build'?"),
    ],
)
def test_wrong_names_are_refused(toy, zoo_cli, arguments, reason):
    toy()
    assert reason in zoo_cli(*arguments).refused


def pytest_run(*arguments: str, site: str = "", cwd: os.PathLike[str]) -> subprocess.CompletedProcess[str]:
    if not [point for point in entry_points(group="pytest11") if point.value == "zoo.conformance.pytest_plugin"]:
        pytest.skip("the installed zoo is older than its pytest plugin")
    environment = {**os.environ, "PYTHONPATH": site, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_as_tests_of_an_authors_ci(toy, tmp_path):
    site = toy(('summary="Marks what is bright."', 'summary=""'))
    ran = pytest_run("--pyargs", "zoo.conformance", "--model", "toy-model", "-v", "-k", "card or build", site=str(site),
                     cwd=tmp_path)  # fmt: skip
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert f"1 failed, 1 passed, {len(RULES) - 2} deselected" in ran.stdout
    assert "test_plugin[toy-model-build] PASSED" in ran.stdout
    assert "test_plugin[toy-model-card] FAILED" in ran.stdout
    assert "its metadata are complete: the card leaves summary empty; fill it in" in ran.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [([], "say which model to check"), (["--model", "no-such-model"], "there is no model 'no-such-model'")],
)
def test_pytest_says_what_is_missing(tmp_path, arguments, reason):
    ran = pytest_run("--pyargs", "zoo.conformance", *arguments, cwd=tmp_path)
    assert ran.returncode != 0
    assert reason in ran.stdout + ran.stderr


@pytest.mark.slow
def test_an_option_of_the_same_name_stays_that_of_other_peoples_tests(tmp_path):
    (tmp_path / "conftest.py").write_text(
        "def pytest_addoption(parser):\n    parser.addoption('--model', default='theirs')\n"
    )
    (tmp_path / "test_theirs.py").write_text(
        "import sys\n\ndef test_it(request):\n    assert request.config.getoption('--model') == 'mine'\n"
        "    assert 'torch' not in sys.modules\n"
    )
    ran = pytest_run("--model", "mine", cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
