"""Fed-NCL and Auto-FedAvg, against sums by hand."""

from __future__ import annotations

import pytest
import torch

from zoo.federated import Update, weighted_mean
from zoo.federated.rules import Auto, distances, ncl_v2, ncl_v4, shares


def models() -> list[dict[str, torch.Tensor]]:
    values = ((1.0, 0.0), (2.0, 0.0), (6.0, 3.0))
    return [{"a.weight": torch.tensor([u]), "b.weight": torch.tensor([v]), "b.n": torch.tensor(4)} for u, v in values]


def test_ncl_weighs_distant_clients_less_and_by_hand() -> None:
    share, names = torch.tensor([0.5, 0.25, 0.25]).double(), ["a.weight", "b.weight"]
    mean = weighted_mean(models(), share.tolist())  # a 2.5, b 0.75
    d = torch.tensor([(1.5**2 + 0.75**2) ** 0.5, (0.5**2 + 0.75**2) ** 0.5, (3.5**2 + 2.25**2) ** 0.5]).double()
    torch.testing.assert_close(distances(models(), mean, names), d / d.mean(), rtol=1e-6, atol=1e-6)
    losses = torch.tensor([0.1, 0.2, 0.3])
    expected = share * torch.exp(-losses.double()) / d
    torch.testing.assert_close(ncl_v2(models(), share, losses, mean, names), expected / expected.sum())
    by_layer = share / torch.tensor([1.5, 0.5, 3.5]).double()
    by_layer /= by_layer.sum()
    found = ncl_v4(models(), share, mean, names)
    assert float(found["a.weight"]) == pytest.approx(float(by_layer @ torch.tensor([1.0, 2.0, 6.0]).double()))
    literal = ncl_v4(models(), share, mean, names, literal=True)
    assert float(literal["a.weight"]) > float(mean["a.weight"]) > float(found["a.weight"])
    same = [models()[0]] * 3
    assert float(ncl_v4(same, share, weighted_mean(same, [1.0, 1.0, 1.0]), names)["a.weight"]) == 1.0


def test_auto_fedavg_follows_the_gradient_of_the_mixed_loss() -> None:
    some, share = models(), torch.tensor([0.5, 0.25, 0.25]).double()
    auto = Auto(share, None, 0.05)
    assert float(auto.mixed(some)["a.weight"]) == pytest.approx(2.5)
    for _ in range(300):  # loss (a - 5)^2 at every client: towards the third
        a = float(auto.mixed(some)["a.weight"])
        gradient = {"a.weight": torch.tensor([2 * (a - 5.0)]), "b.weight": torch.zeros(1)}
        auto.learn(some, [gradient] * 3, share)
        auto = Auto(share, auto.state(), 0.05)  # as after a checkpoint
    assert float(auto.mixed(some)["a.weight"]) == pytest.approx(5.0, abs=0.05)


def test_shares_are_of_cases() -> None:
    assert shares([Update(num_examples=3), Update(num_examples=1)]).tolist() == [0.75, 0.25]
