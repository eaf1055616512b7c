"""Adaptation at test time: what changes, what is forgotten, and that the network given stays as it is."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from zoo.errors import OptionError
from zoo.nn.backbones import Small
from zoo.nn.last_map import Pooled
from zoo.nn.test_time import T3A, Tent


@pytest.fixture
def net() -> Pooled:
    torch.manual_seed(0)
    return Pooled(Small((6, 8), pooled=False), 8, 2).eval()


def test_tent_lowers_entropy_and_only_forgets_if_asked(net: Pooled):
    x = torch.randn(12, 3, 16, 16)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    forgetting, going_on = Tent(net, episodic=True), Tent(net, episodic=False)
    first, again = forgetting(x), forgetting(x)
    assert torch.equal(first, again)
    entropies = []
    for _ in range(30):
        p = going_on(x).softmax(1)
        entropies.append(float(-(p * p.log()).sum(1).mean()))
    assert entropies[-1] < entropies[0]
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    with pytest.raises(OptionError, match="batch norm"):
        Tent(torch.nn.Linear(2, 2), episodic=True)


@torch.no_grad()
def test_t3a_starts_from_the_heads_rows_and_keeps_the_surest(net: Pooled):
    x = torch.randn(9, 3, 16, 16)
    adapt = T3A(net, supports=3)
    z = net.forward_head(net.forward_features(x), pre_logits=True)
    said = adapt(x)
    assert said.shape == (9, 2)
    counts = [int((adapt.labels == c).sum()) for c in range(2)]
    assert max(counts) <= 3
    for c in range(2):
        own = F.normalize(adapt.supports[adapt.labels == c], dim=1).sum(0)
        assert torch.allclose(said[:, c], z @ F.normalize(own, dim=0), atol=1e-5)
    adapt.reset()
    assert torch.equal(adapt.supports, net.head.weight)
