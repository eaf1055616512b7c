"""How the audit trains: the same federation again and again, unattacked and under attack, for each aggregator.

All runs share initial network, clients, batches and rates, so that the attack alone tells them apart. What is kept is
the unattacked global model of the first aggregator; the poisoned ones go beside it under names that say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from zoo import config as configs
from zoo.data.layouts.chexpert import CHEXPERT_LABELS
from zoo.data.layouts.ham10000 import FAVOURITES
from zoo.data.sets import load_dataset
from zoo.data.splits import Split, TrainData, split
from zoo.errors import OptionError
from zoo.federated import Context, Federation, State, Update, favoured
from zoo.figure.plane import Projection
from zoo.models.disbelieve import plugin
from zoo.models.disbelieve.attacks import (
    RELEASED,
    AttackName,
    AttackSettings,
    Data,
    Share,
    Targets,
    class_loss,
    refuse_federation,
)
from zoo.models.disbelieve.audit import Attacker, Audited
from zoo.models.disbelieve.data import CIFAR10_LABELS, divide, load_images, measure, measured, of_client, watched
from zoo.models.disbelieve.model import Curve, Disbelieve, DisbelieveConfig, build_network
from zoo.models.disbelieve.result import Audit, RoundRecord, save_audits
from zoo.nn.robust import RuleName, rule_of
from zoo.seeds import derive_seed, seed_torch
from zoo.text import nearest
from zoo.training import Run, Training


@dataclass(frozen=True)
class DisbelieveRecipe(AttackSettings):
    """The paper's federation on HAM10k; comments name the section, or say that the paper leaves a value open."""

    recipe: Literal["paper", "released"] = "paper"  # whose values the other fields have
    attack: AttackName = "disbelieve"
    batch_size: int = field(default=890, metadata={"min": 1, "max": 65_536})  # Sec. 4.2; of clients and attackers
    lr: float = field(default=0.01, metadata={"min": 0.0, "max": 100.0})  # Sec. 4.2; of plain SGD, which is open
    network: DisbelieveConfig = field(default_factory=DisbelieveConfig)
    baselines: tuple[AttackName, ...] = ()
    """Further attacks that are run for their AUC curves; their models aren't kept."""
    aggregator: tuple[RuleName, ...] = ("dos",)
    """The rules under audit. The clean global model is the first one's."""
    share: Share = "params"  # Sec. 4.2: params for HAM10k and CheXpert, grads for BreakHis and CIFAR-10
    clients: int = field(default=10, metadata={"min": 1, "max": 1000})  # n; Sec. 4.2
    attackers: int = field(default=4, metadata={"min": 0, "max": 499})
    """f; Sec. 4.2. Krum and the trimmed mean are told the true number, also where nobody attacks."""
    rounds: int = field(default=120, metadata={"min": 1, "max": 1_000_000})  # Sec. 4.2
    local_epochs: int = field(default=3, metadata={"min": 1, "max": 1_000_000})  # Sec. 4.2
    trim: float | None = field(default=None, metadata={"min": 0.0, "max": 0.49})
    """Share that the trimmed mean drops on either side; none: the true share of attackers."""
    alpha: float | None = field(default=0.5, metadata={"min": 1e-3, "max": 1e6})
    """Of the Dirichlet distribution of classes over clients, which the paper calls non-iid; none: clients are alike."""
    partition: Literal["dirichlet", "ham10000"] = "dirichlet"
    """By ``alpha``, or the fixed one that published code has for HAM10000's classes and ten clients."""
    samples: int | None = field(default=None, metadata={"min": 1, "max": 10_000_000})
    """Cases that each client draws, with replacement; none: the training cases are divided among the clients."""
    dtype: Literal["float32", "float16"] = "float32"  # of the saved weights


def client(
    network: nn.Module, data: Data, rng: np.random.Generator, context: Context, recipe: DisbelieveRecipe
) -> Update:
    """Train, and send the model; or one gradient, and the buffers.

    A client whose own training diverges sends back what it got (or a gradient of 0), so that an audit of an attack
    that breaks the global model still comes to its end.
    """
    x, y = (part.to(context.device) for part in data)
    if recipe.share == "params":
        loss = train_locally(network, x, y, recipe, rng)
        finite = _all_finite(network.state_dict().values())  # not from a global model that an attack drove off
        sent = network.state_dict() if finite else context.received["network"]
        return Update({"network": sent}, num_examples=len(y), loss=loss)
    gradient, loss = local_gradient(network, x, y, recipe.batch_size, rng)
    if not _all_finite(gradient.values()):
        gradient = {name: torch.zeros_like(part) for name, part in gradient.items()}
    buffers = {name: t for name, t in network.state_dict().items() if name not in gradient}
    return Update({"gradient": gradient, "buffers": buffers}, num_examples=len(y), loss=loss)


def _all_finite(tensors: Iterable[Tensor]) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def train_locally(
    network: nn.Module, x: Float[Tensor, "n ..."], y: Targets, recipe: DisbelieveRecipe, rng: np.random.Generator
) -> float:
    """Some epochs of SGD in place; returns the mean loss of the last one."""
    network.train()
    parameters: list[Tensor] = list(network.parameters())
    total = 0.0
    for _ in range(recipe.local_epochs):
        total = 0.0
        for rows in torch.from_numpy(rng.permutation(len(y))).split(recipe.batch_size):
            loss = class_loss(network(x[rows]), y[rows])
            gradients = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                torch._foreach_add_(parameters, gradients, alpha=-recipe.lr)
            total += float(loss.detach()) * len(rows)
    return total / len(y)


def local_gradient(
    network: nn.Module, x: Float[Tensor, "n ..."], y: Targets, batch_size: int, rng: np.random.Generator
) -> tuple[dict[str, Tensor], float]:
    """The gradient of one mini-batch at the global parameters, by name, and its loss."""
    network.train()
    rows = torch.from_numpy(rng.permutation(len(y))[:batch_size])
    loss = class_loss(network(x[rows]), y[rows])
    named = dict(network.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True)), float(loss.detach())


def build(recipe: DisbelieveRecipe, data: TrainData, seed: int) -> Federation:
    """The federation of ``recipe.attack`` under the first of ``recipe.aggregator``, alike in every process."""
    refuse_federation(recipe.clients, recipe.attackers, recipe.attack)
    images = load_images(data.train, recipe.network)
    config = measured(recipe.network, images)
    classes = images.y.argmax(1) if images.y.is_floating_point() else images.y  # of several labels the first
    if recipe.partition == "ham10000":
        partitions = favoured([config.labels[k] for k in classes.tolist()], recipe.clients, FAVOURITES, seed)
    else:
        partitions = divide(classes.numpy(), recipe.clients, recipe.alpha, recipe.samples, seed)
    make_network = partial(initial_network, config, seed)
    judge, cases = make_network(), watched(data, images, config)
    attacker = None
    if recipe.attack != "none":
        controlled = controlled_clients(recipe, seed)
        pooled = of_client(images, np.concatenate([partitions[i] for i in controlled]), config)
        attacker = Attacker(recipe, controlled, pooled, make_network(), recipe.share, seed)

    def evaluate(state: State) -> Mapping[str, float]:
        judge.load_state_dict(state.network)
        return {name: float(value) for name, value in measure(judge, *cases)._asdict().items()}

    return Federation(
        model=make_network,
        client=partial(client, recipe=recipe),
        data=lambda i: of_client(images, partitions[i], config),
        partitions=partitions,
        rounds=recipe.rounds,
        aggregate=Audited(
            rule_of(recipe.aggregator[0], recipe.clients, recipe.attackers, recipe.trim),
            [name for name, _ in judge.named_parameters()],
            rounds=recipe.rounds,
            share=recipe.share,
            server_lr=recipe.server_lr,
            attacker=attacker,
        ),
        weights=None,  # the rule under audit says who counts how much
        evaluate=evaluate,
    )


def controlled_clients(recipe: DisbelieveRecipe, seed: int) -> tuple[int, ...]:
    """Which clients the attacker holds: the first f of a seeded permutation."""
    rng = np.random.default_rng(derive_seed(seed, "attackers"))
    return tuple(sorted(rng.permutation(recipe.clients)[: recipe.attackers].tolist()))


def initial_network(config: DisbelieveConfig, seed: int) -> nn.Module:
    """The same numbers whatever was drawn before, and none taken from the global generator."""
    with torch.random.fork_rng(devices=[]):
        seed_torch(derive_seed(seed, "network"))
        return build_network(config)


def train(recipe: DisbelieveRecipe, data: TrainData, run: Run) -> Disbelieve:
    """Every attack under every aggregator, and the clean global model with its poisoned copies beside it."""
    refuse_recipe(recipe)
    network = measured(recipe.network, load_images(data.train, recipe.network))
    recipe = replace(recipe, network=replace(network, curves=()))
    audits: dict[tuple[str, str], Audit] = {}
    for name, attack in reversed(runs_of(recipe)):  # the clean model of the first aggregator comes last
        audits[name, attack] = federation_of(recipe, data, run, name, attack)
    curves = []
    for name, attack in runs_of(recipe):
        audit = audits[name, attack]
        stored = (t.to(getattr(torch, recipe.dtype)) for t in audit.state.values() if t.is_floating_point())
        keep = attack == recipe.attack != "none" and _all_finite(stored)
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


def runs_of(recipe: DisbelieveRecipe) -> list[tuple[RuleName, AttackName]]:
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
    recipe: DisbelieveRecipe, data: TrainData, run: Run, aggregator: RuleName, attack: AttackName
) -> Audit:
    """One federation from start to end, with its AUC before training and after each round."""
    from zoo.federated import federate

    one = replace(recipe, aggregator=(aggregator,), attack=attack, baselines=())
    outcome = federate(build, one, data, run, stage=f"{aggregator}-{attack}")
    images = load_images(data.train, one.network)
    config = measured(one.network, images)
    before = measure(initial_network(config, run.seed), *watched(data, images, config))
    rounds = [RoundRecord(**noted) for noted in outcome.state.own["rounds"]]
    for record, row in zip(rounds, outcome.rows, strict=True):
        record.auc, record.accuracy, record.hard_auc = (row[f"global/{n}"] for n in ("auc", "accuracy", "hard-auc"))
        record.diverged = bool(row["global/diverged"])
    plane = outcome.state.own.get("projection")
    return Audit(
        aggregator=aggregator,
        attack=attack,
        share=one.share,
        clients=one.clients,
        controlled=controlled_clients(one, run.seed) if attack != "none" else (),
        rounds=rounds,
        auc=[before.auc, *(record.auc for record in rounds)],
        accuracy=[before.accuracy, *(record.accuracy for record in rounds)],
        projection=None if plane is None else Projection(**plane),
        state=outcome.state_dict(),
    )


def simulate(
    config: DisbelieveConfig, dataset: Any, clients: int, attackers: int, *, seed: int = 0, device: str = "cpu",
    progress: bool = False, aggregator: RuleName = "dos", **fields: Any,
) -> Audit:  # fmt: skip
    """Train a network of ``config`` in a federation of clients that are simulated in this process, and audit it.

    ``dataset``: a specification, or a ``zoo.data.sets.Dataset``; 80 % trains, AUC is of the rest. ``fields``: further
    ones of the recipe. Raises ``OptionError`` for an unknown field, or attackers that are too few or no minority,
    ``DataError`` for data that can't be divided among the clients.
    """
    reading = training.readings.get(fields.get("recipe", ""), {})
    known = {"rounds": 20, "batch_size": 32, "local_epochs": 1, **reading, **fields}
    options = DisbelieveRecipe.__dataclass_fields__
    if unknown := [name for name in known if name not in options]:
        raise OptionError(f"simulate has no option {unknown[0]!r}; {nearest(unknown[0], options)}")
    network = replace(config, curves=())
    recipe = DisbelieveRecipe(network=network, aggregator=(aggregator,), clients=clients, attackers=attackers, **known)
    configs.validate(recipe)
    refuse_recipe(recipe)
    cases = load_dataset(dataset, plugin=plugin) if isinstance(dataset, str) else dataset
    data = split(cases, (0.8, 0.2, 0.0), seed)
    recipe = replace(recipe, network=measured(network, load_images(data.train, network)))
    with Run(None, seed=seed, device=device, progress=progress) as run:
        return federation_of(recipe, data, run, aggregator, recipe.attack)


training = Training(
    recipe=DisbelieveRecipe,
    presets={
        "paper": {},  # HAM10k
        "chexpert": {
            "network": DisbelieveConfig(CHEXPERT_LABELS, "resnet18", image_size=224, multi_label=True),
            "rounds": 40, "local_epochs": 1, "batch_size": 16, "alpha": None,
        },
        "breakhis": {
            "network": DisbelieveConfig(("benign", "malignant"), "vgg11", image_size=32),
            "share": "grads", "attackers": 3, "rounds": 200, "batch_size": 128, "server_lr": 1e-4, "alpha": None,
        },
        "cifar10": {
            "network": DisbelieveConfig(CIFAR10_LABELS, "vgg11", image_size=32),
            "share": "grads", "attackers": 3, "rounds": 500, "batch_size": 1000, "server_lr": 1e-3, "alpha": None,
        },
        "ham10000-released": {"recipe": "released", "partition": "ham10000"},
        "breakhis-released": {
            "recipe": "released", "network": DisbelieveConfig(("benign", "malignant"), "vgg11-released", image_size=32),
            "share": "grads", "attackers": 3, "rounds": 200, "batch_size": 256, "server_lr": 1e-4, "alpha": None,
        },
        "cifar10-released": {
            "recipe": "released", "network": DisbelieveConfig(CIFAR10_LABELS, "vgg11-released", image_size=32),
            "share": "grads", "attackers": 3, "rounds": 100, "batch_size": 1000, "server_lr": 1e-3, "alpha": None,
        },
        # Small pictures and few rounds: under a minute on two CPU cores.
        "demo": {
            "network": DisbelieveConfig(image_size=32),
            "aggregator": ("dos", "krum"),
            "rounds": 25, "local_epochs": 1, "batch_size": 16, "lr": 0.1, "samples": 80, "dtype": "float16",
        },
        # For `zoo check`: under an attack the loss needn't fall, so few and short rounds.
        "check": {
            "network": DisbelieveConfig(image_size=16), "aggregator": ("krum",), "rounds": 3, "local_epochs": 1,
            "batch_size": 6, "lr": 0.1, "samples": 12, "ascent_epochs": 2,
        },
    },
    readings={"released": {**RELEASED, "trim": 0.1}},
    run=train,
    federation=build,
    split=Split((0.7, 0.1, 0.2)),
)  # fmt: skip
