"""Networks taken apart at their last map: all channels give the whole network's answer, whatever it is made of."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from zoo.errors import OptionError
from zoo.nn.backbones import Small
from zoo.nn.last_map import Hooked, Pooled, Timm


def every(maps: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(maps[None, :, :, 0, 0])


def none_and_every(maps: torch.Tensor) -> torch.Tensor:
    return torch.cat([every(maps) * 0, every(maps)])


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "size", "places"),
    [
        ("resnet18", 64, (2, 2)),  # b c h w
        ("test_vit", 160, (10, 10)),  # tokens with a class token
        ("test_efficientnet", 64, (2, 2)),
        pytest.param("swin_tiny_patch4_window7_224", 224, (7, 7), marks=pytest.mark.slow),  # b h w c
        pytest.param("convnext_atto", 64, (2, 2), marks=pytest.mark.slow),  # a norm after the pooling
        pytest.param("vgg11", 64, (2, 2), marks=pytest.mark.slow),
    ],
)
def test_all_channels_of_a_timm_network_are_the_network(name: str, size: int, places: tuple[int, int]):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    net = timm.create_model(name, pretrained=False, num_classes=3).eval()
    x = torch.randn(2, 3, size, size)
    maps, logits = Timm(net)(x, none_and_every)
    assert maps.shape[2:] == places
    assert torch.allclose(logits[1], net(x), atol=1e-5)
    assert torch.allclose(logits[0][0], logits[0][1], atol=1e-5)  # nothing of the image is left


@torch.no_grad()
def test_a_mask_of_tokens_reaches_the_class_token_which_has_no_place():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    net = timm.create_model("test_vit", pretrained=False, num_classes=2).eval()
    tokens = net.forward_features(torch.randn(1, 3, 160, 160))
    apart = Timm(net)
    maps = apart._on_grid(tokens, "tokens")
    assert torch.equal(maps[0, :, 0, 0], tokens[0, 1])
    assert torch.equal(maps[0, :, 1, 0], tokens[0, 11])


@torch.no_grad()
def test_a_hook_gives_what_taking_apart_gives():
    torch.manual_seed(0)
    net = Pooled(Small((4, 6), pooled=False), 6, 2).eval()
    x = torch.randn(3, 3, 16, 16)
    mask = (torch.rand(2, 3, 6) < 0.5).float()
    maps, logits = Timm(net)(x, lambda _: mask)
    for answer, log in ((net, False), (lambda x: net(x).softmax(1), True)):
        hooked, found = Hooked(answer, net.backbone, log=log)(x, lambda _: mask)
        assert torch.allclose(hooked, maps)
        assert torch.allclose(found.softmax(-1), logits.softmax(-1), atol=1e-6)
    assert not net.backbone._forward_hooks


def test_what_has_no_places_is_refused():
    class Flat(nn.Module):
        def forward_features(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)

    with pytest.raises(OptionError, match="no map with places"):
        Timm(Flat())(torch.zeros(1, 3, 4, 4), every)
    net = Pooled(Small((4,), pooled=False), 4, 2)
    with pytest.raises(OptionError, match="doesn't give one map"):
        Hooked(net, net.head)(torch.zeros(1, 3, 8, 8), every)
    with pytest.raises(OptionError, match="takes no part"):
        Hooked(net, nn.Identity())(torch.zeros(1, 3, 8, 8), every)
