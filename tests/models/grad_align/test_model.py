"""The network of the paper, and predictions that state no epsilon which the training doesn't give."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from zoo import loading, weights
from zoo.data.phantoms.chest import chest_xray
from zoo.errors import MediaError
from zoo.media import read
from zoo.models.grad_align.model import GradAlign, GradAlignConfig, ResNet9, prepare
from zoo.models.grad_align.result import Privacy, badge

SMALL = GradAlignConfig(channels=(4, 8, 8), groups=4, side=32)
STRICT = Privacy("strict", 7.9, 1e-5, "cov", 1.2, 2.0, 0.05, 0.0, 0.1, 200, 150, secret=True)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.asarray(chest_xray(4, size=96).image)


def model(privacy: Privacy | None = None) -> GradAlign:
    torch.manual_seed(0)
    return GradAlign(SMALL if privacy is None else replace(SMALL, privacy=privacy)).eval()


def test_the_papers_network_has_1024_features_and_its_parameters():
    network = ResNet9(3, 10)
    assert sum(p.numel() for p in network.parameters()) == 2_450_186
    assert network.head[-1].in_features == 1024
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_norm_follows_the_activation_and_no_layer_mixes_images():
    network = ResNet9(1, 3)
    assert [type(layer) for layer in network.stem[0]] == [nn.Conv2d, nn.Mish, nn.GroupNorm]
    assert not [layer for layer in network.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    assert not list(network.buffers())
    x = torch.rand(3, 1, 32, 32)
    other = torch.cat([x[:1], torch.rand(2, 1, 32, 32)])
    assert torch.allclose(network(x)[0], network(other)[0], atol=1e-5)


@pytest.mark.parametrize("size", [(16, 16), (33, 50), (224, 224)])
def test_images_of_any_size_go_through(size: tuple[int, int]):
    assert ResNet9(1, 3, (4, 8, 8), 4)(torch.rand(1, 1, *size)).shape == (1, 3)


def test_scale_norm_closes_each_residual():
    block = ResNet9(1, 3, (4, 8, 8), 4).residual1
    out = block(torch.randn(2, 8, 16, 16))
    groups = out.view(2, 4, -1)
    assert groups.mean(-1).abs().max() < 1e-5
    assert (groups.var(-1) - 1).abs().max() < 1e-2


def test_brightness_and_contrast_of_an_image_make_no_difference(image: np.ndarray):
    a = prepare(read(image), 32)
    b = prepare(read((image * 0.5).astype(np.float32) / 255), 32)
    assert np.allclose(a, b, atol=1e-2)
    assert prepare(read(np.zeros((20, 20), np.uint8)), 32).max() == 0


@pytest.mark.parametrize(
    "privacy",
    [
        Privacy("nonprivate", math.inf, 1e-5, "cov", 0.8, None, None, 0.0, 0.1, 200),
        Privacy("nonprivate", math.inf, 1e-5, "none", 0.8, None, None, None, 0.1, 200),
        Privacy("nonprivate", 3.0, 1e-5, "cov", 0.8, None, None, 0.0, 0.1, 200),  # whatever the record says
        Privacy(),
    ],
)
def test_no_epsilon_is_printed_for_weights_without_a_private_similarity(image: np.ndarray, privacy: Privacy):
    result = model(privacy).predict(image)
    record = result.to_dict()
    assert record["privacy"]["epsilon"] is None
    assert record["privacy"]["delta"] is None
    assert "(3.00" not in json.dumps(record) + result.summary()
    assert result.figure().width > 1200


def test_a_guarantee_is_stated_with_its_mechanisms(image: np.ndarray):
    result = model(STRICT).predict(image)
    record = json.loads(json.dumps(result.to_dict()))["privacy"]
    assert (record["epsilon"], record["delta"], record["accounting"]) == (7.9, 1e-5, "strict")
    assert len(record["mechanisms"]) == 2
    assert "at most 150" in record["mechanisms"][1]
    assert "(7.90, 1e-05)-differentially private" in result.summary()


def test_a_privacy_statement_approves_of_no_diagnosis():
    """Beside a wrong class a green epsilon reads as "right"."""
    for privacy in (STRICT, replace(STRICT, accounting="paper"), Privacy()):
        pixels = np.asarray(badge(privacy)).astype(int).reshape(-1, 3)
        assert not ((pixels[:, 1] > pixels[:, 0] + 20) & (pixels[:, 1] > pixels[:, 2] + 20)).any()


def test_the_papers_accounting_is_called_unproven(image: np.ndarray):
    result = model(replace(STRICT, accounting="paper", batch_cap=None)).predict(image)
    assert "not proven" in result.to_dict()["privacy"]["statement"]
    plain = replace(STRICT, accounting="paper", filter="none", tau=None)
    assert "not proven" not in plain.sentence()


def test_the_ledger_travels_with_the_weights(tmp_path, image: np.ndarray):
    trained = model(STRICT)
    weights.save(trained, tmp_path, trained_on="nothing")
    back = loading.load_into(GradAlign, str(tmp_path))
    assert back.config.privacy == STRICT
    assert back.predict(image).privacy == STRICT
    none = model(Privacy("nonprivate", math.inf, 1e-5))
    weights.save(none, tmp_path, trained_on="nothing")
    assert loading.load_into(GradAlign, str(tmp_path)).config.privacy.epsilon == math.inf


def test_impossible_channels_are_refused():
    with pytest.raises(ValueError, match="channels"):
        GradAlignConfig(channels=(4, 0, 8))


def test_an_image_that_is_no_radiograph_is_marked(image: np.ndarray):
    colours = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    assert model().predict(image).notes == ()
    assert model().predict(np.repeat(image[..., None], 3, axis=2)).notes == ()
    assert "made for frontal chest radiographs" in model().predict(colours).notes[0]
    with pytest.raises(MediaError, match="single level"):
        model().predict(np.full((40, 40), 90, np.uint8))
