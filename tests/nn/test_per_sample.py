"""Gradients of each sample by itself."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from zoo.errors import OptionError
from zoo.nn.per_sample import per_sample_gradients, refuse_layers

pytest.importorskip("opacus")


def network() -> nn.Module:
    torch.manual_seed(0)
    convolution = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Mish(), nn.GroupNorm(2, 4), nn.AdaptiveMaxPool2d(2))
    return nn.Sequential(convolution, nn.Flatten(), nn.Linear(16, 3))


@pytest.mark.parametrize("physical_batch", [1, 4, 64])
def test_they_are_those_of_each_sample_alone(physical_batch: int):
    net = network()
    x, y = torch.randn(7, 1, 16, 16), torch.randint(0, 3, (7,))
    with per_sample_gradients(net, "a test") as gradients:
        grads, loss = gradients(x, y, physical_batch)
    for i in range(7):
        alone = torch.autograd.grad(F.cross_entropy(net(x[i : i + 1]), y[i : i + 1]), list(net.parameters()))
        assert torch.allclose(grads[i], torch.cat([g.flatten() for g in alone]), atol=1e-5)
    assert loss == pytest.approx(F.cross_entropy(net(x), y).item(), rel=1e-4)
    assert all(p.grad is None for p in net.parameters())


def test_no_hooks_are_left_behind():
    net = network()
    with per_sample_gradients(net, "a test"):
        pass
    F.cross_entropy(net(torch.randn(2, 1, 16, 16)), torch.tensor([0, 1])).backward()
    assert not any(hasattr(p, "grad_sample") for p in net.parameters())


def test_layers_that_mix_samples_are_named():
    with pytest.raises(OptionError, match=r"no per-sample gradients for 1 \(BatchNorm1d\)"):
        refuse_layers(nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)), "a test")
    refuse_layers(network(), "a test")
