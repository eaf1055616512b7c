"""How Continual-GEN learns a stream: each domain is compared with what is known, then updates a subnetwork or gets one.

Algorithm (Sec. 2; the paper's own listing is in a supplement that isn't public)::

    for every domain D:
        for every subnetwork t: ESS_t = ess(ensemble of D through f_t, G_t)
        among those with ESS_t <= gamma_t the nearest is updated with D; without any, D trains all free units,
        a fifth of the network's is kept of them, trained once more, and never touched by another domain
        G_t, gamma_t = those of D through the new f_t
"""

from __future__ import annotations

import copy
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from zoo.data.augment import flipped, turned_views
from zoo.data.case import Case
from zoo.data.images import ImageSet, normalise, over_images
from zoo.data.splits import Split, TrainData
from zoo.errors import OptionError
from zoo.metrics import balanced_accuracy
from zoo.models.continual_gen import plugin
from zoo.models.continual_gen.culpability import PruneBy, kept, prune
from zoo.models.continual_gen.data import DomainSet, pooled, stream
from zoo.models.continual_gen.ensembles import Ensemble, EnsembleConfig, ess
from zoo.models.continual_gen.model import FREE, MERGE, ContinualGen, ContinualGenConfig, backbone
from zoo.models.continual_gen.result import Decision, stream_chart, stream_table
from zoo.nn.units import features_of, slim
from zoo.storage import write_file
from zoo.training import Run, Training
from zoo.training.continual import Ewc, Lwf

Penalty = Callable[[Float[Tensor, "b 3 s s"], Float[Tensor, "b c"]], Float[Tensor, ""]]
"""What a rival adds to the loss, of the images and the logits of a batch."""


@dataclass(frozen=True)
class ContinualGenRecipe:
    """The paper's training. Comments name the section, or say that the paper leaves a value open."""

    network: ContinualGenConfig = field(default_factory=ContinualGenConfig)
    method: Literal["continual-gen", "seqt", "ewc", "lwf", "joint"] = "continual-gen"
    """The paper's, or one network for all domains: trained on one after the other (seqt), with a pull towards weights
    that mattered (ewc) or outputs that were (lwf), or on all at once (joint)."""
    by: str = "set"
    """What tells the domains of a case apart: ``set`` of a ``stream:`` list, an attribute such as ``device``,
    ``file:PATH``, ``source`` or ``ham-shift``."""
    order: tuple[str, ...] = ()  # of the domains; by default that of the set
    pretrained: bool = True  # on ImageNet; open. ``small`` starts at random
    epochs: int = field(default=150, metadata={"min": 1, "max": 1_000_000})  # of a new domain, Sec. 3
    retrain_epochs: int = field(default=30, metadata={"min": 0, "max": 1_000_000})  # after pruning; open
    update_epochs: int = field(default=150, metadata={"min": 0, "max": 1_000_000})  # Sec. 3
    lr: float = field(default=1e-5, metadata={"min": 0.0, "max": 100.0})  # Sec. 3, constant
    update_lr: float = field(default=1e-5, metadata={"min": 0.0, "max": 100.0})  # Sec. 3
    batch_size: int = field(default=16, metadata={"min": 2, "max": 65_536})  # Sec. 3
    balanced: bool = True  # Sec. 3: every class as often as any other
    augment: Literal["full", "flips", "none"] = "full"  # turns, flips, mild colour; open
    prune_by: PruneBy = "culpability"  # Sec. 2
    ewc_weight: float = field(default=1e3, metadata={"min": 0.0, "max": 1e12})  # lambda
    ewc_images: int = field(default=200, metadata={"min": 1, "max": 1_000_000})  # by which the Fisher is measured
    lwf_weight: float = field(default=1.0, metadata={"min": 0.0, "max": 1e6})
    lwf_temperature: float = field(default=2.0, metadata={"min": 1e-3, "max": 1e3})
    dtype: Literal["float32", "float16"] = "float32"  # of the saved weights


def train(recipe: ContinualGenRecipe, data: TrainData, run: Run) -> ContinualGen:
    """All domains of ``data``, one after the other; ``stream.json`` and ``stream.png`` say what became of them.

    Raises ``DataError`` for domains that can't be learned from, ``OptionError`` for a wrong order.
    """
    if run.accelerator.num_processes > 1:
        raise OptionError(f"{plugin.name} trains in one process; leave accelerate launch out")
    empty = ContinualGen(replace(recipe.network, learned=(), log=()))
    size, fewest = recipe.network.image_size, recipe.network.ensemble.fewest
    domains = stream(data, recipe.by, recipe.order, empty.classes, size, fewest)
    if recipe.method == "continual-gen":
        model, matrix = learn_stream(recipe, domains, run)
    else:
        model, matrix = learn_in_turn(recipe, domains, run)
    if run.out is not None and run.is_main:
        names = [domain.name for domain in domains]
        table = {"method": recipe.method, **stream_table(matrix, names), **model.state()}
        write_file(run.out / "stream.json", json.dumps(table, indent=2, allow_nan=False) + "\n")
        log = model.config.log if recipe.method == "continual-gen" else ()
        write_file(run.out / "stream.png", stream_chart(matrix, names, log, recipe.method))
    return model.eval()


def learn_stream(
    recipe: ContinualGenRecipe, domains: Sequence[DomainSet], run: Run
) -> tuple[ContinualGen, list[list[float]]]:
    """The model, and after every domain the balanced accuracy on the test images of each: ``a[t][i]`` (Sec. 3)."""
    model = start(recipe).to(run.device)
    matrix = []
    for domain in domains:
        decision = learn_domain(model, domain, recipe, run)
        if run.progress:
            print(decision.sentence(), file=sys.stderr)
        matrix.append([measure(model, one.test) for one in domains])
    return model, matrix


def learn_in_turn(
    recipe: ContinualGenRecipe, domains: Sequence[DomainSet], run: Run
) -> tuple[ContinualGen, list[list[float]]]:
    """The rivals: as ``learn_stream``, with one subnetwork that has all units and is trained on every domain.

    For a domain it has the epochs that the paper's method has for a new one, retraining included; ``joint`` for all.
    """
    model = start(replace(recipe, network=replace(recipe.network, pruning=0.0))).to(run.device)
    units = model.units(FREE)
    net = slim(model.network, units)
    head = nn.Linear(len(units[features_of(net)]), len(model.config.labels)).to(run.device)
    both, pull = nn.Sequential(net, head), cast(Ewc | Lwf | None, None)
    if recipe.method == "ewc":
        pull = Ewc(both, recipe.ewc_weight)
    elif recipe.method == "lwf":
        pull = Lwf(both, recipe.lwf_weight, recipe.lwf_temperature)
    matrix = []
    for k, domain in enumerate([pooled(domains)] if recipe.method == "joint" else domains, start=1):
        epochs = recipe.epochs + recipe.retrain_epochs
        fit(net, head, domain.train, recipe, run, f"{recipe.method}{k}", epochs, recipe.lr, pull)
        if pull is not None:
            places = run.generator("fisher", k).permutation(len(domain.train))[: recipe.ewc_images]
            pull.finish(domain.train, places.tolist(), run.device)
        model.put(0, net, head, units)
        told = Decision(domain.name, "new" if k == 1 else "updated", 1, images=len(domain.train))
        model.remember(0, describe(model, 0, domain), told)
        matrix.append([measure(model, one.test) for one in domains])
    return model, matrix


def start(recipe: ContinualGenRecipe) -> ContinualGen:
    """A model that has learned nothing; its free units have ImageNet's weights where ``pretrained``."""
    model = ContinualGen(replace(recipe.network, learned=(), log=()))
    if recipe.pretrained and recipe.network.backbone != "small":
        model.network = backbone(recipe.network, pretrained=True).requires_grad_(False)
    return model


# ---- one domain ------------------------------------------------------------------------------------------------------


def learn_domain(model: ContinualGen, domain: DomainSet, recipe: ContinualGenRecipe, run: Run) -> Decision:
    """Compare, decide, train, and remember the clusters (Sec. 2, I to III)."""
    distances, gammas = compare(model, domain)
    near = [t for t, (e, gamma) in enumerate(zip(distances, gammas, strict=True)) if e <= gamma]
    action: Literal["new", "updated", "forced"]
    if near:
        action, t = "updated", min(near, key=lambda one: distances[one])
    elif model.room:
        action, t = "new", len(model.subnetworks)
    else:
        action, t = "forced", int(np.argmin(distances))
    if action == "new":
        grow(model, domain, recipe, run)
    else:
        update(model, t, domain, recipe, run)
    told = Decision(domain.name, action, t + 1, tuple(distances), tuple(gammas), len(domain.train), model.room)
    model.remember(t, describe(model, t, domain), told)
    return told


def compare(model: ContinualGen, domain: DomainSet) -> tuple[list[float], list[float]]:
    """ESS to every subnetwork, through it, and the threshold: of its nearest ensemble where it has several."""
    distances, gammas = [], []
    for t in range(len(model.subnetworks)):
        z = features(model, t, domain.train)
        own: list[Any] = list(model.subnetwork(t).ensembles)
        apart = [ess(Ensemble.of(one.config, z, domain.train.y, one).to(model.device), one) for one in own]
        place = int(np.argmin(apart))
        distances.append(apart[place])
        gammas.append(own[place].gamma(model.config.threshold))
    return distances, gammas


def features(model: ContinualGen, t: int, images: ImageSet) -> Float[Tensor, "n f"]:
    part = model.part(t)
    return over_images(part, part, images, model.device)


def describe(model: ContinualGen, t: int, domain: DomainSet) -> Ensemble:
    """The ensemble of a domain through subnetwork ``t``, with its thresholds.

    Without validation images the training images stand for them.
    """
    z = features(model, t, domain.train)
    made = Ensemble.of(model.config.ensemble, z, domain.train.y)
    unseen = domain.validation if len(domain.validation) else domain.train
    made.set_thresholds(z, Ensemble.of(model.config.ensemble, features(model, t, unseen), unseen.y, made))
    return made


def update(model: ContinualGen, t: int, domain: DomainSet, recipe: ContinualGenRecipe, run: Run) -> None:
    """Fine-tune the units of subnetwork ``t`` alone."""
    units = model.units(t)
    part, head = slim(model.network, units), copy.deepcopy(model.subnetwork(t).head).requires_grad_(True)
    fit(part, head, domain.train, recipe, run, f"{_stage(model)}-update", recipe.update_epochs, recipe.update_lr)
    model.put(t, part, head, units)


def grow(model: ContinualGen, domain: DomainSet, recipe: ContinualGenRecipe, run: Run) -> None:
    """Train all free units, keep the least culpable, train these once more (Domain-specific Subnetwork Formation)."""
    stage, free = _stage(model), model.units(FREE)
    whole = slim(model.network, free)
    head = nn.Linear(len(free[features_of(model.network)]), len(model.config.labels)).to(model.device)
    fit(whole, head, domain.train, recipe, run, f"{stage}-train", recipe.epochs, recipe.lr)
    images = domain.validation if len(domain.validation) else domain.train
    counts = {space: kept(width, model.config.pruning) for space, width in model.spaces.items()}
    picked = prune(whole, head, images, counts, recipe.prune_by, run.generator("prune", stage), model.device)
    part, smaller = slim(whole, picked), nn.Linear(len(picked[features_of(whole)]), head.out_features)
    smaller.to(model.device)
    with torch.no_grad():
        smaller.weight.copy_(head.weight[:, picked[features_of(whole)].to(head.weight.device)])
        smaller.bias.copy_(head.bias)
    fit(part, smaller, domain.train, recipe, run, f"{stage}-retrain", recipe.retrain_epochs, recipe.lr)
    units = {space: free[space].cpu()[picked[space].cpu()] for space in free}
    model.put(len(model.subnetworks), part, smaller, units)


def fit(
    net: nn.Module,
    head: nn.Linear,
    images: ImageSet,
    recipe: ContinualGenRecipe,
    run: Run,
    stage: str,
    epochs: int,
    lr: float,
    penalty: Penalty | None = None,
) -> None:
    """Cross-entropy by Adam at a constant rate on balanced batches (Sec. 3), in place.

    Afterwards the running statistics are those of the images, as they are: after few steps they would lag behind, and
    a pruned unit might never be seen to work. In eval mode then.
    """
    run.stage(stage)
    both = nn.Sequential(net, head).to(run.device)
    adam = torch.optim.Adam(both.parameters(), lr=lr)
    both, adam = run.track(net=both, adam=adam)
    share = class_shares(images.y) if recipe.balanced else None
    for step in run.steps(epochs * math.ceil(len(images) / recipe.batch_size), description=stage):
        both.train()
        rng = run.generator("batch", stage, step)
        index = rng.choice(len(images), recipe.batch_size, p=share)
        x, y = images.batch(index, run.device)
        if recipe.augment != "none":
            x = turned_views(x, rng) if recipe.augment == "full" else flipped(x, rng)
        x = normalise(x)
        logits = both(x)
        loss = F.cross_entropy(logits, y)
        if penalty is not None:
            loss = loss + penalty(x, logits)
        adam.zero_grad()
        run.backward(loss)
        adam.step()
        run.log(loss=loss)
    parts = torch.arange(len(images)).tensor_split(math.ceil(len(images) / 64))
    update_bn((normalise(images.batch(some, run.device)[0]) for some in parts), run.unwrap(both))
    both.eval()


def class_shares(y: Int[Tensor, " n"]) -> Any:
    """How likely each image is drawn so that every class is as often as any other; adds up to 1."""
    weight = 1 / torch.bincount(y).double()[y]
    return (weight / weight.sum()).numpy()


def _stage(model: ContinualGen) -> str:
    return f"domain{len(model.config.log) + 1}"


# ---- measuring -------------------------------------------------------------------------------------------------------


def measure(model: ContinualGen, images: ImageSet) -> float:
    """Balanced accuracy with routing, as for images of unknown domain; NaN without images."""
    if not len(images):
        return math.nan
    return balanced_accuracy(over_images(model, model.answers, images, model.device).numpy(), images.y.numpy())


def score(model: ContinualGen, case: Case, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Truth, prediction and probabilities; nothing for a case that the labels leave out."""
    truth = model.classes.of(case)
    if truth is None:
        return []
    result = model.predict(case.image, **options)
    found = {f"p_{name}": p for name, p in result.probabilities.items()}
    return [{"truth": model.config.labels[truth], "predicted": result.most_probable, **found}]


THREE = {**MERGE, **dict.fromkeys(("AK", "BCC", "DF", "SCC", "VASC", "IEC", "PYO"), "-")}
SMALL = ContinualGenConfig(
    backbone="small", image_size=48, small_channels=(60, 80, 100, 120),
    ensemble=EnsembleConfig(dimensions=16, covariance="diagonal"),
)  # fmt: skip

training = Training(
    recipe=ContinualGenRecipe,
    presets={
        "paper": {},
        # The classes that every dermoscopic set has.
        "three-classes": {"network": replace(ContinualGenConfig(), labels=("MEL", "NV", "BKL"), merge=THREE)},
        # A small network from scratch on the four cameras of skin-domains: minutes on two CPU cores.
        "demo": {
            "network": SMALL,
            "by": "camera",
            "order": ("colour", "ultraviolet", "infrared", "negative"),
            "pretrained": False,
            "epochs": 20,
            "retrain_epochs": 60,
            "update_epochs": 80,
            "lr": 3e-3,
            "update_lr": 1e-3,
            "batch_size": 32,
            "dtype": "float16",
        },
        # As the demo, of a set that is one domain: a handful of images is enough.
        "check": {
            "network": replace(SMALL, ensemble=replace(SMALL.ensemble, fewest=2)), "pretrained": False, "epochs": 30,
            "lr": 3e-3, "batch_size": 16, "dtype": "float16",
        },
    },
    run=train,
    split=Split((0.6, 0.2, 0.2)),  # Sec. 3
    score=score,
)  # fmt: skip
