"""The tutorial works as printed, and its reader ends with ``examples/plugin``."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "write-a-plugin.md"
EXAMPLE = ROOT / "examples" / "plugin"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

if not PAGE.is_file():
    pytest.skip("needs the source checkout", allow_module_level=True)


def blocks() -> list[tuple[str, str]]:
    return BLOCK.findall(PAGE.read_text(encoding="utf-8"))


def sources(folder: Path) -> dict[str, str]:
    """What an author writes: not the trained numbers, nor what tools leave behind."""
    kept = [*folder.glob("src/**/*.py"), *folder.glob("tests/*.py"), *folder.glob("*.*"), *folder.glob(".*/**/*.yml")]
    kept += [folder / ".gitignore", *folder.glob("src/*/demo/config.json")]
    return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in kept if path.is_file()}


def test_every_block_is_of_a_kind_that_is_run():
    kinds = [kind for kind, _ in blocks()]
    assert len(kinds) > 12
    assert set(kinds) == {"bash", "diff"}


def test_the_edits_of_the_tutorial_make_the_example(tmp_path):
    from zoo import scaffold

    folder = scaffold.new("spot-finder", "segmentation", tmp_path).folder
    for kind, text in blocks():
        if kind == "diff":
            apply(text, folder)
    assert sources(folder) == sources(EXAMPLE)
    ours, theirs = (path / "src/spot_finder/demo/model.safetensors" for path in (folder, EXAMPLE))
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.slow
def test_every_block_of_the_tutorial_works_in_order(environment, local_hub, tmp_path):
    place = tmp_path / "author"
    place.mkdir()
    said = ""
    for kind, text in blocks():
        if kind == "diff":
            apply(text, place)
            continue
        # The folder that a block changes to is where the next one runs.
        script = f"set -euo pipefail\n{text}\npwd > {tmp_path / 'where'}\n"
        said += environment.command("bash", "-c", script, cwd=place)
        place = Path((tmp_path / "where").read_text().strip())
    assert place.name == "spot-finder"
    assert (place / "predictions" / "spot-finder-seed-3.png").stat().st_size > 1000
    assert "verdict: supported" in said
    assert " passed, 0 failed, 2 skipped" in said
    assert "nothing was sent to org/spot-finder" in said
    assert "model.safetensors" in local_hub.files("org/spot-finder")
    assert len(list((place / "dist").glob("spot_finder-0.1.0-*.whl"))) == 1
    assert sources(place) == sources(EXAMPLE)


def apply(diff: str, folder: Path) -> None:
    command = ["git", "apply", "--verbose", "-"]
    done = subprocess.run(command, input=diff, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
