"""Retinal photographs: their field of view, and vessels made bright."""

from __future__ import annotations

import numpy as np

from zoo.data.fundus import field_of_view, vessel_contrast
from zoo.data.phantoms.fundus import fundus


def test_clip_limit_keeps_flat_regions_flat():
    field = np.ones((128, 128), bool)
    flat = 0.5 + 0.01 * np.random.default_rng(0).standard_normal((128, 128))
    gentle = vessel_contrast(flat, field, clip_limit=2.0)
    harsh = vessel_contrast(flat, field, clip_limit=256.0)
    assert gentle.std() < harsh.std()


def test_field_of_view_is_found():
    for seed in range(4):
        case = fundus(seed, size=256)
        found, truth = field_of_view(np.asarray(case.image, np.float32) / 255), case.masks["fov"] > 0
        assert (found & truth).sum() / (found | truth).sum() > 0.95


def test_image_without_surround_is_all_field_of_view():
    crop = fundus(0, size=256).image[80:176, 80:176]
    assert field_of_view(np.asarray(crop, np.float32) / 255).mean() > 0.98


def test_black_image_is_all_field_of_view():
    assert field_of_view(np.zeros((32, 32, 3), np.float32)).all()
