"""A part of a network computes what the whole one does with all other units silent, and is written back exactly."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from zoo.nn.backbones import build
from zoo.nn.units import INPUT, activations, features_of, slim, spaces_of, widths_of, write_back

NAMES = ("small", "resnet18", "resnet50")


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    net = build(name, needed_by="a test", channels=(10, 15, 20)).eval()
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.bias, std=0.2)
            nn.init.uniform_(m.running_var, 0.5, 2.0)
    return net


def some(net: nn.Module, start: int) -> dict[str, torch.Tensor]:
    """Every fifth unit of each space."""
    return {space: torch.arange(start, width, 5) for space, width in widths_of(net).items()}


@pytest.mark.parametrize("name", NAMES)
def test_a_part_is_the_whole_network_with_silent_others(name: str):
    net, x = network(name), torch.randn(2, 3, 64, 64)
    units = some(net, 1)
    masked = copy.deepcopy(net)
    for layer, (_, written) in spaces_of(net).items():
        module = dict(masked.named_modules())[layer]
        if isinstance(module, nn.BatchNorm2d):
            silent = torch.ones(len(module.weight), dtype=torch.bool)
            silent[units[written]] = False
            with torch.no_grad():
                module.weight[silent], module.bias[silent] = 0.0, 0.0
    part = slim(net, units).eval()
    assert torch.allclose(part(x), masked(x)[:, units[features_of(net)]], atol=1e-5)
    assert sum(p.numel() for p in part.parameters()) < 0.1 * sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_a_part_that_learns_moves_nothing_of_the_others(name: str):
    net, x = network(name), torch.randn(4, 3, 64, 64)
    mine, other = some(net, 0), some(net, 1)
    before, part = slim(net, other).eval()(x), slim(net, mine).train()
    adam = torch.optim.AdamW(part.parameters(), lr=0.1, weight_decay=0.1)
    part(x).square().mean().backward()
    adam.step()
    write_back(net, part, mine)
    assert torch.equal(slim(net, other).eval()(x), before)
    assert torch.equal(slim(net, mine).eval()(x), part.eval()(x))


def test_blocks_that_are_added_share_their_units():
    spaces = spaces_of(network("resnet50"))
    assert spaces["net.conv1"] == (INPUT, "net.conv1")
    assert spaces["net.layer1.0.downsample.0"] == ("net.conv1", "layer1")
    assert spaces["net.layer1.0.conv3"] == ("layer1.0.2", "layer1")
    assert spaces["net.layer2.0.conv1"] == ("layer1", "layer2.0.1")
    shallow = spaces_of(network("resnet18"))
    assert shallow["net.layer1.1.conv2"] == ("layer1.1.1", "net.conv1")  # without a projection the stem's


def test_activations_are_means_over_positions_after_the_nonlinearity():
    net, x = network("small"), torch.randn(3, 3, 32, 32)
    seen = activations(net, lambda: net(x))
    assert {space: tuple(a.shape) for space, a in seen.items()} == {"0": (3, 10), "3": (3, 15), "6": (3, 20)}
    assert torch.allclose(seen["6"], net(x), atol=1e-6)


def test_groups_of_channels_are_refused():
    with pytest.raises(ValueError, match="groups of channels"):
        spaces_of(nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)))
    with pytest.raises(ValueError, match="no convolutions"):
        spaces_of(nn.Linear(2, 2))
