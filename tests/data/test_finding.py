"""Layouts and phantoms of other distributions are found like ours: broken ones alone, contested ones by nobody."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from zoo.data.finding import Found
from zoo.data.sets import layouts
from zoo.errors import DataError, MissingExtraError
from zoo.spec import Spec, is_kind

MODULE = """
import numpy as np
from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry, Layout

def dots(seed: int, *, size: int = 8) -> Case:
    '''Dots.'''
    return Case(np.full((size, size), seed, np.uint8), f"dots-{seed}", masks={"mask": np.eye(size, dtype=np.uint8)})

def read(spec, root):
    return Dataset(spec, [Entry(p.stem, Case(str(p), p.stem)) for p in sorted(root.glob("*.dots"))])

layout = Layout("Dots", read, licence="CC0 1.0")
"""

SCRIPT = """
import json, sys
from zoo import media
from zoo.data.phantoms import PHANTOMS, make, summary
from zoo.data.sets import layouts, load_dataset
from zoo.errors import ZooError

def attempt(function, *given):
    try:
        return function(*given)
    except ZooError as error:
        return str(error)

print(json.dumps({
    "ids": load_dataset("dots:" + sys.argv[1]).ids,
    "drawn": load_dataset("phantom:dots?n=2&size=4&seed=5")[1].image.tolist(),
    "read": media.read("phantom:dots?seed=3").size,
    "summary": summary("dots"),
    "broken": [attempt(load_dataset, "torn:" + sys.argv[1]), summary("torn")],
    "contested": attempt(make, "phantom:fundus"),
    "whole": [len(layouts()), "fundus" in PHANTOMS, attempt(lambda: make("phantom:chest-xray?size=64").id)],
}))
"""


def distribution(site: Path, name: str, *lines: str) -> None:
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


def test_an_outside_distribution_adds_a_layout_and_a_phantom(tmp_path: Path):
    site, data = tmp_path / "site", tmp_path / "data"
    data.mkdir()
    (data / "a.dots").touch()
    distribution(
        site, "dot-zoo",
        "[zoo.phantoms]", "dots = dot_zoo:dots", "torn = no_such_module:draw", "fundus = dot_zoo:dots",
        "[zoo.layouts]", "dots = dot_zoo:layout", "torn = dot_zoo:absent",
    )  # fmt: skip
    (site / "dot_zoo.py").write_text(MODULE)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(data)], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["ids"] == ["a"]
    assert found["drawn"] == [[6] * 4] * 4
    assert found["read"] == [8, 8]
    assert found["summary"] == "Dots"
    broken = "'torn' of dot-zoo is broken ({}); update or uninstall dot-zoo"
    assert found["broken"] == [
        "the layout " + broken.format("AttributeError: module 'dot_zoo' has no attribute 'absent'"),
        "the phantom " + broken.format("ModuleNotFoundError: No module named 'no_such_module'"),
    ]
    assert found["contested"] == "the phantom 'fundus' is claimed by dot-zoo and medimg-zoo; uninstall one of them"
    assert found["whole"] == [len(layouts()) + 2, True, "chest-xray-0"]


def test_a_library_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "needs_more.py").write_text("import a_library_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtraError, match="a_library_nobody_has"):
        Found("phantom", "more", "needs_more:draw", ("dot-zoo",)).load()


def test_every_layout_of_ours_can_be_read():
    with pytest.raises(DataError, match="is claimed by a and b"):
        Found("layout", "x", "x:y", ("a", "b")).load()
    for layout in layouts().values():
        read = layout.load()
        assert read.title
        assert read.licence


@pytest.mark.parametrize(
    ("text", "kind", "name", "options"),
    [("phantom:fundus?seed=7&style=a%20b", "phantom", "fundus", {"seed": "7", "style": "a b"}),
     ("sample:retina", "sample", "retina", {}), ("pairs:a/b", "pairs", "a/b", {}), ("scan.png", "", "scan.png", {}),
     ("phantom:?n=", "phantom", "", {"n": ""})],
)  # fmt: skip
def test_a_name_is_a_kind_and_what_it_is_told(text: str, kind: str, name: str, options: dict[str, str]):
    spec = Spec.parse(text)
    assert (spec.kind, spec.name, spec.options, str(spec)) == (kind, name, options, text)
    assert is_kind(text, "phantom", "sample") == (kind in ("phantom", "sample"))
    assert not is_kind(3, "phantom")


def test_further_options_replace_those_of_the_same_name():
    assert str(Spec.parse("phantom:a?n=2&seed=1").with_options(seed=5, size=8)) == "phantom:a?n=2&seed=5&size=8"
    assert str(Spec.parse("phantom:a").with_options(seed=0)) == "phantom:a?seed=0"
