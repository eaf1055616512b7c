"""What a clinic does in a round with its two teachers, and what the server makes of it.

server: w, sync = w; every client: async = w
for each round:
    every client: student = w, s = sync; async = EMA(async, w, alpha2)
        I steps on L_l + lambda L_u, and after each s = EMA(s, student, alpha1), async = EMA(async, student, alpha1)
    w = mean of the students, sync = mean of the s; async stays where it is
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from zoo.federated import Context, Federation, Update
from zoo.models.fed_cot.network import PAPER, CoTConfig, Network

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
    partition: str = "column:site"  # a client for each
    sites: tuple[str, ...] = ()  # who takes part, by the column's values; by default all
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


# ---- boxes, consistency, moving averages -----------------------------------------------------------------------------


def lesion_boxes(
    shape: Sequence[int], boxes: tuple[int, int], edges: tuple[int, int], rng: np.random.Generator
) -> Bool[Tensor, "b 1 *grid"]:
    """For each crop of a batch ``(b, *grid)`` the union of some boxes of the size of lesions.

    How many, and each of their edges, are drawn evenly between the two ends, both included; an edge is no longer than
    the crop. Boxes lie anywhere in the crop.
    """
    batch, *grid = shape
    mask = torch.zeros(batch, 1, *grid, dtype=torch.bool)
    for place in range(batch):
        for _ in range(int(rng.integers(boxes[0], boxes[1] + 1))):
            sides = [min(int(rng.integers(edges[0], edges[1] + 1)), length) for length in grid]
            starts = [int(rng.integers(length - side + 1)) for side, length in zip(sides, grid, strict=True)]
            mask[place, 0][tuple(slice(a, a + side) for a, side in zip(starts, sides, strict=True))] = True
    return mask


def cut_mixed(u: Float[Tensor, "b c *grid"], mask: Bool[Tensor, "b 1 *grid"]) -> Float[Tensor, "b c *grid"]:
    """In the boxes what the next crop of the batch has at the same place; images and targets alike."""
    return torch.where(mask, u.roll(-1, 0), u)


def consistency(logits: Float[Tensor, "b 1 *grid"], targets: Sequence[Float[Tensor, "b 1 *grid"]]) -> Float[Tensor, ""]:
    """L_u: the mean over the teachers of the squared distance to each one's probabilities (Eq. 2).

    A mean over voxels: as a sum it would be a million times the cross-entropy.
    """
    p = logits.sigmoid()
    return torch.stack([(p - target).square().mean() for target in targets]).mean()


@torch.no_grad()
def ema_(teacher: nn.Module, student: nn.Module, alpha: float) -> None:
    """teacher = alpha teacher + (1 - alpha) student (Eq. 1), all parameters in one pass."""
    torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1 - alpha)


def alpha1(step: int, iters: int, first: float, later: float) -> float:
    """The decay of a step, from 0: in the first round the mean of all students so far, at most ``first``."""
    return min(first, 1 - 1 / (step + 1)) if step < iters else later


def ramp(step: int, steps: int) -> float:
    """The share of lambda at a step, from 0: exp(-5 (1 - s)^2), which is 1 after ``steps``."""
    return math.exp(-5 * (1 - min(1.0, step / steps)) ** 2) if steps else 1.0


# ---- the server ------------------------------------------------------------------------------------------------------


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
        target=None,
    )
