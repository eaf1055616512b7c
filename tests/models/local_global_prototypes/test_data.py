"""Photographs on their way into the network, what weights say of their classes, and what a push does with pictures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import zoo
from zoo import weights
from zoo.data.dermoscopy import shades_of_gray
from zoo.data.photographs import prepare, views_of
from zoo.errors import WeightsError
from zoo.models.local_global_prototypes.model import LocalGlobalConfig, LocalGlobalPrototypes
from zoo.nn.gallery import GalleryConfig

SMALL = LocalGlobalConfig(backbone="small", prototypes=2, width=8, image_size=32)


def photograph(side: int) -> np.ndarray:
    """A lesion on skin in yellow light."""
    y, x = np.mgrid[:side, : side + side // 3] / side
    dark = np.exp(-((y - 0.5) ** 2 + (x - 0.6) ** 2) / 0.03)[..., None]
    rgb = np.array([0.85, 0.65, 0.4]) * (1 - 0.6 * dark)
    return np.round(255 * rgb).astype(np.uint8)


def test_a_large_photograph_gives_the_view_of_a_small_one_and_its_light_is_that_of_the_thumbnail():
    large, small = (prepare(photograph(side), 32, True, "a model") for side in (1600, 60))
    assert large.view.shape == small.view.shape == (32, 32, 3)
    assert np.abs(large.view.astype(int) - small.view).mean() < 2
    exact = shades_of_gray(photograph(1600) / np.float32(255))
    assert np.abs(large.view.mean((0, 1)) / 255 - exact[:, 266:1866].mean((0, 1))).max() < 0.01
    assert large.window.side == 1600


def test_small_images_are_balanced_in_full_as_before():
    image = photograph(60)
    balanced = np.round(shades_of_gray(image / np.float32(255)) * 255).astype(np.uint8)
    item = prepare(image, 32, True, "a model")
    assert item.window.side == 60
    assert np.array_equal(item.view, prepare(balanced, 32, False, "a model").view)


def test_views_from_disk_are_those_that_were_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ZOO_VIEWS", str(tmp_path / "views"))
    path = tmp_path / "lesion.bmp"
    Image.fromarray(photograph(400)).save(path)
    first, again = views_of(path, 32, True, "a model"), views_of(path, 32, True, "a model")
    item = prepare(path, 32, True, "a model")
    for found in (first, again):
        assert np.array_equal(found["view"], item.view)
        assert np.array_equal(found["plain"], item.plain)
        assert int(found["digest"][0]) == item.digest
    assert len(list((tmp_path / "views").rglob("*.safetensors"))) == 1


def test_weights_state_the_classes_that_they_were_trained_on(tmp_path: Path):
    model = LocalGlobalPrototypes(replace(SMALL, labels=("wart", "scar")))
    weights.save(model, tmp_path, trained_on="a folder")
    assert json.loads((tmp_path / "config.json").read_text())["labels"] == ["wart", "scar"]
    from zoo.publish import model_card

    record = json.loads((tmp_path / "config.json").read_text())
    assert "Labels: wart, scar" in model_card(model.plugin, record, tmp_path, "org/model").replace("**", "")


def test_pictures_of_training_images_are_published_only_when_asked_for(tmp_path: Path):
    gallery = GalleryConfig(ids=("patient-7",), jpeg_bytes=30)
    model = LocalGlobalPrototypes(replace(SMALL, gallery=gallery))
    folder = weights.save(model, tmp_path / "weights", trained_on="isic2019:ISIC")
    with pytest.raises(WeightsError, match=r"small pictures of the images.*--with-pictures"):
        zoo.push(folder, "org/model", dry_run=True)
    assert "model.safetensors" in zoo.push(folder, "org/model", dry_run=True, pictures=True).files
    named = LocalGlobalPrototypes(replace(SMALL, gallery=replace(gallery, jpeg_bytes=0)))
    assert zoo.push(weights.save(named, tmp_path / "names", trained_on="isic2019:ISIC"), "org/m", dry_run=True).files
    drawn = weights.save(model, tmp_path / "drawn", trained_on="phantom:skin-lesion?n=3")
    assert zoo.push(drawn, "org/model", dry_run=True).files
