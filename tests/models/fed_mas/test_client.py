"""A client's round."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from zoo.federated import Context
from zoo.models.fed_mas.client import FedMASRecipe, Site, client, global_observation, make_optimizer, update
from zoo.models.fed_mas.data import Shard
from zoo.models.fed_mas.model import Network
from zoo.models.fed_mas.prior import class_distances as distances_of
from zoo.models.fed_mas.prior import prior_distance
from zoo.training.fit import batches

RECIPE = FedMASRecipe(local_epochs=2, batch_size=4, rounds=3, lr=0.05, weight_decay=0.0)


def network(projector: bool = True, balanced: bool = False) -> Network:
    torch.manual_seed(0)
    mlp = nn.Linear(6, 4) if projector else None
    second = nn.Linear(6, 3) if balanced else None
    return Network(nn.Sequential(nn.Linear(5, 6), nn.ReLU()), nn.Linear(6, 3), mlp, second)


def shard(n: int = 10, classes: int = 2) -> Shard:
    rng = torch.Generator().manual_seed(n)
    return Shard(torch.randn(n, 5, generator=rng), torch.arange(n) % classes, torch.randn(n, 4, generator=rng))


def site(recipe: FedMASRecipe) -> Site:
    return Site(recipe, network, lambda _: shard(), 3, prepare=lambda x: x)


def class_distances(net: Network, own: Shard) -> torch.Tensor:
    return distances_of(lambda x: net(x).y, own, 3)


def test_global_observation_is_the_class_mean_of_the_distance() -> None:
    net, own = network(), shard()
    w = class_distances(net, own)
    with torch.no_grad():
        every = prior_distance(net(own.x).y, own.prior)
    assert w.tolist() == pytest.approx([float(every[own.y == 0].mean()), float(every[own.y == 1].mean()), 0.0])


def test_rescue_factor_multiplies_both_observations() -> None:
    frozen = replace(RECIPE, lr=0.0, local_epochs=3)  # then training sees what the received model sees
    net, own = network(), shard()
    w = class_distances(net, own)
    metrics = update(net, own, site(frozen), 1, np.random.default_rng(0))
    assert metrics["rescue_factor"] == pytest.approx(float((w * 3 * w).sum()), rel=1e-5)


def test_batch_size_does_not_change_the_rescue_factor_of_a_frozen_model() -> None:
    found = [
        update(network(), shard(), site(replace(RECIPE, lr=0.0, batch_size=size)), 1, np.random.default_rng(0))
        for size in (2, 5, 10)
    ]
    assert found[1]["rescue_factor"] == pytest.approx(found[0]["rescue_factor"], rel=1e-5)
    assert found[2]["rescue_factor"] == pytest.approx(found[0]["rescue_factor"], rel=1e-5)


def test_distillation_brings_the_projection_towards_the_prior() -> None:
    recipe, own, net = replace(RECIPE, local_epochs=20), shard(), network()
    before = float(class_distances(net, own).sum())
    update(net, own, site(recipe), 1, np.random.default_rng(0))
    assert float(class_distances(net, own).sum()) < 0.7 * before


@pytest.mark.parametrize("method", ["fedavg", "fedprox", "moon", "ldam", "bsm", "fedlc", "kd", "fed-mas"])
def test_every_method_learns(method: str) -> None:
    recipe = replace(RECIPE, method=method, local_epochs=15)  # type: ignore[arg-type]
    net, own = network(projector=recipe.plan.distil), shard()
    before = nn.functional.cross_entropy(net(own.x).logits[:, :2], own.y).item()
    update(net, own, site(recipe), 1, np.random.default_rng(0))
    assert nn.functional.cross_entropy(net(own.x).logits[:, :2], own.y).item() < before


def test_a_strong_proximal_term_holds_the_model_back() -> None:
    moved = []
    for mu in (0.0, 5.0):
        recipe, net = replace(RECIPE, method="fedprox", mu=mu, lr=0.02, momentum=0.0), network(False)
        start = [p.detach().clone() for p in net.parameters()]
        update(net, shard(), site(recipe), 1, np.random.default_rng(0))
        moved.append(sum(float((a - b).norm()) for a, b in zip(net.parameters(), start, strict=True)))
    assert moved[1] < moved[0]


def test_classifier_retraining_leaves_the_encoder_alone() -> None:
    net = network()
    encoder = {name: value.clone() for name, value in net.encoder.state_dict().items()}
    classifier = net.classifier.weight.detach().clone()
    update(net, shard(), site(replace(RECIPE, classifier_only=True)), 1, np.random.default_rng(0))
    assert all(torch.equal(value, encoder[name]) for name, value in net.encoder.state_dict().items())
    assert not torch.equal(net.classifier.weight, classifier)


def test_rate_follows_a_cosine_over_the_rounds() -> None:
    rates = [make_optimizer(RECIPE, [nn.Parameter(torch.zeros(1))], r).param_groups[0]["lr"] for r in (1, 2, 3)]
    assert rates == pytest.approx([0.05 * 0.5 * (1 + math.cos(math.pi * r / 3)) for r in range(3)])


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_kept_optimizer_goes_on_where_it_stopped_and_at_the_rounds_rate(optimizer: str) -> None:
    recipe = replace(RECIPE, optimizer=optimizer, keep_optimizer=True, method="bsm")  # type: ignore[arg-type]
    net, own, kept = network(False), shard(), {}
    for round_ in (1, 2):
        update(net, own, site(recipe), round_, np.random.default_rng(round_), kept=kept)
    again = make_optimizer(recipe, list(net.parameters()), 3, kept)
    assert again.param_groups[0]["lr"] == pytest.approx(0.05 * 0.5 * (1 + math.cos(math.pi * 2 / 3)))
    (first, *_), memory = again.state.values(), "exp_avg" if optimizer == "adam" else "momentum_buffer"
    assert first[memory].abs().sum() > 0
    if optimizer == "adam":
        assert first["step"] == 2 * 2 * 3  # rounds, epochs, batches
    assert not make_optimizer(replace(recipe, keep_optimizer=False), list(net.parameters()), 3, kept).state


def test_clipping_bounds_what_a_step_moves() -> None:
    recipe = replace(RECIPE, method="bsm", momentum=0.0, local_epochs=1, batch_size=10, clip=1e-3)
    net = network(False)
    start = [p.detach().clone() for p in net.parameters()]
    update(net, shard(), site(recipe), 1, np.random.default_rng(0))
    moved = torch.stack([(a - b).square().sum() for a, b in zip(net.parameters(), start, strict=True)]).sum().sqrt()
    assert float(moved) == pytest.approx(RECIPE.lr * 1e-3, rel=1e-3)


def test_the_second_head_learns_from_the_projection_and_decides_nothing() -> None:
    net, own = network(), shard()
    net.second = nn.Linear(4, 3)
    before, decided = net.second.weight.detach().clone(), net.eval()(own.x)
    assert decided.second is None
    update(net, own, site(RECIPE), 1, np.random.default_rng(0))
    assert not torch.equal(net.second.weight, before)


def test_an_epoch_has_every_image_once_and_no_batch_of_one() -> None:
    parts = batches(torch.arange(9) % 2, 4, np.random.default_rng(0))
    assert sorted(torch.cat(parts).tolist()) == list(range(9))
    assert [len(part) for part in parts] == [4, 5]


def test_a_rest_that_is_left_out_does_not_count_either() -> None:
    y = torch.arange(9) % 2
    assert [len(part) for part in batches(y, 4, np.random.default_rng(0), whole=True)] == [4, 4]
    assert [len(part) for part in batches(y, 20, np.random.default_rng(0), whole=True)] == [9]
    recipe = replace(RECIPE, method="bsm", drop_last=True)
    for n, size, counted in ((10, 4, 8), (10, 20, 10)):
        context = Context(0, 1, "train", torch.device("cpu"), {}, {})
        sent = client(
            network(False), shard(n), np.random.default_rng(0), context, site(replace(recipe, batch_size=size))
        )
        assert sent.num_examples == counted


def test_a_live_prior_sees_what_the_network_sees() -> None:
    own, look = shard(), nn.Linear(5, 4)
    looked: list[torch.Tensor] = []

    def prior(x: torch.Tensor) -> torch.Tensor:
        looked.append(x)
        return look(x).detach()

    still = replace(RECIPE, batch_size=5, lr=0.0)  # then w_k and w^_k are of the same network
    live = replace(site(still), prior=prior)
    cached = own._replace(prior=look(own.x).detach())
    found = [update(network(), own, live, 1, np.random.default_rng(0)),
             update(network(), cached, site(still), 1, np.random.default_rng(0))]  # fmt: skip
    assert found[0]["rescue_factor"] == pytest.approx(found[1]["rescue_factor"], rel=1e-5)
    looked.clear()
    update(network(), own, replace(live, augment=lambda x, rng: x + 100), 1, np.random.default_rng(0))
    assert len(looked) == 2 + 2 * 2  # batches to measure w_k on, then those of two epochs
    assert min(float(x.min()) for x in looked) > 50


def test_released_means_divide_by_all_of_a_client_although_the_rest_is_left_out() -> None:
    own = shard(10)
    recipe = replace(RECIPE, batch_size=4, lr=0.0, local_epochs=1, drop_last=True)
    live = replace(site(recipe), prior=lambda x: x[:, :4])
    w = global_observation(network(), own, live, np.random.default_rng(3), lambda: [torch.arange(8)])
    with torch.no_grad():
        every = prior_distance(network()(own.x).y, own.x[:, :4])[:8]
    assert w.tolist() == pytest.approx([float(every[own.y[:8] == k].sum()) / 5 for k in (0, 1)] + [0.0], rel=1e-5)


def test_balanced_epochs_draw_classes_equally() -> None:
    y = torch.tensor([0] * 900 + [1] * 100)
    drawn = torch.cat(batches(y, 100, np.random.default_rng(0), balanced=True))
    assert 0.4 < float((y[drawn] == 1).float().mean()) < 0.6
