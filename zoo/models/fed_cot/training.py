"""The federation: what a clinic does in a round with its two teachers, what the server averages, how it is measured.

server: w, sync = w; every client: async = w
for each round:
    every client: student = w, s = sync; async = EMA(async, w, alpha2)
        I steps on L_l + lambda L_u, and after each s = EMA(s, student, alpha1), async = EMA(async, student, alpha1)
    w = mean of the students, sync = mean of the s; async stays where it is
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo import media
from zoo.data.case import Case
from zoo.data.sets import Dataset
from zoo.data.splits import PARTS, Split, TrainData
from zoo.data.volumes import voxels
from zoo.errors import DataError, OptionError
from zoo.federated import Context, Federation, State, Update, by_attribute, divided
from zoo.metrics import segmentation_scores
from zoo.models.fed_cot import plugin
from zoo.models.fed_cot.consistency import alpha1, consistency, cut_mixed, ema_, lesion_boxes, ramp
from zoo.models.fed_cot.data import Brains, lesions_of
from zoo.models.fed_cot.model import FedCoT
from zoo.models.fed_cot.network import CICEK, PAPER, CoTConfig, Network
from zoo.models.fed_cot.result import rounds_figure
from zoo.seeds import derive_seed
from zoo.storage import write_file
from zoo.training import Run, Training

Method = Literal["fed-cot", "sync", "async", "mt", "pl", "fl"]
Pair = tuple[int, int]


def _number(default: float, high: float, low: float = 0.0) -> Any:
    return field(default=default, metadata={"min": low, "max": high})


def _count(default: int, low: int = 1) -> Any:
    return field(default=default, metadata={"min": low, "max": 1_000_000})


@dataclass(frozen=True)
class CoTRecipe:
    """Sec. 4.2; a value that the paper leaves open is called so."""

    method: Method = "fed-cot"
    """``sync`` and ``async`` have one of the two teachers; ``mt``: FL+MT, a teacher that the averaging of students
    passes by; ``pl``: FL+PL, pseudo-labels by the network as it came; ``fl``: labelled scans alone."""
    network: CoTConfig = field(default_factory=lambda: PAPER)
    partition: str = "column:site"  # a client for each; pooled: one who has everything (Centralized)
    sites: tuple[str, ...] = ()  # who takes part, by the column's values; by default all; one: Single Client
    clients: int = _count(4)  # of iid, where the data name no site
    labelled: float = _number(0.25, 1.0, 0.001)
    """Share of a client's training cases whose mask it has, where all have one (Sec. 4.1). Where some have none, those
    are the unlabelled ones."""
    rounds: int = _count(10)  # T
    iters: int = _count(300)  # E = 1 epoch of I = 300
    batch_l: int = _count(16)  # B
    batch_u: int = _count(16, 2)  # B
    lr: float = _number(2.5e-4, 1.0)  # Adam, anew in every round (open)
    alpha1: tuple[float, float] = field(default=(0.99, 0.999), metadata={"min": 0.0, "max": 1.0})  # first round; open
    alpha2: float = _number(0.5, 1.0)  # once a round; open. 1 leaves the step out
    lam: float = _number(1.0, 1000.0)  # lambda; open
    ramp_iters: int = _count(300, 0)  # open
    cutmix: bool = True  # LesionCutMix, of every method with a teacher
    boxes: Pair = field(default=(2, 7), metadata={"min": 0, "max": 1000})  # of a crop; open: 8 to 24 in 96^3
    edges: Pair = field(default=(8, 16), metadata={"min": 1, "max": 1000})  # voxels, Sec. 3.2
    pl_weight: float = _number(0.5, 1000.0)  # of pseudo-labels; open
    pl_round: int = _count(3)  # the first with pseudo-labels; open
    centred: float = _number(0.5, 1.0)  # share of labelled crops about a lesion; open
    augment: bool = True  # flips, small changes of intensity of labelled crops; open
    measure_every: int = _count(1)  # rounds between two measurements
    dtype: Literal["float32", "float16"] = "float32"  # of the saved weights

    def __post_init__(self) -> None:
        for name in ("boxes", "edges"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} must rise, not {low},{high}")

    @property
    def syncs(self) -> bool:
        return self.method in ("fed-cot", "sync")

    @property
    def keeps(self) -> bool:
        """Whether a client has a teacher of its own."""
        return self.method in ("fed-cot", "async", "mt")


@runtime_checkable
class Shard(Protocol):
    """What a client works on."""

    def __len__(self) -> int: ...
    def labelled(self, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]: ...
    def unlabelled(self, count: int, rng: np.random.Generator) -> Tensor: ...


# ---- a client's round ------------------------------------------------------------------------------------------------


def client(network: Network, shard: Shard, rng: np.random.Generator, context: Context, recipe: CoTRecipe) -> Update:
    """Student and sync-teacher in and out; the async-teacher is kept here (Algorithm 1)."""
    others = rng.spawn(1)[0]  # so that a labelled batch is the same, whatever is done with unlabelled ones
    teachers = teachers_of(network, context, recipe)
    pseudo = recipe.method == "pl" and context.round >= recipe.pl_round
    frozen = copy.deepcopy(network).requires_grad_(False) if pseudo else None
    adam = torch.optim.Adam(network.parameters(), lr=recipe.lr, fused=True)
    network.train()
    losses, apart = [], []
    for i in range(recipe.iters):
        step = (context.round - 1) * recipe.iters + i
        x, m = (one.to(context.device) for one in shard.labelled(recipe.batch_l, rng))
        loss = F.binary_cross_entropy_with_logits(network(x), m)  # L_l
        if teachers or frozen is not None:
            u = shard.unlabelled(recipe.batch_u, others).to(context.device)
            if frozen is not None:
                unsure = pseudo_loss(network, frozen, u)
                loss = loss + recipe.pl_weight * unsure
            else:
                unsure = unlabelled_loss(network, list(teachers.values()), u, others, recipe)
                loss = loss + recipe.lam * ramp(step, recipe.ramp_iters) * unsure  # Eq. 3
            apart.append(unsure.detach())
        adam.zero_grad()
        loss.backward()
        adam.step()
        for teacher in teachers.values():
            ema_(teacher, network, alpha1(step, recipe.iters, *recipe.alpha1))
        losses.append(loss.detach())
    if "async" in teachers:
        context.kept["async"] = {name: value.cpu() for name, value in teachers["async"].state_dict().items()}
    sent = {"network": network} | ({"sync": teachers["sync"]} if "sync" in teachers else {})
    told = {"loss": float(torch.stack(losses).mean())} | ({"apart": float(torch.stack(apart).mean())} if apart else {})
    return Update(sent, num_examples=len(shard), **told)


def teachers_of(network: Network, context: Context, recipe: CoTRecipe) -> dict[str, Network]:
    """The teachers as a round begins: sync as it came, async one step nearer to the new student (alpha2)."""
    found: dict[str, Network] = {}
    if recipe.syncs:
        found["sync"] = _frozen(network)
        found["sync"].load_state_dict(context.received["sync"])
    if recipe.keeps:
        found["async"] = _frozen(network)
        if "async" in context.kept:
            found["async"].load_state_dict(context.kept["async"])
        if recipe.method != "mt":  # plain Mean Teacher isn't told that students were averaged
            ema_(found["async"], network, recipe.alpha2)
    return found


def _frozen(network: Network) -> Network:
    return copy.deepcopy(network).requires_grad_(False)


def unlabelled_loss(
    network: Network, teachers: Sequence[Network], u: Tensor, rng: np.random.Generator, recipe: CoTRecipe
) -> Tensor:
    """L_u: the student sees mixed crops, the teachers whole ones, and their answers are mixed by the same boxes."""
    with torch.no_grad():
        targets = [teacher(u).sigmoid() for teacher in teachers]
    if recipe.cutmix:
        mask = lesion_boxes((len(u), *u.shape[2:]), recipe.boxes, recipe.edges, rng).to(u.device)
        u, targets = cut_mixed(u, mask), [cut_mixed(target, mask) for target in targets]
    return consistency(network(u), targets)


def pseudo_loss(network: Network, frozen: Network, u: Tensor) -> Tensor:
    """Cross-entropy to what the network as it came holds for a lesion."""
    with torch.no_grad():
        told = (frozen(u) > 0).to(u.dtype)
    return F.binary_cross_entropy_with_logits(network(u), told)


# ---- the federation --------------------------------------------------------------------------------------------------


def sites_of(recipe: CoTRecipe, data: Dataset, seed: int) -> tuple[list[str], list[np.ndarray]]:
    """Who takes part, by name, and their cases. Raises ``OptionError`` for a site that isn't there."""
    kind, _, column = recipe.partition.partition(":")
    if recipe.partition == "pooled" and not recipe.sites:
        return ["pooled"], [np.arange(len(data))]
    if kind != "column":
        if recipe.sites:
            raise OptionError("sites are values of a column; set partition=column:NAME")
        parts = divided(recipe.partition, data, [0] * len(data), recipe.clients, 1.0, seed)
        return [f"client {number}" for number in range(len(parts))], parts
    parts = by_attribute(data, column)
    names = [str(data[int(places[0])].attributes[column]) for places in parts]
    if unknown := [name for name in recipe.sites if name not in names]:
        raise OptionError(f"there is no {column} {unknown[0]!r}; there are {', '.join(names)}")
    chosen = [place for place, name in enumerate(names) if not recipe.sites or name in recipe.sites]
    return [names[place] for place in chosen], [parts[place] for place in chosen]


def known_and_unknown(cases: Sequence[Case], share: float, who: str, seed: int) -> tuple[list[Case], list[Case]]:
    """A client's labelled and unlabelled cases (L_k and U_k); at least one is labelled.

    Raises ``DataError`` where nobody has a mask.
    """
    known, unknown = [case for case in cases if "mask" in case.masks], [c for c in cases if "mask" not in c.masks]
    if not known:
        raise DataError(f"no training case of {who} has a mask; a client needs one or more, or leave it out by sites")
    if not unknown and share < 1:
        order = np.random.default_rng(derive_seed(seed, "labelled", who)).permutation(len(known))
        count = max(1, round(share * len(known)))
        mine = set(order[:count].tolist())
        known, unknown = ([case for i, case in enumerate(cases) if (i in mine) is yes] for yes in (True, False))
    return known, unknown


def build(recipe: CoTRecipe, data: TrainData, seed: int) -> Federation:
    """The clinics of a recipe, the same in every process."""
    config = recipe.network
    if config.flat:
        raise OptionError("network.flat is for images, and the data are volumes; set it to false")
    names, partitions = sites_of(recipe, data.train, seed)

    owned = []
    for name, places in zip(names, partitions, strict=True):
        known, unknown = known_and_unknown([data.train[int(place)] for place in places], recipe.labelled, name, seed)
        if recipe.method != "fl" and not unknown:
            raise OptionError(f"every training case of {name} is labelled; set labelled below 1, or method=fl")
        owned.append((known, unknown))

    @cache
    def shard(number: int) -> Brains:
        return Brains.of(*owned[number], config.spacing, config.patch, recipe.centred, recipe.augment)

    judged = data.validation if len(data.validation) else data.test

    def evaluate(state: State) -> dict[str, float]:
        """Mean Dice of the validation cases, else the test's, whose weights it doesn't choose; by site as well."""
        model = assembled(recipe, state).eval()
        rows = [(case, row) for case in judged for row in score(model, case, {})]
        return by_site([(str(case.attributes.get("site", "")), row["dice"]) for case, row in rows])

    return federation(recipe, partitions, shard, evaluate)


def by_site(scores: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Subject-wise Dice over all subjects, and over those of each site (Tables 1 and 2)."""
    known = [(site, value) for site, value in scores if value == value]
    sites = sorted({site for site, _ in known if site})
    means = {f"dice-{site}": float(np.mean([v for other, v in known if other == site])) for site in sites}
    return ({"dice": float(np.mean([value for _, value in known]))} if known else {}) | means


def federation(recipe: CoTRecipe, partitions: Sequence[Any], shard: Any, evaluate: Any = None) -> Federation:
    """Students and sync-teachers are averaged evenly: 1/K (Algorithm 1)."""

    def start() -> dict[str, Network]:
        network = Network(recipe.network)
        return {"network": network} | ({"sync": copy.deepcopy(network)} if recipe.syncs else {})

    return Federation(
        model=partial(Network, recipe.network),
        client=partial(client, recipe=recipe),
        data=shard,
        partitions=partitions,
        rounds=recipe.rounds,
        start=start,
        weights="uniform",
        evaluate=evaluate,
        evaluate_every=recipe.measure_every,
        min_clients=min(2, len(partitions)),
        target=None,
    )


def assembled(recipe: CoTRecipe, state: State) -> FedCoT:
    """The model of a state: the student, and the sync-teacher if there is one."""
    model = FedCoT(replace(recipe.network, sync=recipe.syncs))
    model.network.load_state_dict(state.network)
    if model.sync is not None:
        model.sync.load_state_dict(state.models["sync"])
    return model


def train(recipe: CoTRecipe, data: TrainData, run: Run) -> FedCoT:
    """All rounds on the run's engine; Dice over the rounds as a picture."""
    from zoo.federated import federate  # needs Flower

    data = TrainData(*(getattr(data, part).in_memory() for part in PARTS))
    outcome = federate(build, recipe, data, run)
    if run.out is not None and run.is_main:
        write_file(run.out / "rounds.png", rounds_figure(outcome.rows, recipe.method))
    return assembled(recipe, outcome.state).to(run.device).eval()


def score(model: FedCoT, case: Case, options: Mapping[str, Any]) -> list[dict[str, float]]:
    """Dice on the grid of the file, with lesions counted on both sides; nothing of a case without a mask."""
    if "mask" not in case.masks:
        return []
    found = model.predict(case.image, **options)
    native = voxels(media.read(case.image).require_3d(plugin.name), plugin.name)[1]
    truth = lesions_of(case, native).astype(np.uint8)
    return [segmentation_scores(found.mask, truth, plugin.labels)]


SMALL: dict[str, Any] = {
    "widths": (8, 16, 32), "last": 8, "groups": 4, "bias": -2.0, "patch": (24, 24, 24), "spacing": (4.0, 4.0, 4.0),
}  # fmt: skip
training = Training(
    recipe=CoTRecipe,
    run=train,
    federation=build,
    presets={
        "paper": {},
        "cicek": {"network": CICEK},
        "demo": {
            "network": SMALL, "rounds": 10, "iters": 30, "batch_l": 2, "batch_u": 2, "lr": 3e-3, "alpha1": (0.95, 0.95),
            "ramp_iters": 150, "boxes": (2, 4), "edges": (3, 6), "measure_every": 5, "dtype": "float16",
        },
    },
    split=Split((0.5, 0.0, 0.5)),  # Sec. 4.1
    score=score,
)  # fmt: skip
