from __future__ import annotations

import numpy as np

from zoo.data.tissue import dense_mask, patches_on, tissue_mask


def test_otsu_finds_stain_and_nothing_on_glass():
    glass = np.full((40, 40, 3), 242, np.uint8) + np.random.default_rng(0).integers(-3, 4, (40, 40, 3)).astype(np.uint8)
    assert not tissue_mask(glass).any()
    glass[10:30, 10:30] = (180, 60, 150)
    mask = tissue_mask(glass)
    assert mask[12:28, 12:28].all()
    assert mask.sum() < 24**2


def test_dense_is_what_differs_from_the_border():
    bright = np.full((20, 20), 20, np.uint8)
    bright[5:15, 5:15] = 200
    for grey in (bright, 255 - bright):
        mask = dense_mask(grey)
        assert mask[7:13, 7:13].all()
        assert not mask[0].any()


def test_patches_cover_what_is_inside_and_nothing_else():
    inside = np.zeros((10, 14), bool)
    inside[:2, :2] = True
    inside[9, 13] = True
    assert patches_on(inside, 4) == [(0, 0), (6, 10)]
    assert patches_on(inside, 4, least=0.2) == [(0, 0)]
    assert patches_on(np.ones((8, 8), bool), 4) == [(0, 0), (0, 4), (4, 0), (4, 4)]
    assert patches_on(np.ones((3, 3), bool), 4) == [(0, 0)]
