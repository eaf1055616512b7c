"""The federation's single round, the server's training from synthetic sets alone, and the arms it is compared with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from zoo.data.case import Case
from zoo.data.images import ImageSet
from zoo.data.sets import Dataset, load_dataset
from zoo.data.splits import PARTS, TrainData
from zoo.data.synthetic import SyntheticSet, faults
from zoo.errors import OptionError
from zoo.federated import Context, Federation, State, Update, federate, split_figure
from zoo.models.gdd_fl import data as sets
from zoo.models.gdd_fl.baselines import averaging_client, make_sgd
from zoo.models.gdd_fl.distillation import Distillation, distil, refuse
from zoo.models.gdd_fl.model import GDDFL, GDDConfig, build_network
from zoo.models.gdd_fl.result import Arm, save_arms
from zoo.models.gdd_fl.siamese import siamese
from zoo.nn.schedules import cosine
from zoo.seeds import derive_seed, seed_torch
from zoo.training import Run, Training

MethodName = Literal["gdd", "dm", "dm-doubled", "random", "full", "fedavg"]


@dataclass(frozen=True)
class GDDRecipe(Distillation):
    """The paper's federation on ISIC 2020. Comments name the section, or say that the paper leaves a value open."""

    recipe: Literal["paper", "released"] = "paper"  # whose values the other fields have
    network: GDDConfig = field(default_factory=GDDConfig)
    baselines: tuple[MethodName, ...] = ()
    """Further arms, trained and measured on the test images for ``comparison.png``; their networks aren't kept."""
    lrs: tuple[str, ...] = ()
    """Learning rates of arms that have their own, such as ``dm=0.3``; found on other data and another seed."""
    clients: int = field(default=10, metadata={"min": 1, "max": 1000})  # m, Sec. 3.1
    partition: str = "stratified"
    """``stratified`` (Sec. 3.1, IID), ``dirichlet`` (Sec. 3.1, non-IID), ``iid``, ``column:NAME``, ``file:PATH``."""
    alpha: float = field(default=1.0, metadata={"min": 1e-3, "max": 1e6})  # of ``dirichlet``; Sec. 3.1
    epochs: int = field(default=50, metadata={"min": 1, "max": 1_000_000})  # E of the server, Sec. 3.2
    least_steps: int = field(default=1000, metadata={"min": 1, "max": 10_000_000})
    """Steps that the server makes at least; 50 epochs of 20 images are 50 steps, which is too few. Ours."""
    batch_size: int = field(default=64, metadata={"min": 2, "max": 65_536})  # Sec. 3.2
    server_lr: float = field(default=0.01, metadata={"min": 0.0, "max": 100.0})  # Sec. 3.2
    server_momentum: float = field(default=0.9, metadata={"min": 0.0, "max": 1.0})  # open
    weight_decay: float = field(default=5e-4, metadata={"min": 0.0, "max": 100.0})  # open
    lr_floor: float = field(default=0.0, metadata={"min": 0.0, "max": 1.0})  # share that the cosine ends at; open
    server_augment: bool = True  # as the clients', one operation for each batch; open
    rounds: int = field(default=30, metadata={"min": 1, "max": 1_000_000})  # of FedAvg; open
    local_epochs: int = field(default=1, metadata={"min": 1, "max": 1_000_000})  # of FedAvg; open
    class_weighted: bool = False  # FedAvg's loss; open
    validation: str = ""  # real images to calibrate on, where only synthetic ones are given
    dtype: Literal["float32", "float16"] = "float32"  # of the saved weights

    def arm(self, method: MethodName) -> GDDRecipe:
        """The recipe of an arm, with its own learning rate if it has one. Raises ``OptionError``."""
        lr = self.lr
        for given in self.lrs:
            name, _, value = given.partition("=")
            try:
                lr = float(value) if name == method else lr
            except ValueError:
                raise OptionError(f"lrs must read METHOD=NUMBER, such as dm=0.3, not {given!r}") from None
        return replace(self, method=method, lr=lr, baselines=())


def client(
    nothing: nn.Module, images: ImageSet, rng: np.random.Generator, context: Context, recipe: GDDRecipe
) -> Update:
    """A client's only message: synthetic images and their classes."""
    made = distil(images, recipe, len(recipe.network.labels), rng, context.device)
    numbers = {"loss": made.loss} if math.isfinite(made.loss) else {}
    sent = {"images": made.images, "y": made.y.to(torch.uint8 if len(recipe.network.labels) < 256 else torch.int16)}
    return Update({"synthetic": sent}, num_examples=len(images), nearest=made.nearest, **numbers)


def refused(update: Update, config: GDDConfig) -> str:
    """Why a client's message is of no use, or nothing."""
    sent = update.models.get("synthetic", {})
    if set(sent) != {"images", "y"}:
        return "it sends no images with their classes"
    size = (3, config.image_size, config.image_size)
    return faults(sent["images"], sent["y"], len(config.labels), size)


def gather(updates: Sequence[Update], state: State) -> State:
    """The union of the sets (Sec. 2.3); the server's own, and nothing of it goes back to the clients."""
    return state.updated({"sets": {str(update.client): update.models["synthetic"] for update in updates}})


def build(recipe: GDDRecipe, data: TrainData, seed: int) -> Federation:
    """The federation of a recipe: one round of distillation, or FedAvg's rounds."""
    config = recipe.network
    y = sets.classes_of(data.train, config.labels)
    partitions = sets.partitioned(recipe.partition, data.train, y, recipe.clients, recipe.alpha, seed)
    load = cache(lambda i: sets.load_images(data.train.subset(partitions[i]), config))
    if recipe.method == "fedavg":
        return Federation(
            model=partial(first_network, config, seed),
            client=partial(averaging_client, recipe=recipe),
            data=load,
            partitions=partitions,
            rounds=recipe.rounds,
            target="label",
        )
    return Federation(
        model=nn.Identity,  # no weights travel, in either direction
        client=partial(client, recipe=recipe),
        data=load,
        partitions=partitions,
        rounds=1,
        aggregate=gather,
        weights=None,
        target="label",
        refuse=partial(refused, config=config),
    )


def first_network(config: GDDConfig, seed: int) -> Any:
    """The classifier as it starts, the same in every arm of a seed."""
    with torch.random.fork_rng(devices=[]):
        seed_torch(derive_seed(seed, "classifier"))
        return build_network(config)


def train_server(recipe: GDDRecipe, pool: sets.Pool, run: Run, stage: str) -> Any:
    """A brand-new classifier, trained with cross-entropy on the pool (Sec. 2.3)."""
    run.stage(stage)
    network: Any = first_network(recipe.network, run.seed)
    sgd = make_sgd(network, recipe)
    net, optimiser = run.track(network=network, sgd=sgd)
    n = len(pool.y)
    size = min(recipe.batch_size, n)
    total = max(recipe.least_steps, recipe.epochs * math.ceil(n / recipe.batch_size))
    for step in run.steps(total, description=stage):
        x, y = pool.batch(run.indices(n, size, step, key="server"), run.device)
        change = siamese(run.generator("server augmentation", step), recipe.augment if recipe.server_augment else ())
        for group in optimiser.param_groups:
            group["lr"] = recipe.server_lr * cosine(step, total, floor=recipe.lr_floor)
        net.train()
        loss = F.cross_entropy(net(change(x)), y)
        optimiser.zero_grad()
        run.backward(loss)
        optimiser.step()
        run.log(loss=loss)
    return network.eval()


def one_arm(recipe: GDDRecipe, data: TrainData, run: Run, prefix: str = "") -> tuple[Any, sets.Pool | None, Arm]:
    """Everything of one method: its messages, its server, and the bytes between; AUC is that of the test images."""
    if recipe.method == "full":
        images = sets.load_images(data.train, recipe.network)
        everything = sets.Pool(images.views, images.y)
        network, up = train_server(recipe, everything, run, f"{prefix}server"), images.views.numel()
        return network, None, Arm("full", measured(network, recipe, data, run), up, 0, 1, len(images))
    outcome = federate(build, recipe, data, run, stage=f"{prefix}federated")
    up, down = (sum(int(row[way]) for row in outcome.ledger) for way in ("up", "down"))
    if recipe.method == "fedavg":
        network = first_network(recipe.network, run.seed).to(run.device)
        network.load_state_dict(outcome.state_dict())
        y = sets.classes_of(data.train, recipe.network.labels)
        score = measured(network, recipe, data, run)
        return network, None, Arm("fedavg", score, up, down, recipe.rounds, int((y >= 0).sum()))
    sent = [(int(who), one["images"], one["y"]) for who, one in outcome.state.own["sets"].items()]
    pool = sets.Pool.of(sent)
    network = train_server(recipe, pool, run, f"{prefix}server")
    lr = math.nan if recipe.method == "random" else recipe.lr
    return network, pool, Arm(recipe.method, measured(network, recipe, data, run), up, down, 1, len(pool.y), lr)


def measured(network: Any, recipe: GDDRecipe, data: TrainData, run: Run) -> float:
    """AUC on the test images; NaN where they aren't of two classes."""
    return sets.auc(network, sets.load_images(data.test, recipe.network), run.device)


def refuse_recipe(recipe: GDDRecipe) -> None:
    """Raises ``OptionError`` for a recipe that can't be trained, before anything is read."""
    if len(set((recipe.method, *recipe.baselines))) != 1 + len(recipe.baselines):
        raise OptionError("method and baselines must name each arm once")
    for method in (recipe.method, *recipe.baselines):
        if method not in ("full", "fedavg"):
            refuse(recipe.arm(method), recipe.network.image_size)


def train(recipe: GDDRecipe, data: TrainData, run: Run) -> GDDFL:
    """Synthetic sets that were given, or a federation that makes them; then the server, calibration, other arms."""
    refuse_recipe(recipe)
    data = TrainData(*(getattr(data, part).in_memory() for part in PARTS))
    pool: sets.Pool | None
    arms: list[Arm]
    if data.train[0].attributes.get("synthetic"):
        if recipe.baselines or recipe.method in ("full", "fedavg"):
            raise OptionError("only synthetic sets are here, so there is nothing to compare with; leave out the arms")
        known = sets.received(list(data.train), recipe.network)
        network, pool, arms = train_server(recipe, known, run, "server"), known, []
    else:
        network, pool, arm = one_arm(recipe.arm(recipe.method), data, run)
        arms = [arm]
        for method in recipe.baselines:
            arms.append(one_arm(recipe.arm(method), data, run, f"{method}-")[2])
    model = finished(recipe, network, pool, data, run)
    if run.out is not None and run.is_main and arms:
        weights = sum(t.numel() * t.element_size() for t in network.state_dict().values())
        save_arms(arms, weights, run.out)
        y = sets.classes_of(data.train, recipe.network.labels)
        parts = sets.partitioned(recipe.partition, data.train, y, recipe.clients, recipe.alpha, run.seed)
        split_figure([recipe.network.labels[k] for k in y], parts, run.out / "split.png")
    return model.to(run.device).eval()


def finished(recipe: GDDRecipe, network: Any, pool: sets.Pool | None, data: TrainData, run: Run) -> GDDFL:
    """The model: the server's network, calibrated on real validation images, and some of what it was trained on."""
    real = load_dataset(recipe.validation) if recipe.validation else data.validation
    images = sets.load_images(cast(Dataset, real), recipe.network)
    fitted = sets.calibration(sets.margins(network, images, run.device), images.y.numpy()) if len(images) else ()
    shown = {} if pool is None else pool.shown()
    clients, classes = (tuple(place[i] for place in shown) for i in (0, 1))
    config = replace(recipe.network, calibration=fitted, shown_clients=clients, shown_classes=classes)
    model = GDDFL(config)
    model.network.load_state_dict(network.state_dict())
    if shown:
        model.synthetic.copy_(torch.stack(list(shown.values())))
    return model


def distil_here(recipe: GDDRecipe, cases: Dataset, run: Run) -> SyntheticSet:
    """One client's message from its own images, for ``zoo distill``."""
    if recipe.method in ("full", "fedavg"):
        raise OptionError(f"method={recipe.method} has no synthetic set; choose gdd, dm or dm-doubled")
    refuse(recipe, recipe.network.image_size)
    labels = recipe.network.labels
    images = sets.load_images(cases, recipe.network)
    run.stage("distil")
    steps = run.steps(recipe.iterations, description="distil")
    made = distil(images, recipe, len(labels), run.generator("distil"), run.device, steps)
    facts = {"model": "gdd-fl", "method": recipe.method, "recipe": recipe.recipe, "seed": run.seed,
             "iterations": recipe.iterations, "lr": recipe.lr, "loss": f"{made.loss:.4g}",
             "nearest": f"{made.nearest:.4f}"}  # fmt: skip
    return SyntheticSet(made.images, made.y, labels, {name: str(value) for name, value in facts.items()})


def score(model: GDDFL, case: Case, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for a case; none for a carcinoma where the classes are benign and melanoma."""
    labels = model.config.labels
    truth = sets.class_of(case, labels)
    if truth is None:
        return []
    found = model.predict(case.image, **{"distilled": False, **options})
    p = {f"p_{name}": float(found.probabilities[name]) for name in labels}
    return [{"truth": labels[truth], "predicted": found.most_probable, **p}]


# What the authors' code sets, at the state that has the method.
RELEASED: dict[str, Any] = {
    "network": {"architecture": "resnet18-instance", "image_size": 128}, "iterations": 100, "images_per_class": 10,
    "level": "convolution", "shift": "instance", "objective": "joint", "extractor": "resnet18-instance",
    "extractor_width": 64, "redraw": False, "message": "float32", "partition": "iid", "alpha": 0.5, "epochs": 100,
    "least_steps": 1, "weight_decay": 1e-5, "lr_floor": 0.01, "server_augment": False, "class_weighted": True,
}  # fmt: skip
ALL: tuple[MethodName, ...] = ("dm", "dm-doubled", "random", "full", "fedavg")
training = Training(
    recipe=GDDRecipe,
    federation=build,
    score=score,
    distil=distil_here,
    readings={"released": RELEASED},
    presets={
        "paper": {},
        "non-iid": {"partition": "dirichlet"},
        "compare": {"baselines": ALL, "allow_real": True},
        # A small ConvNet on both sides; the clients are the phantom's five devices, which differ in colour.
        "demo": {
            "network": {"architecture": "convnet", "image_size": 32, "width": 32, "depth": 3},
            "extractor_width": 32, "extractor_depth": 3, "images_per_class": 10, "iterations": 150, "real_batch": 32,
            "partition": "column:device", "least_steps": 500, "epochs": 1, "dtype": "float16",
        },
        "check": {
            "network": {"architecture": "convnet", "image_size": 16, "width": 12, "depth": 2},
            "extractor_width": 12, "extractor_depth": 2, "iterations": 4, "clients": 2, "least_steps": 40, "epochs": 1,
        },
    },
    run=train,
)  # fmt: skip
