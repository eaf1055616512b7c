"""The federation: who holds what, which loss and which aggregation a method means, and what is left when it's over.

A method is a row of ``PLANS``; ``client.py`` is what a client does in a round, and the server averages by samples,
equally, or by the clients' rescue factors (Eq. 5).
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from zoo import media
from zoo.data.endoscopy import HYPERKVASIR_CLASSES
from zoo.data.sets import Dataset, load_dataset, table_rows
from zoo.data.splits import TrainData
from zoo.errors import DataError, OptionError
from zoo.models.fed_mas.augment import augmented
from zoo.models.fed_mas.model import FedMAS, FedMASConfig, Network, build_network, to_network, view
from zoo.models.fed_mas.prior import PriorConfig, load_prior, pretrain, prior_features, save_prior
from zoo.models.fed_mas.scores import scores
from zoo.training import Training

if TYPE_CHECKING:
    from flwr.app import ArrayRecord

    from zoo.data.case import Case
    from zoo.federated import Federation, Outcome
    from zoo.models.fed_mas.client import Shard, Site
    from zoo.training import Run

Loss = Literal["ce", "bsm", "ldam", "fedlc"]
Aggregation = Literal["samples", "uniform", "mas"]
MethodName = Literal["fedavg", "fedprox", "moon", "ldam", "bsm", "creff", "fedlc", "kd", "fed-mas"]
WEIGHTS = {"samples": "samples", "uniform": "uniform", "mas": "metric:rescue-factor"}


@dataclass(frozen=True)
class Plan:
    """What a method is made of: the supervised loss, the terms beside it, and how clients are weighted."""

    loss: Loss = "ce"
    distil: bool = False  # + lambda_f L_f (Eq. 4)
    aggregation: Aggregation = "samples"
    proximal: bool = False
    contrastive: bool = False
    federated_features: bool = False


PLANS: dict[str, Plan] = {
    "fedavg": Plan(),
    "fedprox": Plan(proximal=True),
    "moon": Plan(contrastive=True),
    "ldam": Plan("ldam"),
    "bsm": Plan("bsm"),
    "creff": Plan(federated_features=True),
    "fedlc": Plan("fedlc"),
    "kd": Plan("bsm", distil=True),
    "fed-mas": Plan("bsm", distil=True, aggregation="mas"),
}


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
    alpha: float = field(default=0.5, metadata={"min": 1e-3})  # of ``dirichlet``; Sec. 3
    rounds: int = field(default=200, metadata={"min": 1})  # Sec. 3
    local_epochs: int = field(default=10, metadata={"min": 1})  # E, Sec. 3
    batch_size: int = field(default=32, metadata={"min": 2})  # open
    optimizer: Literal["sgd", "adam"] = "sgd"  # Sec. 3; its state begins anew in each round
    lr: float = field(default=0.1, metadata={"min": 0.0})  # Sec. 3
    schedule: Literal["cosine", "constant"] = "cosine"  # over the rounds; Sec. 3
    momentum: float = field(default=0.9, metadata={"min": 0.0, "max": 1.0})  # open
    weight_decay: float = field(default=5e-4, metadata={"min": 0.0})  # open
    lambda_f: float = field(default=3.0, metadata={"min": 0.0})  # Table 4
    absent: float = field(default=1e-9, metadata={"min": 1e-30, "max": 1.0})  # what a class of no images counts; open
    rf_norm: Literal["sum", "mean"] = "sum"  # of Eq. 3 over classes; the mean is an experiment of ours
    mu: float = field(default=0.01, metadata={"min": 0.0})  # of FedProx and MOON; Table 8 searches .001 to 1
    moon_tau: float = field(default=0.5, metadata={"min": 1e-3})
    fedlc_tau: float = field(default=1.0, metadata={"min": 0.0})
    crt_rounds: int = field(default=0, metadata={"min": 0})  # afterwards, for the classifier alone (Table 7)
    classifier_only: bool = False  # what these rounds set: encoder frozen, classes drawn equally often
    augment: bool = True  # crops of .6 to 1, flips, mild colour; open
    pretrained: bool = True  # Sec. 3: ImageNet; ``small`` starts at random
    attribute: str = ""
    """A column, or ``file:PATH`` (a table with id and value), whose values are also scored each on its own (Table 3:
    skin tone)."""
    report_distances: bool = False
    """Clients also send w_k, for the figure of distance against class counts. The method doesn't: w_k tells the server
    which classes a client lacks."""
    prior_data: str = "phantom:skin-lesion?n=400&seed=500000&size=96"  # public images for a ``small`` prior, no labels
    prior_steps: int = field(default=300, metadata={"min": 1})  # of its training
    feature_cache: str = ""  # folder for the prior's features, to share between runs; by default the run's own
    dtype: Literal["float32", "float16"] = "float32"  # of the saved weights

    @property
    def plan(self) -> Plan:
        """The method with its parts replaced. Raises ``OptionError`` for parts that don't go together."""
        plan = PLANS[self.method]
        plan = plan if self.loss == "method" else replace(plan, loss=self.loss)
        plan = plan if self.kd == "method" else replace(plan, distil=self.kd == "on")
        plan = plan if self.aggregation == "method" else replace(plan, aggregation=self.aggregation)
        if plan.aggregation == "mas" and not plan.distil:
            raise OptionError("aggregation=mas needs distillation, which trains the projector; set kd=on")
        if plan.distil and self.lambda_f == 0:
            raise OptionError("lambda_f=0 leaves the projector untrained; set it above 0, or choose method=bsm")
        if plan.distil and self.network.prior.kind == "none":
            raise OptionError(f"method={self.method} distils a prior; set network.prior.kind to moco, clip or small")
        if plan.federated_features and plan.loss == "ldam":
            raise OptionError("method=creff re-trains a linear classifier, and loss=ldam needs one of cosines")
        return plan

    @property
    def form(self) -> FedMASConfig:
        """The network that the method needs: a projector only to distil, cosines only for LDAM."""
        plan = self.plan
        prior = self.network.prior if plan.distil else replace(self.network.prior, kind="none")
        return replace(self.network, prior=prior, cosine_classifier=plan.loss == "ldam")


# ---- the parts of a federation ---------------------------------------------------------------------------------------


def build(recipe: FedMASRecipe, data: TrainData, seed: int) -> Federation:
    """The federation of a recipe, the same in every process; ``recipe.network.prior.path`` holds a trained prior."""
    config, plan = recipe.form, recipe.plan
    y = labels_of(data.train, config.labels)
    partitions = divide(recipe, data.train, y, seed)
    prior_cache: list[Any] = []

    def shard(client: int) -> Shard:
        from zoo.models.fed_mas.client import Shard

        places = partitions[client]
        views = load_views(data.train.subset(places), config.image_size)
        features = None
        if plan.distil:
            if not prior_cache:
                prior_cache.append(load_prior(config.prior))
            folder = Path(recipe.feature_cache).expanduser() if recipe.feature_cache else None
            features = prior_features(prior_cache[0], views, to_network, folder)
        return Shard(views, torch.from_numpy(y[places]), features, own_test(recipe, data, int(places[0]), config))

    site = _site(recipe, shard)
    validation: list[tuple[Tensor, np.ndarray]] = []

    def evaluate(_: int, arrays: ArrayRecord) -> dict[str, float] | None:
        if not len(data.validation):
            return None
        if not validation:
            validation.append(
                (load_views(data.validation, config.image_size), labels_of(data.validation, config.labels))
            )
        network = site.network()
        network.load_state_dict(arrays.to_torch_state_dict())
        found = predict_labels(network, validation[0][0])
        return group_scores(recipe, found, validation[0][1], np.bincount(y, minlength=len(config.labels)))

    return federation(site, partitions, seed=seed, pretrained=recipe.pretrained, evaluate=evaluate)


def _site(recipe: FedMASRecipe, shard: Any) -> Site:
    from zoo.models.fed_mas.client import Site

    def augment(views: Tensor, rng: np.random.Generator) -> Tensor:
        return to_network(augmented(views.float() / 255, rng))

    return Site(
        recipe,
        recipe.plan,
        partial(form_network, recipe),
        shard,
        len(recipe.network.labels),
        to_network,
        augment if recipe.augment else None,
        recipe.classifier_only,
    )


def form_network(recipe: FedMASRecipe, pretrained: bool = False) -> Network:
    """What travels: the network, and CReFF's second classifier, which starts as the first."""
    network = build_network(recipe.form, pretrained=pretrained and recipe.network.encoder == "resnet18")
    if recipe.plan.federated_features:
        network.balanced = torch.nn.Linear(network.classifier.in_features, network.classifier.out_features)
        network.balanced.load_state_dict(network.classifier.state_dict())
    return network


def federation(
    site: Site, partitions: Sequence[np.ndarray], *, seed: int, pretrained: bool = False, evaluate: Any = None
) -> Federation:
    """The server's side: FedAvg of the clients by the plan's weights; CReFF adds the classifier's re-training."""
    from flwr.serverapp.strategy import FedAvg

    from zoo.federated import Federation
    from zoo.models.fed_mas.client import client_app
    from zoo.models.fed_mas.creff import CReFF

    options: dict[str, Any] = {"fraction_evaluate": 0.0, "min_train_nodes": 1, "min_available_nodes": 1}
    strategy = FedAvg(**options)
    if site.plan.federated_features:
        strategy = CReFF(site.classes, site.network().classifier.in_features, seed=seed, **options)
    return Federation(
        model=partial(site.network, pretrained=True) if pretrained else site.network,
        strategy=strategy,
        client=client_app(site),
        partitions=partitions,
        rounds=site.recipe.rounds,
        weights="samples" if site.classifier_only else WEIGHTS[site.plan.aggregation],
        evaluate=evaluate,
        target="label",
        same_shapes=not site.plan.federated_features,  # CReFF's clients add their classifier gradients
    )


def divide(recipe: FedMASRecipe, cases: Dataset, y: Int[np.ndarray, " n"], seed: int) -> list[np.ndarray]:
    """Which client holds which cases. Raises ``OptionError`` for an unknown way, ``DataError`` for unfit data."""
    from zoo.federated import by_attribute, by_file, dirichlet, iid

    kind, _, name = recipe.partition.partition(":")
    if recipe.partition == "iid":
        return list(iid(len(cases), recipe.clients, seed))
    if recipe.partition == "dirichlet":
        return list(dirichlet(y, recipe.clients, recipe.alpha, seed))
    if kind == "column" and name:
        return list(by_attribute(cases, name))
    if kind == "file" and name:
        return list(by_file(cases, name))
    raise OptionError(f"partition must be iid, dirichlet, column:NAME or file:PATH, not {recipe.partition!r}")


def own_test(
    recipe: FedMASRecipe, data: TrainData, place: int, config: FedMASConfig
) -> tuple[UInt8[Tensor, "n 3 s s"], Int[Tensor, " n"]] | None:
    """The test cases that share a client's value of the column by which cases were divided; none without a column."""
    kind, _, name = recipe.partition.partition(":")
    if kind != "column":
        return None
    value = data.train[place].attributes.get(name)
    places = [i for i, case in enumerate(data.test) if case.attributes.get(name) == value]
    cases = data.test.subset(places)
    return load_views(cases, config.image_size), torch.from_numpy(labels_of(cases, config.labels))


def labels_of(cases: Dataset, labels: Sequence[str]) -> Int[np.ndarray, " n"]:
    """The class of every case. Raises ``DataError`` for a case without label, or with one that isn't in ``labels``."""
    return np.array([class_of(case, labels) for case in cases], dtype=np.int64)


def class_of(case: Case, labels: Sequence[str]) -> int:
    """The place of a case's label among ``labels``; a number counts as a place."""
    if case.label is None:
        raise DataError(f"case {case.id} has no label; every client trains on labelled cases")
    if str(case.label) in labels:
        return list(labels).index(str(case.label))
    if str(case.label).isdigit() and int(str(case.label)) < len(labels):
        return int(str(case.label))
    raise DataError(
        f"case {case.id} has the label {case.label!r}, which is none of {', '.join(labels)}; "
        "choose other classes with --set network.labels=A,B,..."
    )


def in_memory(data: TrainData) -> TrainData:
    """The data set with every phantom made once instead of each time that it's looked at; files stay files."""

    def made(part: Dataset) -> Dataset:
        entries = [replace(e, case=e.case() if callable(e.case) else e.case) for e in part.entries]
        return Dataset(part.spec, entries, part.columns, part.labels)

    return TrainData(made(data.train), made(data.validation), made(data.test))


def load_views(cases: Dataset, size: int) -> UInt8[Tensor, "n 3 s s"]:
    """The images as the network takes them, in memory."""
    views = [view(media.read(case.image).require_2d("fed-mas"), size) for case in cases]
    stacked = np.stack(views) if views else np.zeros((0, size, size, 3), np.uint8)
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous()


@torch.no_grad()
def predict_labels(network: Network, views: UInt8[Tensor, "n 3 s s"]) -> Int[np.ndarray, " n"]:
    """The most probable class of every image."""
    network.eval()
    device = next(network.parameters()).device
    parts = [network(to_network(part.to(device))).logits.argmax(1).cpu() for part in views.split(128)]
    return torch.cat(parts).numpy()


def group_scores(
    recipe: FedMASRecipe,
    found: Int[np.ndarray, " n"],
    y: Int[np.ndarray, " n"],
    counts: Int[np.ndarray, " k"],
    attribute: Sequence[Any] = (),
) -> dict[str, float]:
    limits = {"head_above": recipe.network.head_above, "tail_below": recipe.network.tail_below}
    return scores(found, y, counts.tolist(), attribute=attribute, **limits)


# ---- the whole training ----------------------------------------------------------------------------------------------


def train(recipe: FedMASRecipe, data: TrainData, run: Run) -> FedMAS:
    """A small prior first if one is asked for, then the federation, then cRT; scores and figures into ``run.out``."""
    from zoo.federated import federate
    from zoo.federated.engines import construct
    from zoo.federated.federation import check
    from zoo.storage import remove_folder

    config, data = recipe.form, in_memory(data)
    attribute_values(recipe.attribute, data.test)  # refuses an unfit file before the first round
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
        outcome: Outcome = federate(build, recipe, data, run)
        if recipe.crt_rounds:
            again = replace(recipe, classifier_only=True, rounds=recipe.crt_rounds)
            final = federate(build, again, data, run, stage="crt", arrays=outcome.state_dict())
        else:
            final = outcome
        model = finished(recipe, final.state_dict(), y, prior)
        if run.out is not None and run.is_main:
            report(recipe, data, y, model, outcome, final, run.seed, run.out)
            remove_folder(folder)
    return model.to(run.device).eval()


def _with_small_prior(recipe: FedMASRecipe, run: Run, folder: Path) -> tuple[FedMASRecipe, torch.nn.Module]:
    """Train the prior without labels unless its weights are given; the recipe that names where they lie."""
    prior_config = recipe.network.prior
    if not prior_config.path:
        public = load_views(load_dataset(recipe.prior_data), recipe.network.image_size)
        save_prior(pretrain(prior_config, public, to_network, recipe.prior_steps, run), folder)
        prior_config = replace(prior_config, path=str(folder))
        recipe = replace(recipe, network=replace(recipe.network, prior=prior_config))
    return recipe, load_prior(prior_config)


def finished(
    recipe: FedMASRecipe, state: dict[str, Tensor], y: Int[np.ndarray, " n"], prior: torch.nn.Module | None
) -> FedMAS:
    """The global network with the class counts by which ``predict`` tells head from tail."""
    counts = tuple(np.bincount(y, minlength=len(recipe.network.labels)).tolist())
    form = recipe.form
    model = FedMAS(replace(form, class_counts=counts, prior=replace(form.prior, path="")))
    balanced = {name.removeprefix("balanced."): t for name, t in state.items() if name.startswith("balanced.")}
    model.network.load_state_dict({name: t for name, t in state.items() if not name.startswith("balanced.")})
    if balanced:  # CReFF decides by the classifier that the server re-trained
        model.network.classifier.load_state_dict(balanced)
    if prior is not None and model.prior is not None:
        model.prior.load_state_dict(prior.state_dict())
    return model


def report(
    recipe: FedMASRecipe,
    data: TrainData,
    y: Int[np.ndarray, " n"],
    model: FedMAS,
    outcome: Outcome,
    final: Outcome,
    seed: int,
    out: Path,
) -> None:
    """``scores.json`` of the test part, and the figures of the split and of the training."""
    from zoo.federated import split_figure
    from zoo.models.fed_mas.result import training_figures
    from zoo.storage import write_file

    counts = np.bincount(y, minlength=len(recipe.network.labels))
    if len(data.test):
        truth = labels_of(data.test, recipe.network.labels)
        attribute = attribute_values(recipe.attribute, data.test)
        found = predict_labels(model.network.to("cpu"), load_views(data.test, recipe.network.image_size))
        record: dict[str, Any] = {"global": group_scores(recipe, found, truth, counts, attribute)}
        own = [row.get("own-balanced-accuracy", math.nan) for row in final.clients]
        own = [value for value in own if math.isfinite(value)]
        if own:  # of each client's own model on its own test cases
            record["local"] = {"balanced_accuracy": float(np.mean(own)), "clients": len(own)}
        write_file(out / "scores.json", json.dumps(record, indent=2) + "\n")
    training_figures(outcome, counts, recipe.network, out)
    names = [recipe.network.labels[k] for k in y]
    split_figure(names, divide(recipe, data.train, y, seed), out / "split.png")


def attribute_values(where: str, cases: Dataset) -> list[str]:
    """The attribute of every case, from a column or from ``file:PATH``; ``unknown`` where it isn't stated.

    Raises ``DataError`` for a file that isn't there or lacks the columns ``id`` and ``value``.
    """
    if not where:
        return []
    kind, _, name = where.partition(":")
    if kind != "file":
        return [str(case.attributes.get(where, "unknown")) for case in cases]
    path = Path(name).expanduser()
    if not path.is_file():
        raise DataError(f"there is no file {path} that states the attribute of the cases")
    rows = table_rows(path)
    if not rows or not {"id", "value"} <= rows[0].keys():
        raise DataError(f"{path} needs the columns id and value")
    stated = {str(row.get("id")): str(row.get("value", "unknown")) for row in rows}
    return [stated.get(name, "unknown") for name in cases.ids]


SKIN = FedMASConfig()
ISIC = {"optimizer": "adam", "lr": 3e-4, "schedule": "constant"}
training = Training(
    recipe=FedMASRecipe,
    federation=build,
    presets={
        "paper": {"network": replace(SKIN, labels=HYPERKVASIR_CLASSES)},
        "hyperkvasir": {"network": replace(SKIN, labels=HYPERKVASIR_CLASSES)},
        "isic": {**ISIC, "clients": 4},
        "flamby": {**ISIC, "clients": 6, "partition": "column:center"},
        # A small network from scratch with a small prior trained without labels: under a minute on one CPU core.
        "demo": {
            "network": FedMASConfig(
                encoder="small",
                small_channels=(16, 24, 32),
                prior=PriorConfig(kind="small", channels=(16, 24, 32)),
                projector_width=128,
                image_size=40,
                head_above=60,
                tail_below=20,
            ),
            "pretrained": False,
            "clients": 4,
            "rounds": 40,
            "local_epochs": 2,
            "optimizer": "adam",
            "lr": 4e-3,
            "prior_data": "phantom:skin-lesion?n=240&seed=500000&size=64",
            "prior_steps": 120,
            "report_distances": True,
            "dtype": "float16",
        },
    },
    run=train,
)
