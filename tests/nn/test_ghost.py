"""Norms, products and sums without the gradients: against the gradients, for every kind of layer."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from zoo.errors import OptionError
from zoo.nn.ghost import Ghosts, ghost_filter
from zoo.ops import cosine_filter


class Tokens(nn.Module):
    """Rows of an image as tokens: a linear layer with many positions, and a norm of them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(8, 5), nn.LayerNorm(5), nn.Linear(5, 3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(self.first(x[:, 0]).relu()).mean(1))


NETWORKS = {
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(128, 6), nn.Tanh(), nn.Linear(6, 3)),
    "tokens": Tokens,
    "convolutions": lambda: nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.Mish(), nn.GroupNorm(2, 6), nn.Conv2d(6, 4, 3, stride=2, dilation=2),
        nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(16, 3),
    ),
    "wide convolution": lambda: nn.Sequential(nn.Conv2d(2, 40, 5, bias=False), nn.AdaptiveMaxPool2d(1), nn.Flatten(),
                                              nn.Linear(40, 3)),
    "groups, circular padding": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3, groups=2), nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), nn.Flatten(),
        nn.Linear(144, 3),
    ),
    "same padding": lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding="same"), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
}  # fmt: skip


def batch(n: int = 7, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 2, 8, 8, generator=generator), torch.randint(0, 3, (n,), generator=generator)


def gradients(network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """One backward pass for each sample."""
    rows = []
    for one, label in zip(x, y, strict=True):
        loss = F.cross_entropy(network(one[None]), label[None])
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(network.parameters()))]))
    return torch.stack(rows)


@pytest.mark.parametrize("name", NETWORKS)
def test_norms_products_and_sums_are_those_of_the_gradients(name: str):
    torch.manual_seed(1)
    network = NETWORKS[name]()
    x, y = batch()
    grads = gradients(network, x, y)
    ghosts = Ghosts(network, x, y, physical_batch=3)
    torch.testing.assert_close(ghosts.norms(), grads.norm(dim=1), rtol=1e-5, atol=1e-6)
    vectors = list(torch.randn(2, grads.shape[1]))
    for found, vector in zip(ghosts.products(vectors, torch.ones(7, dtype=torch.bool)), vectors, strict=True):
        torch.testing.assert_close(found.float(), grads @ vector, rtol=1e-4, atol=1e-5)
    weights = torch.rand(7)
    torch.testing.assert_close(ghosts.weighted(weights), weights @ grads, rtol=1e-4, atol=1e-6)
    assert all(p.grad is None for p in network.parameters())
    assert ghosts.loss() == pytest.approx(F.cross_entropy(network(x), y).item(), rel=1e-5)


@settings(max_examples=25)
@given(
    cs_on=st.sampled_from(["noisy", "clipped"]),
    clip=st.sampled_from([0.3, 1.0, math.inf]),
    noise=st.sampled_from([0.0, 0.05]),
    choice=st.sampled_from([{"threshold": -1.0}, {"threshold": 0.3}, {"threshold": 0.9}, {"quantile": 0.4}]),
    denominator=st.sampled_from(["kept", "expected", "printed"]),
    seed=st.integers(0, 1000),
)
def test_the_filter_decides_as_with_the_gradients(cs_on, clip, noise, choice, denominator, seed):
    torch.manual_seed(seed)
    network = NETWORKS["convolutions"]()
    x, y = batch(seed=seed)
    grads = gradients(network, x, y)
    z = noise * torch.randn(grads.shape[1])
    options = {"clip_norm": clip, "noise": z, "expected_batch_size": 7.0, "cs_on": cs_on, "denominator": denominator}
    expected = cosine_filter(grads, **options, **choice)
    found, whole = ghost_filter(Ghosts(network, x, y, 4), **options, **choice)
    torch.testing.assert_close(whole, grads.sum(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.norms, expected.norms, rtol=1e-5, atol=1e-6)
    if "quantile" in choice or (expected.cosine - choice["threshold"]).abs().min() > 1e-5 or choice["threshold"] == -1:
        assert found.kept.equal(expected.kept)
        torch.testing.assert_close(found.aggregate, expected.aggregate, rtol=1e-4, atol=1e-5)
    if choice.get("threshold") != -1:
        torch.testing.assert_close(found.cosine, expected.cosine, rtol=1e-4, atol=1e-5)


def test_a_sample_that_is_not_finite_takes_no_part():
    torch.manual_seed(0)
    network = NETWORKS["convolutions"]()
    x, y = batch()
    x[2, 0, 3, 3] = math.nan
    found, whole = ghost_filter(
        Ghosts(network, x, y, 4), clip_norm=1.0, noise=torch.zeros(sum(p.numel() for p in network.parameters())),
        expected_batch_size=7.0, threshold=0.0,
    )  # fmt: skip
    assert found.dropped.tolist() == [False, False, True, False, False, False, False]
    assert not found.kept[2]
    assert found.cosine[2].isnan()
    assert whole.isfinite().all()
    assert found.aggregate.isfinite().all()


def test_an_empty_batch_is_noise_alone():
    network = NETWORKS["linear"]()
    z = torch.randn(sum(p.numel() for p in network.parameters()))
    x, y = batch(0)
    found, whole = ghost_filter(
        Ghosts(network, x, y, 4), clip_norm=1.0, noise=z, expected_batch_size=8.0, threshold=0.0
    )
    torch.testing.assert_close(found.aggregate, z / 8)
    assert not whole.any()


def test_what_it_would_get_wrong_is_refused():
    x, y = batch()
    shared = nn.Linear(128, 128)
    with pytest.raises(OptionError, match="used twice"):
        Ghosts(nn.Sequential(nn.Flatten(), shared, shared, nn.Linear(128, 3)), x, y, 4).norms()
    tied = nn.Sequential(nn.Flatten(), nn.Linear(128, 128), nn.Linear(128, 128))
    tied[2].weight = tied[1].weight
    with pytest.raises(OptionError, match="share parameters"):
        Ghosts(tied, x, y, 4)
    with pytest.raises(OptionError, match="dropout"):
        Ghosts(nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(128, 3)), x, y, 4)
