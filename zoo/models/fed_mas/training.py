"""The federation: what a client does in a round, who counts how much, and what is left when it's over.

A method is a row of ``PLANS``. A client looks at the received model, trains on its own images, and states its rescue
factor; the server averages by samples, equally, or by the clients' rescue factors (Eq. 5).
"""

from __future__ import annotations

import copy
import json
import math
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

from zoo.data.augment import cropped_views
from zoo.data.layouts.hyperkvasir import HYPERKVASIR_CLASSES
from zoo.data.sets import load_dataset
from zoo.data.splits import PARTS, TrainData
from zoo.errors import OptionError
from zoo.federated import Context, Federation, Outcome, State, Update, average, check, construct, divided, split_figure
from zoo.metrics import balanced_accuracy
from zoo.models.fed_mas.baselines import CReFF, MethodName, Plan, class_gradients, planned, supervised
from zoo.models.fed_mas.data import Shard, batches, labels_of, load_views, own_test, predict_labels, scores
from zoo.models.fed_mas.distance import ClassMeans, class_distances, prior_distance, rescue_factor
from zoo.models.fed_mas.model import FedMAS, FedMASConfig, Network, build_network, to_network
from zoo.models.fed_mas.prior import PriorConfig, load_prior, pretrain, prior_features, save_prior
from zoo.models.fed_mas.result import training_figures
from zoo.nn.long_tail import model_contrastive_loss, proximal_term
from zoo.nn.schedules import cosine
from zoo.storage import remove_folder, write_file
from zoo.training import Run, Training


@dataclass(frozen=True)
class FedMASRecipe:
    """The paper's training on HyperKvasir. Comments name the section, or say that the paper leaves a value open."""

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
    optimizer: Literal["sgd", "adam"] = "sgd"  # Sec. 3; its state begins anew in each round
    lr: float = field(default=0.1, metadata={"min": 0.0, "max": 100.0})  # Sec. 3
    schedule: Literal["cosine", "constant"] = "cosine"  # over the rounds; Sec. 3
    momentum: float = field(default=0.9, metadata={"min": 0.0, "max": 1.0})  # open
    weight_decay: float = field(default=5e-4, metadata={"min": 0.0, "max": 100.0})  # open
    lambda_f: float = field(default=3.0, metadata={"min": 0.0, "max": 1e6})  # Table 4
    absent: float = field(default=1e-9, metadata={"min": 1e-30, "max": 1.0})  # what a class of no images counts; open
    rf_norm: Literal["sum", "mean"] = "sum"  # of Eq. 3 over classes; the mean is an experiment of ours
    mu: float = field(default=0.01, metadata={"min": 0.0, "max": 1e6})  # of FedProx, MOON; .001 to 1 in Table 8
    moon_tau: float = field(default=0.5, metadata={"min": 1e-3, "max": 1e3})
    fedlc_tau: float = field(default=1.0, metadata={"min": 0.0, "max": 1e3})
    crt_rounds: int = field(default=0, metadata={"min": 0, "max": 1_000_000})  # then, for the classifier (Table 7)
    classifier_only: bool = False  # what these rounds set: encoder frozen, classes drawn equally often
    augment: bool = True  # crops of .6 to 1, flips, mild colour; open
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


def client(network: Network, shard: Shard, rng: np.random.Generator, context: Context, site: Site) -> Update:
    """Weights in; weights, the rescue factor and the loss out."""
    plan, models, previous = site.recipe.plan, {}, None
    if plan.contrastive and "previous" in context.kept:
        previous = copy.deepcopy(network)
        previous.load_state_dict(context.kept["previous"])
    if plan.federated_features and network.balanced is not None:
        models["classes"] = class_gradients(network, shard.x, shard.y, site.classes, site.prepare)
    numbers = update(network, shard, site, context.round, rng, previous)
    if plan.contrastive:
        context.kept["previous"] = {name: t.detach().cpu().clone() for name, t in network.state_dict().items()}
    return Update({"network": network, **models}, num_examples=len(shard.y), **numbers)


def update(
    network: Network, shard: Shard, site: Site, round_: int, rng: np.random.Generator, previous: Network | None = None
) -> dict[str, float]:
    """Train ``network`` in place for one round and return ``loss`` and, with a prior, ``rescue_factor``.

    ``previous``: the client's own model at the end of the last round, for MOON; without one, the received model.
    """
    recipe, plan, retrains = site.recipe, site.recipe.plan, site.recipe.classifier_only
    device = next(network.parameters()).device
    counts = torch.bincount(shard.y, minlength=site.classes).float()
    received = copy.deepcopy(network).requires_grad_(False).eval()
    before = (previous or received).requires_grad_(False).eval()
    w = w_hat = torch.zeros(site.classes)
    measured = plan.distil and not retrains
    if measured:  # global observation
        w = class_distances(lambda x: received(site.prepare(x.to(device))).y, shard, site.classes)
    criterion = supervised(
        plan.loss, counts.to(device), absent=recipe.absent, tau=recipe.fedlc_tau, scale=recipe.network.cosine_scale,
        deferred=round_ > math.ceil(0.8 * recipe.rounds),
    )  # fmt: skip
    trained = list(network.classifier.parameters() if retrains else network.parameters())
    optimizer = make_optimizer(recipe, trained, round_)
    losses = []
    for _ in range(recipe.local_epochs):
        seen_distances = ClassMeans(site.classes)
        for places in batches(shard.y, recipe.batch_size, rng, balanced=retrains):
            images, y = shard.x[places].to(device), shard.y[places].to(device)
            x = site.augment(images, rng) if site.augment else site.prepare(images)
            network.train(not retrains)
            seen = network(x)
            loss = F.cross_entropy(seen.logits, y) if retrains else criterion(seen.logits, y)
            if measured and shard.prior is not None:
                distance = prior_distance(seen.y, shard.prior[places].to(device))
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
            optimizer.step()
            losses.append(float(loss.detach()))
        w_hat = w_hat + seen_distances.means  # the sum over epochs of each epoch's class means
    network.eval()
    metrics = {"loss": float(np.mean(losses))}
    if measured:
        metrics["rescue_factor"] = rescue_factor(w, w_hat, counts, recipe.rf_norm)
        if recipe.report_distances:
            metrics |= {f"w_{k}": float(value) for k, value in enumerate(w)}
    if shard.test is not None and round_ == recipe.rounds:
        x, truth = shard.test
        found = predict_labels(network, x, site.prepare) if len(x) else truth.numpy()
        metrics["own_balanced_accuracy"] = balanced_accuracy(found, truth.numpy())
    return metrics


def make_optimizer(recipe: FedMASRecipe, parameters: list[nn.Parameter], round_: int) -> torch.optim.Optimizer:
    """A fresh one for each round; the rate is constant within it."""
    lr = recipe.lr * (cosine(round_ - 1, recipe.rounds) if recipe.schedule == "cosine" else 1.0)
    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=lr)
    return torch.optim.SGD(parameters, lr=lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)


def build(recipe: FedMASRecipe, data: TrainData, seed: int) -> Federation:
    """The federation of a recipe, the same in every process; ``recipe.network.prior.path`` holds a trained prior."""
    config, plan = recipe.form, recipe.plan
    form = partial(build_network, config, balanced=plan.federated_features)
    y = labels_of(data.train, config.labels)
    partitions = divided(recipe.partition, data.train, y, recipe.clients, recipe.alpha, seed)
    prior = cache(partial(load_prior, config.prior))

    @cache
    def shard(client: int) -> Shard:
        places = partitions[client]
        views = load_views(data.train.subset(places), config.image_size)
        features = None
        if plan.distil:
            folder = Path(recipe.feature_cache).expanduser() if recipe.feature_cache else None
            features = prior_features(prior(), views, to_network, folder)
        test = own_test(data, int(places[0]), recipe.partition, config)
        return Shard(views, torch.from_numpy(y[places]), features, test)

    @cache
    def validation() -> tuple[Tensor, np.ndarray]:
        return load_views(data.validation, config.image_size), labels_of(data.validation, config.labels)

    def evaluate(state: State) -> dict[str, float] | None:
        if not len(data.validation):
            return None
        network, (views, truth) = form(), validation()
        network.load_state_dict(state.network)
        return scores(predict_labels(network, views), truth, counted(recipe, y))

    def augment(views: Tensor, rng: np.random.Generator) -> Tensor:
        return to_network(cropped_views(views.float() / 255, rng))

    site = Site(recipe, form, shard, len(config.labels), to_network, augment if recipe.augment else None)
    start = lambda: {"network": form(pretrained=recipe.pretrained)}  # noqa: E731
    return replace(federation(site, partitions, seed), start=start, evaluate=evaluate)


def federation(site: Site, partitions: Sequence[np.ndarray], seed: int) -> Federation:
    """FedAvg of the clients by the plan's weights; CReFF adds the classifier's re-training."""
    plan = site.recipe.plan
    return Federation(
        model=site.form,
        client=partial(client, site=site),
        data=site.shard,
        partitions=partitions,
        rounds=site.recipe.rounds,
        aggregate=CReFF(seed) if plan.federated_features else average,
        weights="samples" if site.recipe.classifier_only else plan.weights,
        target="label",
    )


def train(recipe: FedMASRecipe, data: TrainData, run: Run) -> FedMAS:
    """A small prior first if one is asked for, then the federation, then cRT; scores and figures into ``run.out``."""
    from zoo.federated import federate  # needs Flower

    config, data = recipe.form, TrainData(*(getattr(data, part).in_memory() for part in PARTS))
    if recipe.attribute:
        data.test.values(recipe.attribute)  # refuses an unfit file before the first round
    check(construct(build, recipe, data, run.seed), data.train)  # and a federation that can't be, before the prior
    y = labels_of(data.train, config.labels)
    with ExitStack() as stack:
        scratch = run.out.resolve() if run.out else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = scratch / "prior"
        prior = None
        if config.prior.kind == "small":
            recipe, prior = _with_small_prior(recipe, run, folder)
        elif recipe.plan.distil:
            load_prior(config.prior)  # refuses before the first round what every client would stumble over
        if recipe.plan.distil and not recipe.feature_cache:
            recipe = replace(recipe, feature_cache=str(folder / "features"))
        final = outcome = federate(build, recipe, data, run)
        if recipe.crt_rounds:
            again = replace(recipe, classifier_only=True, rounds=recipe.crt_rounds)
            final = federate(build, again, data, run, stage="crt", models={"network": outcome.state_dict()})
        model = finished(counted(recipe, y), final.state_dict(), prior)
        if run.out is not None and run.is_main:
            report(recipe, data, y, model.network, outcome, final, run.seed, run.out)
            remove_folder(folder)
    return model.to(run.device).eval()


def _with_small_prior(recipe: FedMASRecipe, run: Run, folder: Path) -> tuple[FedMASRecipe, nn.Module]:
    """Train the prior without labels unless its weights are given; the recipe that names where they lie."""
    prior_config = recipe.network.prior
    if not prior_config.path:
        public = load_views(load_dataset(recipe.prior_data), recipe.network.image_size)
        save_prior(pretrain(prior_config, public, to_network, recipe.prior_steps, run), folder)
        prior_config = replace(prior_config, path=str(folder))
        recipe = replace(recipe, network=replace(recipe.network, prior=prior_config))
    return recipe, load_prior(prior_config)


def counted(recipe: FedMASRecipe, y: Int[np.ndarray, " n"]) -> FedMASConfig:
    """The network's form with the class counts by which head and tail are told apart."""
    counts = tuple(np.bincount(y, minlength=len(recipe.network.labels)).tolist())
    return replace(recipe.form, class_counts=counts)


def finished(config: FedMASConfig, state: dict[str, Tensor], prior: nn.Module | None) -> FedMAS:
    """The global network, and the small prior beside it."""
    model = FedMAS(replace(config, prior=replace(config.prior, path="")))
    balanced = {name.removeprefix("balanced."): t for name, t in state.items() if name.startswith("balanced.")}
    model.network.load_state_dict({name: t for name, t in state.items() if not name.startswith("balanced.")})
    if balanced:  # CReFF decides by the classifier that the server re-trained
        model.network.classifier.load_state_dict(balanced)
    if prior is not None and model.prior is not None:
        model.prior.load_state_dict(prior.state_dict())
    return model


def report(
    recipe: FedMASRecipe, data: TrainData, y: Int[np.ndarray, " n"], network: Network, outcome: Outcome, final: Outcome,
    seed: int, out: Path,
) -> None:  # fmt: skip
    """``scores.json`` of the test part, and the figures of the split and of the training."""
    config = counted(recipe, y)
    if len(data.test):
        found = predict_labels(network.to("cpu"), load_views(data.test, config.image_size))
        attribute = data.test.values(recipe.attribute) if recipe.attribute else ()
        record: dict[str, Any] = {"global": scores(found, labels_of(data.test, config.labels), config, attribute)}
        own = [row.get("own-balanced-accuracy", math.nan) for row in final.clients]
        own = [value for value in own if math.isfinite(value)]
        if own:  # of each client's own model on its own test cases
            record["local"] = {"balanced_accuracy": float(np.mean(own)), "clients": len(own)}
        write_file(out / "scores.json", json.dumps(record, indent=2) + "\n")
    training_figures(outcome.clients, config.labels, config.class_counts, config.groups, out)
    parts = divided(recipe.partition, data.train, y, recipe.clients, recipe.alpha, seed)
    split_figure([config.labels[k] for k in y], parts, out / "split.png")


ISIC = {"optimizer": "adam", "lr": 3e-4, "schedule": "constant"}
training = Training(
    recipe=FedMASRecipe,
    federation=build,
    presets={
        "paper": {"network": FedMASConfig(HYPERKVASIR_CLASSES)},
        "hyperkvasir": {"network": FedMASConfig(HYPERKVASIR_CLASSES)},
        "isic": {**ISIC, "clients": 4},
        "flamby": {**ISIC, "clients": 6, "partition": "column:center"},
        # A small network from scratch with a small prior trained without labels: under a minute on one CPU core.
        "demo": {
            "network": FedMASConfig(
                encoder="small", small_channels=(16, 24, 32), prior=PriorConfig("small", channels=(16, 24, 32)),
                projector_width=128, image_size=40, head_above=60, tail_below=20,
            ),
            "pretrained": False, "clients": 4, "rounds": 40, "local_epochs": 2, "optimizer": "adam", "lr": 4e-3,
            "prior_data": "phantom:skin-lesion?n=240&seed=500000&size=64", "prior_steps": 120,
            "report_distances": True, "dtype": "float16",
        },
    },
    run=train,
)  # fmt: skip
