"""The federation: who holds what, who counts how much, and what is left when it's over.

A method is a row of ``PLANS``. The recipe and what a client does are in ``client.py``; the server averages by samples,
equally, or by the clients' rescue factors (Eq. 5).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from zoo.data.augment import blurred_views, cropped_views
from zoo.data.layouts.hyperkvasir import HYPERKVASIR_CLASSES
from zoo.data.sets import load_dataset
from zoo.data.splits import PARTS, TrainData
from zoo.errors import OptionError
from zoo.federated import Best, Federation, State, average, check, construct, divided, split_figure
from zoo.federated.creff import CReFF
from zoo.federated.federation import Aggregate
from zoo.models.fed_mas.client import FedMASRecipe, Site, client
from zoo.models.fed_mas.data import Shard, labels_of, load_views, own_test, predict_labels, report, scores
from zoo.models.fed_mas.model import FedMAS, FedMASConfig, build_network, to_network
from zoo.models.fed_mas.prior import PriorConfig, load_prior, prior_features, save_prior, small_encoder
from zoo.models.fed_mas.result import training_figures
from zoo.storage import remove_folder, user_path
from zoo.training import Run, Training
from zoo.training.contrastive import pretrain


def build(recipe: FedMASRecipe, data: TrainData, seed: int) -> Federation:
    """The federation of a recipe, the same in every process; ``recipe.network.prior.path`` holds a trained prior."""
    config, plan = recipe.form, recipe.plan
    form = partial(build_network, config, balanced=plan.federated_features)
    y = labels_of(data.train, config.labels)
    if recipe.keep == "best" and not len(data.validation):
        raise OptionError("keep=best chooses a round on validation cases, and there are none; set keep=last")
    partitions = divided(recipe.partition, data.train, y, recipe.clients, recipe.alpha, seed)
    if config.projector == "normed" and plan.distil and min(map(len, partitions)) < 2:
        raise OptionError("a client has one image only, and network.projector=normed needs two; use fewer clients")
    prior = cache(partial(load_prior, config.prior))

    @cache
    def shard(client: int) -> Shard:
        places = partitions[client]
        views = load_views(data.train.subset(places), config)
        features = None
        if plan.distil and not recipe.live_prior:
            folder = user_path(recipe.feature_cache) if recipe.feature_cache else None
            features = prior_features(prior(), views, to_network, folder)
        test = own_test(data, int(places[0]), recipe.partition, config)
        return Shard(views, torch.from_numpy(y[places]), features, test)

    @cache
    def validation() -> tuple[Tensor, np.ndarray]:
        return load_views(data.validation, config), labels_of(data.validation, config.labels)

    def evaluate(state: State) -> dict[str, float] | None:
        if not len(data.validation):
            return None
        network, (views, truth) = form(), validation()
        network.load_state_dict(state.network)
        return scores(predict_labels(network, views), truth, counted(recipe, y))

    def augment(views: Tensor, rng: np.random.Generator) -> Tensor:
        make = cropped_views if recipe.views == "crops" else blurred_views
        return to_network(make(views.float() / 255, rng))

    live = (lambda x: prior().to(x.device)(x).detach()) if plan.distil and recipe.live_prior else None
    site = Site(recipe, form, shard, len(config.labels), to_network, augment if recipe.augment else None, live)
    start = lambda: {"network": form(pretrained=recipe.pretrained)}  # noqa: E731
    judge = lambda state: (evaluate(state) or {})["balanced_accuracy"]  # noqa: E731
    return replace(federation(site, partitions, seed, judge), start=start, evaluate=evaluate)


def federation(
    site: Site, partitions: Sequence[np.ndarray], seed: int, judge: Callable[[State], float] | None = None
) -> Federation:
    """FedAvg of the clients by the plan's weights; CReFF adds the classifier's re-training.

    ``judge``: balanced accuracy of a state, by which ``keep=best`` chooses.
    """
    plan = site.recipe.plan
    aggregate: Aggregate = CReFF(seed) if plan.federated_features else average
    if site.recipe.keep == "best" and judge is not None:
        aggregate = Best(aggregate, judge)
    return Federation(
        model=site.form,
        client=partial(client, site=site),
        data=site.shard,
        partitions=partitions,
        rounds=site.recipe.rounds,
        aggregate=aggregate,
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
            config = model.config
            parts = divided(recipe.partition, data.train, y, recipe.clients, recipe.alpha, run.seed)
            report(data.test, model.network, config, recipe.attribute, final, run.out)
            training_figures(outcome.clients, config.labels, config.class_counts, config.groups, run.out)
            split_figure([config.labels[k] for k in y], parts, run.out / "split.png")
            remove_folder(folder)
    return model.to(run.device).eval()


def _with_small_prior(recipe: FedMASRecipe, run: Run, folder: Path) -> tuple[FedMASRecipe, nn.Module]:
    """Train the prior without labels unless its weights are given; the recipe that names where they lie."""
    prior_config = recipe.network.prior
    if not prior_config.path:
        public = load_views(load_dataset(recipe.prior_data), recipe.network)
        make = partial(small_encoder, prior_config.channels)
        save_prior(pretrain(make, public, to_network, recipe.prior_steps, run, "prior"), folder)
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


ISIC: dict[str, Any] = {"optimizer": "adam", "lr": 3e-4, "schedule": "constant"}
FLAMBY = {**ISIC, "clients": 6, "partition": "column:center"}
# What the authors' code sets. It chooses the best round on the test's lists; here it's the validation part.
RELEASED = {
    "network": {"projector": "normed", "second_head": True, "squeeze": True}, "views": "blurred", "live_prior": True,
    "drop_last": True, "rf_norm": "shares", "keep_optimizer": True, "clip": 5.0, "keep": "best", "batch_size": 64,
    "nesterov": True, "weight_decay": 1e-4, "lr_floor": 1e-3, "fedlc_tau": 0.5,
}  # fmt: skip
training = Training(
    recipe=FedMASRecipe,
    federation=build,
    readings={"released": RELEASED},
    presets={
        "paper": {"network": {"labels": HYPERKVASIR_CLASSES}},
        "hyperkvasir": {"network": {"labels": HYPERKVASIR_CLASSES}},
        "isic": {**ISIC, "clients": 4},
        "flamby": FLAMBY,
        "flamby-released": {**FLAMBY, "recipe": "released", "rounds": 100, "local_epochs": 1},
        # A small network from scratch with a small prior trained without labels: under a minute on one CPU core.
        "demo": {
            "network": {
                "encoder": "small", "small_channels": (16, 24, 32), "projector_width": 128, "image_size": 40,
                "prior": PriorConfig("small", channels=(16, 24, 32)), "head_above": 60, "tail_below": 20,
            },
            "pretrained": False, "clients": 4, "rounds": 40, "local_epochs": 2, "optimizer": "adam", "lr": 4e-3,
            "prior_data": "phantom:skin-lesion?n=240&seed=500000&size=64", "prior_steps": 120,
            "report_distances": True, "dtype": "float16",
        },
    },
    run=train,
)  # fmt: skip
