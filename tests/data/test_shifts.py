"""Small lesions in several looks."""

from __future__ import annotations

import numpy as np
import torch

from zoo.data.shifts import FOREIGN, KINDS, LOOKS, draw_set


def test_a_set_is_a_function_of_its_generator_with_all_classes_alike():
    a, b = (draw_set(LOOKS["blue"], 9, np.random.default_rng(4)) for _ in range(2))
    assert torch.equal(a.views, b.views)
    assert a.y.bincount().tolist() == [3] * len(KINDS)
    assert a.views.shape == (9, 3, 16, 16)


def test_looks_differ_in_colour_more_than_near_copies_do():
    rng = np.random.default_rng(0)
    mean = {name: draw_set(look, 60, rng).views.float().mean((0, 2, 3)) for name, look in LOOKS.items()}
    mean["foreign"] = draw_set(FOREIGN, 60, rng).views.float().mean((0, 2, 3))
    apart = {name: float((mean[name] - mean["brown"]).norm()) for name in mean}
    assert max(apart["brown, near copy"], apart["brown, noisier copy"]) < 8
    assert min(apart[name] for name in ("inverted", "blue", "grey", "foreign")) > 25


def test_stripes_and_checkers_vary_more_than_plain_lesions():
    images = draw_set(LOOKS["inverted"], 60, np.random.default_rng(1))
    centre = images.views[:, :, 5:11, 5:11].float().std((1, 2, 3))
    assert centre[images.y == 0].mean() < centre[images.y == 2].mean() < centre[images.y == 1].mean()
