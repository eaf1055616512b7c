"""The package in ``examples/change-finder``: a detector with two named images."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from zoo import inputs
from zoo.errors import MediaError, OptionError

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "examples" / "change-finder" / "src"

if not SOURCE.is_dir():
    pytest.skip("needs the source checkout", allow_module_level=True)


@pytest.fixture
def finder(monkeypatch):
    monkeypatch.syspath_prepend(str(SOURCE))
    model = import_module("change_finder.model").ChangeFinder()  # as it's installed, but for the name of its package
    tensors = load_file(SOURCE / "change_finder/demo/model.safetensors")
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    yield model.eval(), import_module("change_finder.phantom").draw
    for name in [name for name in sys.modules if name.startswith("change_finder")]:
        del sys.modules[name]


def test_it_finds_what_is_new_and_nothing_where_nothing_is(finder):
    model, draw = finder
    counts = [len(model.predict(draw(seed)).boxes) for seed in range(7000, 7008)]
    assert counts[::4] == [0, 0]  # every fourth shows nothing new
    assert all(counts[seed] for seed in (1, 2, 3, 5, 6, 7))


def test_today_and_before_are_told_apart_by_name_and_by_table(finder, tmp_path):
    model, draw = finder
    case = draw(7001)
    for name, image in (("today", case.image), ("before", case.inputs["prior"])):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    (tmp_path / "cases.csv").write_text("current,prior\ntoday.png,before.png\n")
    (line,) = inputs.expand(model.plugin, [tmp_path / "cases.csv"])
    by_name = model.predict(str(tmp_path / "today.png"), prior=str(tmp_path / "before.png"))
    assert model.predict(line).boxes == by_name.boxes == model.predict(case).boxes
    assert set(by_name.inputs) == {"current", "prior"}
    with pytest.raises(OptionError, match=r"change-finder needs prior .*; add --with prior=FILE"):
        model.predict(case.image)
    with pytest.raises(MediaError, match="prior is"):
        model.predict(case.image, prior=case.image[:32])
