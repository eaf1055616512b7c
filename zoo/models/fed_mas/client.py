"""The recipe, and a client's round: look at the received model, train on its own images, state the rescue factor."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zoo.errors import OptionError
from zoo.federated import Context, Update
from zoo.federated.creff import class_gradients
from zoo.metrics import balanced_accuracy
from zoo.models.fed_mas.baselines import MethodName, Plan, planned, supervised
from zoo.models.fed_mas.data import Shard, predict_labels
from zoo.models.fed_mas.model import FedMASConfig, Network
from zoo.models.fed_mas.prior import ClassMeans, class_distances, prior_distance, rescue_factor
from zoo.nn.long_tail import model_contrastive_loss, proximal_term
from zoo.nn.schedules import cosine
from zoo.training.fit import batches


@dataclass(frozen=True)
class FedMASRecipe:
    """The paper's training on HyperKvasir. Comments name the section, or say that the paper leaves a value open."""

    recipe: Literal["paper", "released"] = "paper"  # whose values the other fields have
    network: FedMASConfig = field(default_factory=FedMASConfig)
    method: MethodName = "fed-mas"
    loss: Literal["method", "ce", "bsm", "ldam", "fedlc"] = "method"  # Table 6 puts bsm under FedProx and MOON
    kd: Literal["method", "on", "off"] = "method"
    aggregation: Literal["method", "samples", "uniform", "mas"] = "method"
    clients: int = field(default=8, metadata={"min": 1, "max": 1000})  # Sec. 3
    partition: str = "dirichlet"
    """``iid``, ``dirichlet`` (by label), ``column:NAME`` (a client for each value, such as a hospital) or
    ``file:PATH`` (a table of cases and clients)."""
    alpha: float = field(default=0.5, metadata={"min": 1e-3, "max": 1e6})  # of ``dirichlet``; Sec. 3
    rounds: int = field(default=200, metadata={"min": 1, "max": 1_000_000})  # Sec. 3
    local_epochs: int = field(default=10, metadata={"min": 1, "max": 1_000_000})  # E, Sec. 3
    batch_size: int = field(default=32, metadata={"min": 2, "max": 65_536})  # open
    optimizer: Literal["sgd", "adam"] = "sgd"  # Sec. 3
    keep_optimizer: bool = False  # its state, at each client from round to round; open
    clip: float | None = field(default=None, metadata={"min": 1e-6, "max": 1e6})  # largest norm of a gradient; open
    lr: float = field(default=0.1, metadata={"min": 0.0, "max": 100.0})  # Sec. 3
    schedule: Literal["cosine", "constant"] = "cosine"  # over the rounds; Sec. 3
    lr_floor: float = field(default=0.0, metadata={"min": 0.0, "max": 1.0})  # share of lr that ``cosine`` ends at
    momentum: float = field(default=0.9, metadata={"min": 0.0, "max": 1.0})  # open
    nesterov: bool = False
    weight_decay: float = field(default=5e-4, metadata={"min": 0.0, "max": 100.0})  # open
    lambda_f: float = field(default=3.0, metadata={"min": 0.0, "max": 1e6})  # Table 4
    absent: float = field(default=1e-9, metadata={"min": 1e-30, "max": 1.0})  # what a class of no images counts; open
    rf_norm: Literal["sum", "shares"] = "sum"  # of Eq. 3; ``shares`` as released
    mu: float = field(default=0.01, metadata={"min": 0.0, "max": 1e6})  # of FedProx, MOON; .001 to 1 in Table 8
    moon_tau: float = field(default=0.5, metadata={"min": 1e-3, "max": 1e3})
    fedlc_tau: float = field(default=1.0, metadata={"min": 0.0, "max": 1e3})
    crt_rounds: int = field(default=0, metadata={"min": 0, "max": 1_000_000})  # then, for the classifier (Table 7)
    classifier_only: bool = False  # what these rounds set: encoder frozen, classes drawn equally often
    keep: Literal["last", "best"] = "last"  # round, or the best by balanced accuracy on the validation part; open
    augment: bool = True  # as ``views`` says; open
    views: Literal["crops", "blurred"] = "crops"
    """``crops``: of .6 to 1, flips, mild colour; ``blurred``: flips, blur, turns up to 10 degrees, as released."""
    live_prior: bool = False
    """Whether the prior sees the augmented views of every step, and w_k is measured on such, as released; else it sees
    every image once, as it is (Sec. 2: its features can be pre-computed)."""
    drop_last: bool = False  # an epoch's rest of less than a batch is left out, and doesn't count as images; open
    pretrained: bool = True  # Sec. 3: ImageNet; ``small`` starts at random
    attribute: str = ""
    """A column, or ``file:PATH`` (a table of id and value); each of its values is also scored on its own (Table 3)."""
    report_distances: bool = False
    """Clients also send w_k, for a figure. The method doesn't: it tells the server which classes a client lacks."""
    prior_data: str = "phantom:skin-lesion?n=400&seed=500000&size=96"  # public images for a ``small`` prior, no labels
    prior_steps: int = field(default=300, metadata={"min": 1, "max": 1_000_000})  # of its training
    feature_cache: str = ""  # folder for the prior's features, to share between runs; by default the run's own
    dtype: Literal["float32", "float16"] = "float32"  # of the saved weights

    @property
    def plan(self) -> Plan:
        """The method with its parts replaced. Raises ``OptionError`` for parts that don't go together."""
        plan = planned(self.method, self.loss, self.kd, self.aggregation)
        if plan.distil and self.lambda_f == 0:
            raise OptionError("lambda_f=0 leaves the projector untrained; set it above 0, or choose method=bsm")
        if plan.distil and self.network.prior.kind == "none":
            raise OptionError(f"method={self.method} distils a prior; set network.prior.kind to moco, clip or small")
        return plan

    @property
    def form(self) -> FedMASConfig:
        """The network that the method needs: a projector only to distil, cosines only for LDAM."""
        plan = self.plan
        prior = self.network.prior if plan.distil else replace(self.network.prior, kind="none")
        return replace(self.network, prior=prior, cosine_classifier=plan.loss == "ldam")


@dataclass(frozen=True)
class Site:
    """What a federation needs beside the recipe: the network's form, the clients' data, and how images enter it."""

    recipe: FedMASRecipe
    form: Callable[..., Network]
    shard: Callable[[int], Shard]
    classes: int
    prepare: Callable[[Tensor], Tensor]
    augment: Callable[[Tensor, np.random.Generator], Tensor] | None = None
    prior: Callable[[Tensor], Tensor] | None = None  # features of a batch, where the prior sees what the network does

    def seen_by(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Training images as they enter the network."""
        return self.augment(x, rng) if self.augment else self.prepare(x)


def client(network: Network, shard: Shard, rng: np.random.Generator, context: Context, site: Site) -> Update:
    """Weights in; weights, the rescue factor and the loss out."""
    plan, models, previous = site.recipe.plan, {}, None
    if plan.contrastive and "previous" in context.kept:
        previous = copy.deepcopy(network)
        previous.load_state_dict(context.kept["previous"])
    if plan.federated_features and network.balanced is not None:
        network.eval()
        encode = lambda x: network.encoder(site.prepare(x.to(context.device)))  # noqa: E731
        models["classes"] = class_gradients(encode, network.balanced, shard.x, shard.y)
    numbers = update(network, shard, site, context.round, rng, previous, context.kept)
    if plan.contrastive:
        context.kept["previous"] = {name: t.detach().cpu().clone() for name, t in network.state_dict().items()}
    whole = len(shard.y) // (size := site.recipe.batch_size) * size if site.recipe.drop_last else 0
    return Update({"network": network, **models}, num_examples=whole or len(shard.y), **numbers)


def update(
    network: Network, shard: Shard, site: Site, round_: int, rng: np.random.Generator, previous: Network | None = None,
    kept: dict[str, Any] | None = None,
) -> dict[str, float]:  # fmt: skip
    """Train ``network`` in place for one round and return ``loss`` and, with a prior, ``rescue_factor``.

    ``previous``: the client's own model at the end of the last round, for MOON; without one, the received model.
    ``kept``: what the client keeps from round to round, such as its optimizer's state.
    """
    recipe, plan, retrains = site.recipe, site.recipe.plan, site.recipe.classifier_only
    device = next(network.parameters()).device
    counts = torch.bincount(shard.y, minlength=site.classes).float()
    received = copy.deepcopy(network).requires_grad_(False).eval()
    before = (previous or received).requires_grad_(False).eval()
    w = w_hat = torch.zeros(site.classes)
    measured = plan.distil and not retrains
    drawn = partial(batches, shard.y, recipe.batch_size, rng, balanced=retrains, whole=recipe.drop_last)
    if measured:
        w = global_observation(received, shard, site, rng, drawn)
    criterion = supervised(
        plan.loss, counts.to(device), absent=recipe.absent, tau=recipe.fedlc_tau, scale=recipe.network.cosine_scale,
        deferred=round_ > math.ceil(0.8 * recipe.rounds),
    )  # fmt: skip
    trained = list(network.classifier.parameters() if retrains else network.parameters())
    optimizer = make_optimizer(recipe, trained, round_, kept)
    losses = []
    for _ in range(recipe.local_epochs):
        seen_distances = ClassMeans(site.classes, counts.long() if site.prior is not None else None)
        for places in drawn():
            x, y = site.seen_by(shard.x[places].to(device), rng), shard.y[places].to(device)
            network.train(not retrains)
            seen = network(x)
            loss = F.cross_entropy(seen.logits, y) if retrains else criterion(seen.logits, y)
            if seen.second is not None and not retrains:
                loss = loss + criterion(seen.second, y)
            if measured:
                known = site.prior(x) if site.prior else shard.prior[places].to(device)  # type: ignore[index]
                distance = prior_distance(seen.y, known)
                seen_distances.add(distance, y)
                loss = loss + recipe.lambda_f * distance.mean()  # Eq. 4
            if plan.proximal:
                loss = loss + recipe.mu * proximal_term(network.parameters(), received.parameters())
            if plan.contrastive:
                with torch.no_grad():
                    z_received, z_before = received(x).z, before(x).z
                loss = loss + recipe.mu * model_contrastive_loss(seen.z, z_received, z_before, recipe.moon_tau)
            optimizer.zero_grad()
            loss.backward()
            if recipe.clip is not None:
                nn.utils.clip_grad_norm_(trained, recipe.clip)
            optimizer.step()
            losses.append(float(loss.detach()))
        w_hat = w_hat + seen_distances.means  # the sum over epochs of each epoch's class means
    if kept is not None and recipe.keep_optimizer:
        kept["optimizer"] = optimizer.state_dict()
    network.eval()
    metrics = {"loss": float(np.mean(losses))}
    if measured:
        metrics["rescue_factor"] = rescue_factor(w, w_hat, recipe.rf_norm)
        if recipe.report_distances:
            metrics |= {f"w_{k}": float(value) for k, value in enumerate(w)}
    if shard.test is not None and round_ == recipe.rounds:
        x, truth = shard.test
        found = predict_labels(network, x, site.prepare) if len(x) else truth.numpy()
        metrics["own_balanced_accuracy"] = balanced_accuracy(found, truth.numpy())
    return metrics


def global_observation(
    received: Network, shard: Shard, site: Site, rng: np.random.Generator, drawn: Callable[[], list[Tensor]]
) -> Float[Tensor, " k"]:
    """w_k of the received model: of the client's images, or, where the prior is live, of an epoch of training views."""
    device = next(received.parameters()).device
    if site.prior is None:
        return class_distances(lambda x: received(site.prepare(x.to(device))).y, shard, site.classes)
    means = ClassMeans(site.classes, torch.bincount(shard.y, minlength=site.classes))
    with torch.no_grad():
        for places in drawn():
            x = site.seen_by(shard.x[places].to(device), rng)
            means.add(prior_distance(received(x).y, site.prior(x)), shard.y[places])
    return means.means


def make_optimizer(
    recipe: FedMASRecipe, parameters: list[nn.Parameter], round_: int, kept: dict[str, Any] | None = None
) -> torch.optim.Optimizer:
    """A fresh one for each round, or one that goes on where the client's last one stopped; its rate is the round's."""
    share = cosine(round_ - 1, recipe.rounds, floor=recipe.lr_floor) if recipe.schedule == "cosine" else 1.0
    settings: dict[str, Any] = {"lr": recipe.lr * share}
    if recipe.optimizer == "adam":
        made: torch.optim.Optimizer = torch.optim.Adam(parameters, **settings)
    else:
        settings |= {"momentum": recipe.momentum, "weight_decay": recipe.weight_decay, "nesterov": recipe.nesterov}
        made = torch.optim.SGD(parameters, **settings)
    if recipe.keep_optimizer and kept and "optimizer" in kept:
        made.load_state_dict({**kept["optimizer"], "param_groups": made.state_dict()["param_groups"]})
    return made
