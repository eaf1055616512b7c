"""Networks by name."""

from __future__ import annotations

import sys

import pytest
import torch

from zoo.data.images import IMAGENET_MEAN, IMAGENET_STD
from zoo.errors import MissingExtraError
from zoo.nn.backbones import Small, build, channels, normalisation, timm_network, torchvision_network


def test_the_small_one_halves_the_image_in_each_convolution_unless_told_otherwise() -> None:
    x = torch.rand(2, 3, 32, 32)
    assert build("small", needed_by="a test", channels=(4, 8, 16), pooled=False)(x).shape == (2, 16, 4, 4)
    assert build("small", needed_by="a test", channels=(4, 8), strides=(1, 2), pooled=False)(x).shape == (2, 8, 16, 16)
    vectors = Small((4, 8))
    assert vectors(x).shape == (2, vectors.width) == (2, 8)
    assert Small((4,), inputs=1)(x[:, :1]).shape == (2, 4)
    with pytest.raises(ValueError, match="zip"):
        Small((4, 8), (2,))


def test_pooled_is_the_mean_of_the_features() -> None:
    network, x = Small((4, 8)).eval(), torch.rand(2, 3, 16, 16)
    assert torch.equal(network(x), network.features(x).mean((2, 3)))


def test_timms_network_without_its_classifier() -> None:
    pytest.importorskip("timm")
    network = build("resnet18", needed_by="a test", num_classes=0).eval()
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert network.features(x).shape == (1, network.width, 2, 2)
        assert torch.allclose(network(x), network.net(x) if network.net(x).ndim == 2 else network.net(x).mean((2, 3)))
        assert build("resnet18", needed_by="a test", pooled=False)(x).shape == (1, 512, 2, 2)
    assert not [name for name, _ in network.named_parameters() if name.startswith("net.fc")]


@pytest.mark.parametrize("name", ["vgg16", "densenet169", "resnet18"])
@torch.no_grad()
def test_bare_maps_are_those_of_torchvisions_features(name: str) -> None:
    """Of torchvision's layers up to the classifier's pooling; VGG's last one is left out."""
    pytest.importorskip("timm")
    bare = build(name, needed_by="a test", pooled=False, bare=True).eval()
    theirs = torchvision_network(name)
    theirs.load_state_dict(bare.net.state_dict(), strict=False)
    layers = list(theirs.eval().children())[:-2] if name == "resnet18" else list(theirs.eval().features.children())
    x = torch.randn(1, 3, 64, 64)
    expected = torch.nn.Sequential(*layers[: -1 if name == "vgg16" else None])(x)
    found = bare(x)
    assert found.shape[-1] == (4 if name == "vgg16" else 2)
    assert bool((found < 0).any()) == (name == "densenet169")
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("resnet18", 512), ("vgg16.tv_in1k", 512), ("densenet169.tv_in1k", 1664), ("efficientnet_b3.ra2_in1k", 1536)],
)
def test_channels_are_those_of_the_feature_map_and_cost_nothing(name: str, expected: int) -> None:
    pytest.importorskip("timm")
    before = torch.random.get_rng_state()
    assert channels(name) == expected
    assert torch.equal(torch.random.get_rng_state(), before)


def test_normalisation_is_that_of_the_weights() -> None:
    pytest.importorskip("timm")
    assert normalisation("small") == normalisation("resnet18.tv_in1k") == (IMAGENET_MEAN, IMAGENET_STD)
    assert normalisation("vit_base_patch16_224.augreg_in1k")[0] == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_missing_library_is_named_with_its_extra(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    make = torchvision_network if library == "torchvision" else lambda name: timm_network(name, needed_by="a test")
    with pytest.raises(MissingExtraError) as refused:
        make("resnet50")
    assert f"needs the library {library}" in str(refused.value)
    assert "medimg-zoo[backbones]" in str(refused.value)


def test_torchvisions_networks_start_at_random() -> None:
    pytest.importorskip("torchvision")
    network = torchvision_network("resnet18", num_classes=5).eval()
    assert network(torch.rand(1, 3, 32, 32)).shape == (1, 5)
