"""FedAvg of the centres, and then the same without one of them, by every scheme that is asked for.

The schemes are those of ``zoo.federated.unlearning``; what is the paper's own is here: the network's loss, five steps a
round, centres of equal weight, and how utility and what is left of the leaver are measured.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from zoo import media
from zoo.data.case import Case
from zoo.data.sets import Dataset, read_mask
from zoo.data.splits import Split, TrainData
from zoo.data.volumes import resample
from zoo.errors import DataError, DataWarning, OptionError
from zoo.federated import Context, Federation, HistoryPolicy, Outcome, Request, Settings, State, Update, by_attribute
from zoo.federated.unlearning import MethodName
from zoo.metrics import dice, segmentation_scores
from zoo.models.fed_unlearn_prostate import plugin
from zoo.models.fed_unlearn_prostate.model import FedUnlearnProstate, ProstateConfig, UNet, entering
from zoo.seeds import derive_seed
from zoo.text import listed
from zoo.training import Run, Training


@dataclass(frozen=True)
class ProstateRecipe:
    """Table 4; comments name what the authors' code has where the paper says otherwise or nothing."""

    recipe: Literal["released", "paper"] = "released"  # whose values the other fields have
    network: ProstateConfig = field(default_factory=ProstateConfig)
    optimizer: Literal["adamw", "sgd"] = "adamw"  # as released, anew in every round; the paper says SGD
    lr: float = field(default=1e-3, metadata={"min": 0.0, "max": 10.0})  # Table 4
    momentum: float = field(default=0.0, metadata={"min": 0.0, "max": 0.999})  # of SGD; not stated
    weight_decay: float = field(default=0.01, metadata={"min": 0.0, "max": 1.0})  # of AdamW, as released
    local_steps: int = field(default=5, metadata={"min": 1, "max": 100_000})  # Table 4
    batch_size: int = field(default=8, metadata={"min": 1, "max": 4096})  # Table 4
    rounds: int = field(default=500, metadata={"min": 1, "max": 1_000_000})  # Table 4
    centre: str = "centre"  # the column by which cases are divided
    control: float = field(default=0.0, metadata={"min": 0.0, "max": 0.5})
    """Share of each centre's training cases that the server has itself, unlabelled, and that no centre trains on: what
    UKD distils on. As released there is none; the paper doesn't say where its server has data from."""
    measure_every: int = field(default=25, metadata={"min": 1, "max": 1_000_000})
    """Rounds between two measurements of every centre; the last round is always measured."""
    learned: float = field(default=0.7, metadata={"min": 0.0, "max": 1.0})
    """Dice that the model of all centres must have on each of them before schemes are compared."""
    leaver: str = "C2"  # who is forgotten by ``schemes``
    schemes: tuple[MethodName, ...] = ()  # which follow the training in the same run, for weights side by side
    forgetting: Settings = field(default_factory=Settings)  # how
    dtype: Literal["float32", "float16"] = "float32"  # of the saved weights


class Site(NamedTuple):
    """A centre's volumes and masks in memory."""

    x: Float[Tensor, "n 1 x y z"]
    y: Float[Tensor, "n 1 x y z"]


def load_site(cases: Dataset, config: ProstateConfig) -> Site:
    """Volumes as the network takes them. Raises ``DataError`` for a mask of another size than its volume."""
    xs, ys = [], []
    for case in cases:
        image = media.read(case.image).require_3d(plugin.name)
        x, grid, native = entering(image, config)
        mask = gland(case)
        if mask.shape != native.shape:
            mask = mask.reshape(native.shape) if mask.size == np.prod(native.shape) else mask
        if mask.shape != native.shape:
            raise DataError(f"volume and mask of case {case.id} differ in size: {native.shape} and {mask.shape}")
        xs.append(torch.from_numpy(x)[None])
        y = resample(mask, native, grid, mode="nearest", outside=0)
        ys.append(torch.from_numpy(np.ascontiguousarray(y.T).astype(np.float32))[None])
    return Site(torch.stack(xs), torch.stack(ys))


def gland(case: Case) -> np.ndarray:
    """Peripheral and transition zone merged (Sec. 3.1)."""
    return (read_mask(case, "gland" if "gland" in case.masks else "mask") > 0).astype(np.uint8)


def dice_loss(p: Float[Tensor, "b 2 x y z"], y: Float[Tensor, "b 1 x y z"]) -> Float[Tensor, ""]:
    """1 - Dice of the prostate, mean over the batch; MONAI's with smoothing 1e-5 and without the background."""
    found, truth = p[:, 1].flatten(1), y[:, 0].flatten(1)
    overlap = (found * truth).sum(1)
    return (1 - (2 * overlap + 1e-5) / (found.sum(1) + truth.sum(1) + 1e-5)).mean()


def client(
    network: nn.Module, site: Site, rng: np.random.Generator, context: Context, recipe: ProstateRecipe
) -> Update:
    """K steps from the server's weights, each on a batch from a fresh order of the cases; optimiser anew."""
    adamw = recipe.optimizer == "adamw"
    optimizer: torch.optim.Optimizer = (
        torch.optim.AdamW(network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
        if adamw
        else torch.optim.SGD(network.parameters(), lr=recipe.lr, momentum=recipe.momentum)
    )
    network.train()
    losses = []
    for _ in range(recipe.local_steps):
        loss, _ = objective(network, site, rng, recipe.batch_size)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return Update({"network": network}, num_examples=len(site.y), loss=float(np.mean(losses)))


def objective(
    network: nn.Module, site: Site, rng: np.random.Generator, batch_size: int
) -> tuple[Float[Tensor, ""], float]:
    """The loss of a batch, and its Dice, below which PGA stops."""
    device = next(network.parameters()).device
    rows = rng.permutation(len(site.y))[:batch_size]
    loss = dice_loss(network(site.x[rows].to(device)), site.y[rows].to(device))
    return loss, 1 - float(loss.detach())


def answers_apart(
    student: nn.Module, teacher: nn.Module, x: Float[Tensor, "b 1 x y z"], temperature: float
) -> Float[Tensor, ""]:
    """What UKD distils by: cross-entropy of the flattened probabilities, voxel by voxel."""
    with torch.no_grad():
        q = teacher(x, temperature)
    return -(q * student(x, temperature).clamp_min(1e-12).log()).sum(1).mean()


@torch.no_grad()
def site_dice(network: nn.Module, site: Site) -> float:
    """Mean Dice of the cases, on the network's grid."""
    network.eval()
    device = next(network.parameters()).device
    found = torch.cat([network(x.to(device))[:, 1:].cpu() > 0.5 for x in site.x.split(8)])
    return float(np.mean([dice(a.numpy(), b.numpy() > 0) for a, b in zip(found, site.y, strict=True)]))


def build(recipe: ProstateRecipe, data: TrainData, seed: int) -> Federation:
    """The centres, each of the same weight (p_i = 1/n), and Dice of everybody after some rounds.

    Utility is told of the centres that have test cases; the residual needs none.
    """
    partitions = by_attribute(data.train, recipe.centre)
    names = [str(data.train[int(places[0])].attributes[recipe.centre]) for places in partitions]
    partitions, own = set_aside(partitions, recipe.control, seed)
    theirs = [str(case.attributes.get(recipe.centre)) for case in data.test]
    held_out = [[place for place, name in enumerate(theirs) if name == one] for one in names]

    @cache
    def site(place: int) -> Site:
        return load_site(data.train.subset(partitions[place]), recipe.network)

    @cache
    def test(place: int) -> Site:
        return load_site(data.test.subset(held_out[place]), recipe.network)

    @cache
    def unlabelled(leaving: tuple[int, ...]) -> Float[Tensor, "n 1 x y z"]:
        places = [place for client, mine in enumerate(own) if client not in leaving for place in mine]
        return load_site(data.train.subset(places), recipe.network).x

    def distil(
        student: nn.Module, teacher: nn.Module, rng: np.random.Generator, leaving: Sequence[int], temperature: float
    ) -> Float[Tensor, ""]:
        x = unlabelled(tuple(leaving))
        rows = rng.permutation(len(x))[: recipe.batch_size]
        return answers_apart(student, teacher, x[rows].to(next(student.parameters()).device), temperature)

    def evaluate(state: State) -> dict[str, float]:
        network = UNet(recipe.network)
        network.load_state_dict(state.network)
        tested = [(place, name) for place, name in enumerate(names) if held_out[place]]
        scores = {f"test-{name}": site_dice(network, test(place)) for place, name in tested}
        return scores | {f"train-{name}": site_dice(network, site(place)) for place, name in enumerate(names)}

    return Federation(
        model=partial(UNet, recipe.network),
        client=partial(client, recipe=recipe),
        data=site,
        partitions=partitions,
        rounds=recipe.rounds,
        weights="uniform",
        evaluate=evaluate,
        evaluate_every=recipe.measure_every,
        target=None if "gland" in data.train[0].masks else "mask",
        names=names,
        held_out=held_out,
        objective=partial(objective, batch_size=recipe.batch_size),
        distil=distil if any(map(len, own)) else None,
        aside=own,
        learned=recipe.learned,
    )


def set_aside(partitions: Sequence[np.ndarray], share: float, seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The cases that each centre trains on, and those of its that the server has: the share of them, one or more."""
    kept, own = [], []
    for place, mine in enumerate(partitions):
        count = min(max(1, round(share * len(mine))), len(mine) - 1) if share else 0
        mixed = np.random.default_rng(derive_seed(seed, "control", place)).permutation(mine)
        own.append(np.sort(mixed[:count]))
        kept.append(np.sort(mixed[count:]))
    return kept, own


def untold(recipe: ProstateRecipe, data: TrainData) -> list[str]:
    """The centres whose utility can't be told, as they have no test case."""
    names = {str(case.attributes.get(recipe.centre)) for case in data.train}
    return sorted(names - {str(case.attributes.get(recipe.centre)) for case in data.test})


def train(recipe: ProstateRecipe, data: TrainData, run: Run) -> FedUnlearnProstate:
    """All centres; then, if schemes are asked for, without the leaver by each. ``zoo unlearn`` comes here, too."""
    from zoo.federated import federate  # needs Flower

    data = TrainData(data.train.in_memory(), data.validation.in_memory(), data.test.in_memory())
    if run.is_main and (lacking := untold(recipe, data)):
        who = listed(lacking, "and")
        warnings.warn(f"there is no test case of {who}, so utility is told without", DataWarning, stacklevel=2)
    if run.forget is not None:
        outcome = federate(build, recipe, data, run)
        return assembled(recipe, {run.forget.method: outcome}, run)
    if recipe.schemes and run.history is None:
        kept = dict.fromkeys(scheme.replace("sifu", "ifu") for scheme in recipe.schemes)
        run.history = HistoryPolicy(dtype="float32", schemes=tuple(kept))
    outcomes = {"full": federate(build, recipe, data, run)}
    if recipe.schemes:
        outcomes |= forgotten(recipe, data, run, outcomes["full"], recipe.schemes, recipe.forgetting)
    return assembled(recipe, outcomes, run)


def forgotten(
    recipe: ProstateRecipe, data: TrainData, run: Run, full: Outcome, schemes: Sequence[str], settings: Settings,
    noise: int | None = 0,
) -> dict[str, Outcome]:  # fmt: skip
    """The training without the leaver by each scheme, as stages of the same run.

    Raises ``DataError`` where the model of all centres hasn't learned one of them: there is nothing to forget.
    """
    from zoo.federated import construct, federate

    whole = construct(build, recipe, data, run.seed)
    names = list(whole.names)
    if recipe.leaver not in names:
        raise OptionError(f"there is no centre {recipe.leaver!r} to leave; there are {', '.join(names)}")
    assert whole.evaluate is not None
    last = whole.evaluate(full.state) or {}
    for name in names:
        trained = last[f"train-{name}"]
        score = trained if name == recipe.leaver else last.get(f"test-{name}", trained)
        if not score >= recipe.learned:
            raise DataError(
                f"the model of all centres has a Dice of {score:.3f} on {name}, below {recipe.learned:g}, so there's "
                "nothing to forget yet; train for more rounds, or set learned"
            )
    assert full.history is not None
    found = {}
    for scheme in schemes:
        run.history = None
        run.forget = Request(
            Path("."), (names.index(recipe.leaver),), scheme.replace("sifu", "ifu"), settings, noise,
            history=full.history,
        )  # fmt: skip
        found[scheme] = federate(build, recipe, data, run, stage=scheme)
    run.forget = None
    return found


def assembled(recipe: ProstateRecipe, outcomes: Mapping[str, Outcome], run: Run) -> FedUnlearnProstate:
    """All sets of weights in one model, the last deciding."""
    model = FedUnlearnProstate(replace(recipe.network, sets=tuple(outcomes)))
    for name, outcome in outcomes.items():
        model.networks[name].load_state_dict(outcome.state_dict())
    return model.to(run.device).eval()


def score(model: FedUnlearnProstate, case: Case, options: Mapping[str, Any]) -> dict[str, Any]:
    """Dice on the grid of the input, of the weights that decide."""
    found = model.predict(case.image, **options)
    return segmentation_scores(found.mask, gland(case).reshape(found.mask.shape), plugin.labels)


SMALL = {"channels": (8, 16, 32), "units": 1, "dropout": 0.1, "size": (32, 32, 16), "fit": "resize"}
training = Training(
    recipe=ProstateRecipe,
    run=train,
    readings={
        "paper": {
            "optimizer": "sgd", "network": {"fit": "resize"}, "control": 0.05, "forgetting": {"distil": 2500},
        },
    },
    presets={
        "paper": {},
        # Small volumes of four drawn centres and four sets of weights: minutes on one CPU core.
        "demo": {
            "network": SMALL, "lr": 4e-3, "rounds": 30, "batch_size": 4, "measure_every": 5, "leaver": "b",
            "schemes": ("scratch", "finetuning", "ifu"), "dtype": "float16",
            "forgetting": {"rounds": 20},
        },
        "check": {
            "network": {**SMALL, "size": (16, 16, 8), "channels": (4, 8)}, "lr": 4e-3, "rounds": 8, "batch_size": 4,
            "leaver": "b", "schemes": ("scratch",), "learned": 0.0, "dtype": "float16",
        },
    },
    federation=build,
    split=Split((0.8, 0.0, 0.2)),
    score=score,
)  # fmt: skip
