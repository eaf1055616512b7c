"""What people look for at the root of a project says the same as the package."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from zoo._version import __version__

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).resolve().parent.parent

if not (ROOT / "setup.py").is_file():
    pytest.skip("needs the source checkout", allow_module_level=True)

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def workflow(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8"))


def test_citation_and_changelog_name_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert citation["license"] == PROJECT["project"]["license"]
    assert f"\n## {__version__} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_links_between_files_lead_somewhere(name: str):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / name).read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), target


def test_wheels_are_made_for_every_python_that_is_allowed():
    lowest = int(PROJECT["project"]["requires-python"].removeprefix(">=3."))
    assert PROJECT["tool"]["cibuildwheel"]["build"][0] == f"cp3{lowest}-*"
    tried = {case["python"] for case in workflow("ci.yml")["jobs"]["tests"]["strategy"]["matrix"]["include"]}
    tried.add(workflow("ci.yml")["jobs"]["gate"]["steps"][1]["with"]["python-version"])
    wheels = {re.sub(r"cp3(\d+)-\*", r"3.\1", one) for one in PROJECT["tool"]["cibuildwheel"]["build"]}
    assert wheels <= tried


@pytest.mark.parametrize("name", ["ci.yml", "release.yml"])
def test_workflows_may_read_and_only_the_last_step_may_publish(name: str):
    found = workflow(name)
    assert found["permissions"] == {"contents": "read"}
    for job, told in found["jobs"].items():
        assert told["timeout-minutes"] <= 180
        assert told.get("permissions", {}) == ({"id-token": "write"} if job == "publish" else {})
        for step in told["steps"]:
            assert ("uses" in step) != ("run" in step)
            assert "secrets." not in str(step)
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


def test_no_transformers_is_allowed_that_runs_what_a_configuration_names():
    extras = PROJECT["project"]["optional-dependencies"]
    asked = [one for needs in extras.values() for one in needs if one.startswith("transformers")]
    assert asked
    assert set(asked) == {"transformers>=5.3"}
