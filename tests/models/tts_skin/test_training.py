"""The classifier's training: balanced draws, carcinomas left out, and what a trap does to it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.models.base import PluginTests
from zoo.claims.types import Claim
from zoo.data.case import Case
from zoo.data.dermoscopy import melanoma_class
from zoo.data.phantoms.skin_trap import skin_trap
from zoo.errors import DataError
from zoo.models.tts_skin import claim as miniature
from zoo.models.tts_skin.model import TtsSkin, TtsSkinConfig
from zoo.models.tts_skin.training import TtsSkinRecipe, drawn, load_images, score, training
from zoo.training import Run

TINY = TtsSkinRecipe(
    network=TtsSkinConfig(backbone="small", image_size=32, small_channels=(8, 12), small_strides=(2, 2)),
    pretrained=False,
    epochs=3,
    batch_size=8,
    lr=1e-2,
)


class TestTtsSkin(PluginTests):
    name = "tts-skin"
    recipe = TINY
    data = "phantom:skin-trap?n=30&size=48"
    evaluated_on = "phantom:skin-trap?n=6&size=96&seed=77000&bias=0.05"


def test_the_defaults_are_the_papers_and_the_codes():
    recipe = training.configure("paper")
    assert (recipe.epochs, recipe.batch_size, recipe.momentum) == (100, 128, 0.9)
    assert (recipe.network.backbone, recipe.network.image_size) == ("resnet50.tv_in1k", 224)
    assert recipe.network.lookup == "bilinear"
    assert training.configure("paper", {"recipe": "released"}).network.lookup == "cell"


def test_classes_are_drawn_equally_often():
    places = [np.arange(90), np.arange(90, 100)]
    with Run(seed=0, device="cpu", progress=False) as run:
        index = np.concatenate([drawn(TINY, places, 100, run, step) for step in range(100)])
    assert 0.45 < (index >= 90).mean() < 0.55


def test_carcinomas_are_left_out_and_all_other_diagnoses_are_benign():
    labels = ("benign", "melanoma")
    assert [melanoma_class(d, labels, "") for d in ("MEL", "NV", "AK", "BKL", "DF", "VASC", "BCC", "SCC")] == [
        1, 0, 0, 0, 0, 0, None, None
    ]  # fmt: skip
    assert melanoma_class("melanoma", labels, "") == 1
    with pytest.raises(DataError):
        melanoma_class("wart", labels, "case 1")
    cases = [skin_trap(i, size=48, diagnosis=d) for i, d in enumerate(("MEL", "SCC", "NV"))]
    assert load_images(cases, TINY.network).y.tolist() == [1, 0]
    assert score(TtsSkin(TINY.network), Case(cases[1].image, "x", label="BCC"), {}) == []


def test_a_class_without_an_image_is_refused():
    images = load_images([skin_trap(i, size=48, diagnosis="NV") for i in range(3)], TINY.network)
    with Run(seed=0, device="cpu", progress=False) as run, pytest.raises(DataError, match="no training image is mel"):
        miniature.fit(TINY, images, images, run)


def test_the_claim_names_its_controls_and_both_readings():
    claim: Claim = miniature.claim
    assert (claim.primary.method, claim.primary.baseline, claim.primary.margin) == ("TTS, 20 pairs", "plain", 0.15)
    assert {"random channels", "random points", "NoiseCrop", "Tent", "T3A"} <= claim.arms.keys()
    assert {c.recipe for c in claim.comparisons} >= {"paper", "released"}
    assert not set(claim.seeds) & set(claim.tuned_on)
