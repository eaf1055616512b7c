"""Sets of textured lesions."""

from __future__ import annotations

import numpy as np
import torch

from zoo.data.textures import TEXTURES, draw_set


def test_a_set_has_so_many_of_each_texture():
    images = draw_set((3, 2, 1, 1, 1), np.random.default_rng(0))
    assert images.views.shape == (8, 3, 32, 32)
    assert images.y.tolist() == [0, 0, 0, 1, 1, 2, 3, 4]
    again = draw_set((3, 2, 1, 1, 1), np.random.default_rng(0))
    assert torch.equal(images.views, again.views)
    assert len(TEXTURES) == 5
