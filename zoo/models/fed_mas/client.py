"""What a client does in a round: look at the received model, train on its own images, state its rescue factor."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo.federated import client_device, client_generator, client_id, reply, server_round
from zoo.models.fed_mas.creff import class_gradients
from zoo.models.fed_mas.distance import ClassMeans, prior_distance, rescue_factor
from zoo.models.fed_mas.scores import recalls
from zoo.nn.long_tail import (
    balanced_softmax_loss,
    effective_number_weights,
    ldam_loss,
    logit_calibrated_loss,
    model_contrastive_loss,
    proximal_term,
)

if TYPE_CHECKING:
    from flwr.app import Context, Message
    from flwr.clientapp import ClientApp

    from zoo.models.fed_mas.model import Network, Seen
    from zoo.models.fed_mas.training import FedMASRecipe, Plan


class Shard(NamedTuple):
    """A client's images as the dataset gives them, their labels, and the prior's cached features (if there's one).

    ``test``: images (maybe none) and labels of its own that no client trains on, for the score of its local model.
    """

    x: Tensor
    y: Int[Tensor, " n"]
    prior: Float[Tensor, "n d"] | None
    test: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class Site:
    """Everything a client needs to train: the network's form, its data, and how images enter the network."""

    recipe: FedMASRecipe
    plan: Plan
    network: Callable[..., Network]
    shard: Callable[[int], Shard]
    classes: int
    prepare: Callable[[Tensor], Tensor]
    augment: Callable[[Tensor, np.random.Generator], Tensor] | None = None
    classifier_only: bool = False  # cRT: the encoder stays, classes are drawn equally often


def client_app(site: Site) -> ClientApp:
    """The client as Flower runs it: weights in; weights, the rescue factor and the loss out."""
    from flwr.clientapp import ClientApp

    app = ClientApp()
    shards = cache(site.shard)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        device, round_ = client_device(context), server_round(message)
        shard = shards(client_id(context))
        network = site.network().to(device)
        network.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
        previous = None
        if site.plan.contrastive and "previous" in context.state:
            previous = site.network().to(device)
            previous.load_state_dict(context.state.array_records["previous"].to_torch_state_dict())
        extra: dict[str, Any] = {}
        if site.plan.federated_features and network.balanced is not None:
            extra = class_gradients(network, shard, site.classes, site.prepare)
        rng = client_generator(message, context)
        metrics = update(network, shard, site, round_, rng, previous)
        if site.plan.contrastive:
            from flwr.app import ArrayRecord

            context.state["previous"] = ArrayRecord(network.cpu().state_dict())
        return reply(message, {**network.state_dict(), **extra}, num_examples=len(shard.y), **metrics)

    return app


def update(
    network: Network,
    shard: Shard,
    site: Site,
    round_: int,
    rng: np.random.Generator,
    previous: Network | None = None,
) -> dict[str, float]:
    """Train ``network`` in place for one round and return ``loss`` and, with a prior, ``rescue_factor``.

    ``previous``: the client's own model at the end of the last round, for MOON; without one, the received model.
    """
    recipe, plan = site.recipe, site.plan
    device = next(network.parameters()).device
    counts = torch.bincount(shard.y, minlength=site.classes).float()
    received = copy.deepcopy(network).requires_grad_(False).eval()
    before = (previous or received).requires_grad_(False).eval()
    measured = shard.prior is not None and network.projector is not None
    w = class_distances(received, shard, site) if measured else torch.zeros(site.classes)  # global observation
    w_hat = torch.zeros(site.classes)
    criterion = supervised(recipe, plan, counts.to(device), round_)
    trained = list(network.classifier.parameters() if site.classifier_only else network.parameters())
    optimizer = make_optimizer(recipe, trained, round_)
    losses = []
    for _ in range(recipe.local_epochs):
        seen_distances = ClassMeans(site.classes)
        for places in batches(shard.y, recipe.batch_size, rng, balanced=site.classifier_only):
            images, y = shard.x[places].to(device), shard.y[places].to(device)
            x = site.augment(images, rng) if site.augment else site.prepare(images)
            network.train(not site.classifier_only)
            seen: Seen = network(x)
            loss = F.cross_entropy(seen.logits, y) if site.classifier_only else criterion(seen.logits, y)
            if measured and not site.classifier_only:
                assert shard.prior is not None
                distance = prior_distance(seen.y, shard.prior[places].to(device))
                seen_distances.add(distance, y)
                if plan.distil:
                    loss = loss + recipe.lambda_f * distance.mean()  # Eq. 4
            if plan.proximal:
                loss = loss + recipe.mu * proximal_term(network.parameters(), received.parameters())
            if plan.contrastive:
                with torch.no_grad():
                    z_received, z_before = received(x).z, before(x).z
                loss = loss + recipe.mu * model_contrastive_loss(seen.z, z_received, z_before, recipe.moon_tau)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        w_hat += seen_distances.means  # the sum over epochs of each epoch's class means
    network.eval()
    metrics = {"loss": float(np.mean(losses))}
    if measured and not site.classifier_only:
        metrics["rescue_factor"] = rescue_factor(w, w_hat, counts, recipe.rf_norm)
        if recipe.report_distances:
            metrics |= {f"w_{k}": float(value) for k, value in enumerate(w)}
    if shard.test is not None and round_ == recipe.rounds:
        metrics["own_balanced_accuracy"] = own_score(network, shard.test, site)
    return metrics


@torch.no_grad()
def class_distances(network: Network, shard: Shard, site: Site) -> Float[Tensor, " k"]:
    """w_k: mean distance to the prior by class, of the client's images without augmentation; 0 for absent classes."""
    assert shard.prior is not None
    means = ClassMeans(site.classes)
    device = next(network.parameters()).device
    for places in torch.arange(len(shard.y)).split(128):
        y = network(site.prepare(shard.x[places].to(device))).y
        means.add(prior_distance(y, shard.prior[places].to(device)), shard.y[places])
    return means.means


def supervised(
    recipe: FedMASRecipe, plan: Plan, counts: Float[Tensor, " k"], round_: int
) -> Callable[[Tensor, Tensor], Tensor]:
    """L_sup of logits and labels, for a client with so many images of each class."""
    if plan.loss == "bsm":
        return lambda logits, y: balanced_softmax_loss(logits, y, counts, recipe.absent)
    if plan.loss == "fedlc":
        return lambda logits, y: logit_calibrated_loss(logits, y, counts, recipe.fedlc_tau)
    if plan.loss == "ldam":
        deferred = round_ > math.ceil(0.8 * recipe.rounds)  # DRW
        weight = effective_number_weights(counts).to(counts.device) if deferred else None
        return lambda logits, y: ldam_loss(logits, y, counts, scale=recipe.network.cosine_scale, weight=weight)
    return lambda logits, y: F.cross_entropy(logits, y)


def make_optimizer(recipe: FedMASRecipe, parameters: list[nn.Parameter], round_: int) -> torch.optim.Optimizer:
    """A fresh one for each round; the rate is constant within it."""
    cosine = recipe.schedule == "cosine"
    lr = recipe.lr * (0.5 * (1 + math.cos(math.pi * (round_ - 1) / recipe.rounds)) if cosine else 1.0)
    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=lr)
    return torch.optim.SGD(parameters, lr=lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)


def batches(
    y: Int[Tensor, " n"], size: int, rng: np.random.Generator, balanced: bool = False
) -> list[Int[Tensor, " b"]]:
    """An epoch in random order; a single image left over joins the batch before. ``balanced``: equal classes."""
    n = len(y)
    if balanced:
        counts = np.bincount(y.numpy())
        share = 1 / counts[y.numpy()]
        order = rng.choice(n, n, p=share / share.sum())
    else:
        order = rng.permutation(n)
    cuts = list(range(size, n, size))
    if cuts and n - cuts[-1] == 1:
        cuts.pop()
    return [torch.from_numpy(part) for part in np.split(order, cuts)]


@torch.no_grad()
def own_score(network: Network, test: tuple[Tensor, Tensor], site: Site) -> float:
    """Balanced accuracy of a client's own model after its last training, on its own test images."""
    device = next(network.parameters()).device
    if not len(test[1]):
        return math.nan
    parts = [network(site.prepare(x.to(device))).logits.argmax(1).cpu() for x in test[0].split(128)]
    return float(np.nanmean(recalls(torch.cat(parts).numpy(), test[1].numpy(), site.classes)))
