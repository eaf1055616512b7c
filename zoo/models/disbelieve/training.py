"""How the audit trains: the same federation again and again, unattacked and under attack, for each aggregator.

All runs share initial network, clients, batches and rates, so that the attack alone tells them apart. What is kept is
the unattacked global model of the first aggregator; the poisoned ones go beside it under names that say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from zoo import media
from zoo.data.splits import Split
from zoo.errors import DataError, OptionError
from zoo.models.disbelieve import plugin
from zoo.models.disbelieve.attacks import (
    Ascent,
    AttackName,
    AttackSettings,
    Data,
    Direction,
    Search,
    Share,
    refuse_federation,
)
from zoo.models.disbelieve.model import Curve, Disbelieve, DisbelieveConfig, build_network, normalise, prepare
from zoo.seeds import derive_seed
from zoo.training import Training

if TYPE_CHECKING:
    from zoo.data.case import Case
    from zoo.data.sets import Dataset
    from zoo.federated import Federation
    from zoo.models.disbelieve.audit import Audit
    from zoo.training import Run, TrainData

CHEXPERT_LABELS = (
    "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation", "Pneumonia",
    "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
CIFAR10_LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
AggregatorName = Literal["fedavg", "krum", "trimmed-mean", "dos"]


@dataclass(frozen=True)
class DisbelieveRecipe:
    """The paper's federation on HAM10k; comments name the section, or say that the paper leaves a value open."""

    network: DisbelieveConfig = field(default_factory=DisbelieveConfig)
    attack: AttackName = "disbelieve"
    """Its poisoned global models are kept beside the clean one; ``none`` trains the clean one alone."""
    baselines: tuple[AttackName, ...] = ()
    """Further attacks that are run for their AUC curves; their models aren't kept."""
    aggregator: tuple[AggregatorName, ...] = ("dos",)
    """The rules under audit. The clean global model is the first one's."""
    share: Share = "params"  # Sec. 3.2: params for HAM10k and CheXpert, grads for BreakHis and CIFAR-10
    clients: int = field(default=10, metadata={"min": 1, "max": 1000})  # n; Sec. 3.2
    attackers: int = field(default=4, metadata={"min": 0, "max": 499})
    """f; Sec. 3.2. Krum and the trimmed mean are told the true number, also where nobody attacks."""
    rounds: int = field(default=120, metadata={"min": 1})  # Sec. 3.2
    local_epochs: int = field(default=3, metadata={"min": 1})  # Sec. 3.2
    batch_size: int = field(default=890, metadata={"min": 1})  # Sec. 3.2
    lr: float = field(default=0.01, metadata={"min": 0.0})  # Sec. 3.2; of plain SGD, the optimiser is open
    server_lr: float = field(default=1e-3, metadata={"min": 0.0})  # of Adam on the server, with share=grads
    alpha: float | None = field(default=0.5, metadata={"min": 1e-3})
    """Of the Dirichlet distribution of classes over clients, which the paper calls non-iid; none: clients are alike."""
    samples: int | None = field(default=None, metadata={"min": 1})
    """Cases that each client draws, with replacement; none: the training cases are divided among the clients."""
    search: Search = "corrected"  # Algorithm 2; as_printed moves the wrong way
    inner_steps: int = field(default=0, metadata={"min": 0})  # Algorithm 2; 0: the gradient at the global model
    project: bool = True  # Algorithm 1: land on the sphere, or stop one step before it
    clip: float = field(default=10.0, metadata={"min": 1e-6})  # of the ascent's gradient; open
    ascent_epochs: int = field(default=50, metadata={"min": 1})  # Algorithm 1, at most; open
    threshold: Literal["paper", "max", "min", "mean"] = "paper"  # distance that bounds the attack
    direction: Direction = "std"  # Min-Max
    dtype: Literal["float32", "float16"] = "float32"  # of the saved weights

    @property
    def attack_settings(self) -> AttackSettings:
        ascent = Ascent(self.lr, self.batch_size, self.ascent_epochs, self.clip, self.project)
        return AttackSettings(self.attack, self.direction, ascent, self.search, self.inner_steps, self.threshold)


# ---- data ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Images:
    """Labelled images as the network takes them, before normalisation."""

    views: Tensor  # uint8 [n s s c]
    y: Tensor  # int64 [n], or float32 [n c] where a case may have several labels

    def data(self, rows: Sequence[int] | np.ndarray, config: DisbelieveConfig) -> Data:
        place = torch.as_tensor(np.asarray(rows), dtype=torch.int64)
        return normalise(self.views[place], config), self.y[place]

    @property
    def classes(self) -> Int[np.ndarray, " n"]:
        """One number for each case to divide by: the class, or the first label that it has."""
        return (self.y.argmax(1) if self.y.is_floating_point() else self.y).numpy()


_loaded: dict[Any, Images] = {}  # the latest two parts of a data set: many federations of one audit read them


def load_images(dataset: Dataset, config: DisbelieveConfig) -> Images:
    """Read and scale all cases. Raises ``DataError`` for a label that the configuration doesn't name."""
    key = (dataset.spec, tuple(dataset.ids), config.labels, config.image_size, config.channels, config.multi_label)
    if key not in _loaded:
        views, targets = [], []
        for case in dataset:
            views.append(prepare(media.read(case.image).require_2d(plugin.name), config))
            targets.append(target_of(case, config))
        size = (0, config.image_size, config.image_size, config.channels)
        stacked = torch.from_numpy(np.stack(views)) if views else torch.zeros(size, dtype=torch.uint8)
        y = torch.tensor(targets, dtype=torch.float32 if config.multi_label else torch.int64)
        while len(_loaded) > 1:
            _loaded.pop(next(iter(_loaded)))
        _loaded[key] = Images(stacked, y)
    return _loaded[key]


def target_of(case: Case, config: DisbelieveConfig) -> int | list[float]:
    """The place of a case's label among those of the network; with several labels, 0 or 1 for each.

    Several are joined by ``|``, and an empty text means none of them. Raises ``DataError`` for an unknown one.
    """
    labels = list(config.labels)
    text = "" if case.label is None else str(case.label)
    names = [name.strip() for name in text.split("|") if name.strip()] if config.multi_label else [text]
    if not config.multi_label and text.isdigit() and text not in labels and int(text) < len(labels):
        return int(text)
    if case.label is None or any(name not in labels for name in names if name not in NOTHING):
        raise DataError(
            f"case {case.id} has the label {case.label!r}, which is none of {', '.join(labels)}; "
            "name the labels with --set network.labels=..."
        )
    return [float(label in names) for label in labels] if config.multi_label else labels.index(text)


NOTHING = ("none", "No Finding")  # what a case without any of several labels may be called


def divide(recipe: DisbelieveRecipe, classes: Int[np.ndarray, " n"], seed: int) -> list[Int[np.ndarray, " m"]]:
    """Each client's training cases. Raises ``DataError`` when a client would have none."""
    if recipe.samples is not None:
        rng = np.random.default_rng(derive_seed(seed, "partition"))
        return [draw_client(classes, recipe.samples, recipe.alpha, rng) for _ in range(recipe.clients)]
    from zoo.federated import dirichlet, iid

    if len(classes) < recipe.clients:
        raise DataError(
            f"{len(classes)} training cases can't be divided among {recipe.clients} clients, some would hold none; "
            "use fewer clients, or let them draw with replacement with --set samples=..."
        )
    if recipe.alpha is None:
        return [np.asarray(part) for part in iid(len(classes), recipe.clients, seed)]
    return [np.asarray(part) for part in dirichlet(classes, recipe.clients, recipe.alpha, seed)]


def draw_client(
    classes: Int[np.ndarray, " n"], count: int, alpha: float | None, rng: np.random.Generator
) -> Int[np.ndarray, " m"]:
    """So many cases with replacement, their mix of classes drawn from a Dirichlet distribution (or all alike)."""
    present = np.unique(classes)
    shares = rng.dirichlet(np.full(len(present), alpha)) if alpha is not None else np.full(len(present), 1.0)
    counts = rng.multinomial(count, shares / shares.sum())
    return np.concatenate([rng.choice(np.flatnonzero(classes == c), k) for c, k in zip(present, counts, strict=True)])


def controlled_clients(recipe: DisbelieveRecipe, seed: int) -> tuple[int, ...]:
    """Which clients the attacker holds: the first f of a seeded permutation."""
    rng = np.random.default_rng(derive_seed(seed, "attackers"))
    return tuple(sorted(rng.permutation(recipe.clients)[: recipe.attackers].tolist()))


# ---- one federation ------------------------------------------------------------------------------------------------


def build(recipe: DisbelieveRecipe, data: TrainData, seed: int) -> Federation:
    """The federation of ``recipe.attack`` under the first of ``recipe.aggregator``, alike in every process."""
    from flwr.app import ArrayRecord

    from zoo.federated import Federation
    from zoo.models.disbelieve.aggregators import aggregator
    from zoo.models.disbelieve.federation import (
        Attacker,
        AuditedStrategy,
        ClientSettings,
        client_app,
        measure,
    )

    refuse_federation(recipe.clients, recipe.attackers, recipe.attack)
    images = load_images(data.train, recipe.network)
    config = measured(recipe.network, images)
    partitions = divide(recipe, images.classes, seed)
    make_network = partial(initial_network, config, seed)
    attacker = None
    if recipe.attack != "none":
        controlled = controlled_clients(recipe, seed)
        pooled = images.data(np.concatenate([partitions[client] for client in controlled]), config)
        attacker = Attacker(recipe.attack_settings, controlled, pooled, make_network())
    strategy = AuditedStrategy(
        aggregator(recipe.aggregator[0], recipe.clients, recipe.attackers, fraction_evaluate=0.0),
        [name for name, _ in make_network().named_parameters()],
        rounds=recipe.rounds,
        share=recipe.share,
        server_lr=recipe.server_lr,
        attacker=attacker,
        seed=seed,
    )
    judge = make_network()
    watched = watch(data, images, config)

    def evaluate(server_round: int, arrays: ArrayRecord) -> Mapping[str, float]:
        judge.load_state_dict(arrays.to_torch_state_dict())
        auc, accuracy, diverged = measure(judge, *watched)
        return {"auc": auc, "accuracy": accuracy, "diverged": float(diverged)}

    settings = ClientSettings(recipe.share, recipe.local_epochs, recipe.batch_size, recipe.lr)
    return Federation(
        model=make_network,
        strategy=strategy,
        client=client_app(make_network, lambda client: images.data(partitions[client], config), settings),
        partitions=partitions,
        rounds=recipe.rounds,
        evaluate=evaluate,
    )


def initial_network(config: DisbelieveConfig, seed: int) -> nn.Module:
    """The same numbers whatever was drawn before, and none taken from the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "network") % 2**63)
        return build_network(config)


def watch(data: TrainData, images: Images, config: DisbelieveConfig) -> Data:
    """The cases on which every round's global model is measured: the validation part, if it can tell classes apart."""
    part = load_images(data.validation, config)
    for images_of in (part, images):
        y = images_of.y
        told = bool((y.min(0).values < y.max(0).values).any()) if len(y) and y.is_floating_point() else None
        if told or (told is None and len(y.unique()) > 1):
            return images_of.data(np.arange(len(y)), config)
    raise DataError("all training cases have one label, so no AUC can be measured; at least two are needed")


# ---- all federations of an audit -----------------------------------------------------------------------------------


def train(recipe: DisbelieveRecipe, data: TrainData, run: Run) -> Disbelieve:
    """Every attack under every aggregator, and the clean global model with its poisoned copies beside it."""
    from zoo.models.disbelieve.audit import save_audits

    refuse_recipe(recipe)
    network = measured(recipe.network, load_images(data.train, recipe.network))
    recipe = replace(recipe, network=replace(network, curves=()))
    audits: dict[tuple[str, str], Audit] = {}
    for name, attack in reversed(runs_of(recipe)):  # the clean model of the first aggregator comes last
        audits[name, attack] = federation_of(recipe, data, run, name, attack)
    curves = []
    for name, attack in runs_of(recipe):
        audit = audits[name, attack]
        floats = [tensor for tensor in audit.state.values() if tensor.is_floating_point()]
        finite = all(bool(torch.isfinite(tensor.to(getattr(torch, recipe.dtype))).all()) for tensor in floats)
        keep = attack == recipe.attack != "none" and finite
        diverged = any(record.diverged for record in audit.rounds)
        curves.append(Curve(name, attack, tuple(round(value, 4) for value in audit.auc), keep, diverged))
    model = Disbelieve(replace(recipe.network, curves=tuple(curves)))
    model.network.load_state_dict(audits[recipe.aggregator[0], "none"].state)
    for curve in curves:
        if curve.stored:
            model.poisoned[curve.weights_name].load_state_dict(audits[curve.aggregator, curve.attack].state)
    if run.out is not None and run.is_main:
        save_audits([audits[key] for key in runs_of(recipe)], run.out)
    return model.to(run.device).eval()


def runs_of(recipe: DisbelieveRecipe) -> list[tuple[AggregatorName, AttackName]]:
    """Aggregators and attacks, in the order in which they're shown."""
    attacks: dict[AttackName, None] = dict.fromkeys(("none", *recipe.baselines, recipe.attack))
    return [(name, attack) for name in recipe.aggregator for attack in attacks]


def refuse_recipe(recipe: DisbelieveRecipe) -> None:
    """Raises ``OptionError`` for a federation that can't be, before anything is read."""
    if not recipe.aggregator or len(set(recipe.aggregator)) != len(recipe.aggregator):
        raise OptionError("aggregator must name one rule or more, each once")
    for attack in (recipe.attack, *recipe.baselines):
        refuse_federation(recipe.clients, recipe.attackers, attack)


def federation_of(
    recipe: DisbelieveRecipe, data: TrainData, run: Run, aggregator: AggregatorName, attack: AttackName
) -> Audit:
    """One federation from start to end."""
    from zoo.federated import federate
    from zoo.models.disbelieve.audit import audit_of

    one = replace(recipe, aggregator=(aggregator,), attack=attack, baselines=())
    built: list[Federation] = []

    @wraps(build)  # other processes import ``build`` by this name
    def kept(recipe: DisbelieveRecipe, data: TrainData, seed: int) -> Federation:
        built.append(build(recipe, data, seed))
        return built[-1]

    outcome = federate(kept, one, data, run, stage=f"{aggregator}-{attack}")
    return audit_of(one, built[0], outcome, run.seed)


def measured(config: DisbelieveConfig, images: Images) -> DisbelieveConfig:
    """The configuration with mean and standard deviation of the training images, where it states none."""
    if config.mean:
        return config
    if not len(images.views):
        raise DataError("the training set is empty")
    values = images.views.float().flatten(0, 2) / 255
    mean, std = values.mean(0), values.std(0, correction=0).clamp_min(1e-3)
    return replace(config, mean=tuple(round(v, 4) for v in mean.tolist()),
                   std=tuple(round(v, 4) for v in std.tolist()))  # fmt: skip


training = Training(
    recipe=DisbelieveRecipe,
    presets={
        "paper": {},  # HAM10k
        "chexpert": {
            "network": DisbelieveConfig(
                labels=CHEXPERT_LABELS, architecture="resnet18", image_size=224, multi_label=True
            ),
            "rounds": 40, "local_epochs": 1, "batch_size": 16, "alpha": None,
        },
        "breakhis": {
            "network": DisbelieveConfig(labels=("benign", "malignant"), architecture="vgg11", image_size=32),
            "share": "grads", "attackers": 3, "rounds": 200, "batch_size": 128, "server_lr": 1e-4, "alpha": None,
        },
        "cifar10": {
            "network": DisbelieveConfig(labels=CIFAR10_LABELS, architecture="vgg11", image_size=32),
            "share": "grads", "attackers": 3, "rounds": 500, "batch_size": 1000, "server_lr": 1e-3, "alpha": None,
        },
        # Small pictures and few rounds: under a minute on two CPU cores.
        "demo": {
            "network": DisbelieveConfig(image_size=32),
            "aggregator": ("dos", "krum"),
            "rounds": 25, "local_epochs": 1, "batch_size": 16, "lr": 0.1, "samples": 80, "dtype": "float16",
        },
    },
    run=train,
    federation=build,
    split=Split((0.7, 0.1, 0.2)),
)  # fmt: skip
