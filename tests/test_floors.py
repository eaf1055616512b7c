"""The floors of the house: the import contracts hold, and each of them notices what it is there for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

if not (ROOT / "setup.py").is_file():
    pytest.skip("needs the source checkout", allow_module_level=True)
pytest.importorskip("importlinter")

LINT = "from importlinter.cli import lint_imports_command as lint; lint()"
KEPT = "Contracts: 4 kept, 0 broken."


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The modules as a wheel puts them together, with registry/ and cli/ inside zoo/."""
    here = shutil.ignore_patterns("__pycache__", "templates", "demo", "*.so", "*.json", "*.md")
    for source, target in (("zoo", "zoo"), ("registry", "zoo/registry"), ("cli", "zoo/cli")):
        shutil.copytree(ROOT / source, tmp_path / target, ignore=here)
    return tmp_path / "zoo"


def lint(package: Path) -> str:
    """What import-linter says of a package by the contracts in pyproject.toml."""
    environment = {**os.environ, "PYTHONPATH": str(package.parent)}
    command = [sys.executable, "-c", LINT, "--no-cache", "--no-logo", str(ROOT / "pyproject.toml")]
    done = subprocess.run(command, cwd=package.parent, env=environment, capture_output=True, text=True, timeout=120)
    text = done.stdout + done.stderr
    assert (done.returncode == 0) == (KEPT in text), text
    return text


def plant(path: Path, line: str) -> None:
    path.write_text(path.read_text(encoding="utf-8") + f"\n\n{line}\n", encoding="utf-8")


def test_the_contracts_are_kept(package: Path):
    assert KEPT in lint(package), lint(package)


@pytest.mark.parametrize(
    ("where", "line", "contract", "sentence"),
    [
        (
            "models/map_vessel/model.py",
            "from zoo.models.meldd import plugin as other",
            "No plugin imports another BROKEN",
            "zoo.models.map_vessel.model -> zoo.models.meldd",
        ),
        (
            "models/map_vessel/model.py",
            "def late():\n    from zoo.models import meldd",  # a late import is one all the same
            "No plugin imports another BROKEN",
            "zoo.models.map_vessel.model -> zoo.models.meldd",
        ),
        (
            "storage.py",
            "if TYPE_CHECKING:\n    from zoo.media import Image",  # and one for types alone
            "A room imports only from floors below its own BROKEN",
            "zoo.storage -> zoo.media",
        ),
        (
            "data/case.py",
            "from zoo.data.splits import TrainData",
            "No circles BROKEN",
            "No cycles are allowed in zoo.data.",
        ),
        (
            "training/recipe.py",
            "from zoo import load",
            "Nobody below the public API imports it BROKEN",
            "zoo.training.recipe -> zoo",
        ),
    ],
)
def test_what_a_contract_forbids_is_found(package: Path, where: str, line: str, contract: str, sentence: str):
    plant(package / where, line)
    said = lint(package)
    assert contract in said
    assert sentence in said


def test_a_room_without_a_floor_is_found(package: Path):
    (package / "attic.py").write_text('"""Nobody said where this belongs."""\n')
    assert "zoo.attic" in lint(package)
