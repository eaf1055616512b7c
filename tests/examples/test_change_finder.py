"""The package in ``examples/change-finder``: a detector with two named images."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
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
    assert all(counts[seed] for seed in (1, 2, 3, 5, 6))  # 14 pixels of the last one are new, the rest is hidden


def test_its_boxes_lie_on_what_is_new(finder):
    """A box ends at places of a quarter of the side, so it is off by a pixel or two of 64, but not to one side."""
    model, draw = finder
    shared, off = [], []
    for seed in [seed for seed in range(7000, 7040) if seed % 4]:
        case = draw(seed)
        rows, columns = np.nonzero(case.masks["mask"])
        if rows.size < 60:  # hidden by one that was there
            continue
        (box, *_) = model.predict(case).boxes
        truth = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        width, height = (min(a, b) - max(c, d) for a, b, c, d in (
            (box.x1, truth[2], box.x0, truth[0]), (box.y1, truth[3], box.y0, truth[1])
        ))  # fmt: skip
        both = max(width, 0) * max(height, 0)
        one = (box.x1 - box.x0) * (box.y1 - box.y0) + (truth[2] - truth[0]) * (truth[3] - truth[1])
        shared.append(both / (one - both))
        off.append(((box.x0 + box.x1 - truth[0] - truth[2]) / 2, (box.y0 + box.y1 - truth[1] - truth[3]) / 2))
    assert len(shared) > 20
    assert np.mean(shared) > 0.6
    assert np.abs(np.mean(off, axis=0)).max() < 0.5


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
