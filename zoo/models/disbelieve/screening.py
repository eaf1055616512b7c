"""How far updates lie from each other, the aggregation rules that screen clients by it or don't, and their audit.

A rule takes flat updates in double precision and how many cases are behind each, and knows of no attack. The audit
stands around it: it lets an attack replace updates before, and notes distances, who was picked and what weighed how
much.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from zoo.errors import DataError, OptionError
from zoo.federated import State, Update, weighted_mean
from zoo.models.disbelieve.result import Projection, RoundRecord
from zoo.ops import prototype_similarity

Tensors = dict[str, Tensor]
Share = Literal["params", "grads"]
AggregatorName = Literal["fedavg", "krum", "trimmed-mean", "dos"]
BLOCK = 2**20  # coordinates at a time: models of any size need no second copy in double precision


def squared_distances(updates: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
    """Squared Euclidean distance of every two updates, float64; exactly 0 for equal ones.

    A sum over blocks of coordinates; each pair's differences are squared, so near copies keep their distance.
    Raises ``DataError`` for updates that are not finite.
    """
    if not torch.isfinite(updates).all():
        raise DataError("an update is not finite, so its distances mean nothing; leave its client out")
    total = updates.new_zeros(len(updates), len(updates), dtype=torch.float64)
    for block in updates.split(BLOCK, dim=1):
        wide = block.double()
        total -= prototype_similarity(wide.unsqueeze(1), wide, metric="l2")[0]  # one cell each: all pairs
    return total


def pair_distances(updates: Float[Tensor, "n d"]) -> Float[Tensor, " pairs"]:
    """Squared distance of every two different updates, each pair once."""
    return squared_distances(updates)[tuple(torch.triu_indices(len(updates), len(updates), 1))]


def distance_tables(updates: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n n"], Float[Tensor, "n n"]]:
    """Euclidean and cosine distances of every two updates, from one pass over them.

    1 - cos(x, y) = (|x - y|^2 - (|x| - |y|)^2) / (2 |x| |y|), which keeps its digits for nearly parallel vectors. The
    cosine distance to an update of length 0 is 1, and of two such 0.
    """
    squares = squared_distances(updates)
    length = torch.stack([block.double().square().sum(1) for block in updates.split(BLOCK, dim=1)]).sum(0).sqrt()
    product = length[:, None] * length
    cosine = (squares - (length[:, None] - length).square()) / (2 * product.clamp_min(1e-300))
    cosine = torch.where(product > 0, cosine, (squares > 0).double())
    return squares.sqrt(), cosine.clamp(0, 2)


def copod(table: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """COPOD outlier score of every row: large where its values lie in the tails of their columns.

    By column, minus the logarithm of the left and of the right empirical tail; the tail on the side to which the
    column is skewed, but at least the mean of both; summed over columns.

    Source: Z. Li et al., COPOD: Copula-Based Outlier Detection, 2020.
    """
    left = -torch.log((table[None] <= table[:, None]).double().mean(1))
    right = -torch.log((table[None] >= table[:, None]).double().mean(1))
    centred = table - table.mean(0)
    skew = centred.pow(3).mean(0)
    flat = centred.square().mean(0) <= 1e-30 * table.square().mean(0)  # a constant column has rounding, not skew
    skew = torch.where(flat, 0.0, skew)
    skewed = torch.where(skew > 0, right, torch.where(skew < 0, left, left + right))
    return torch.maximum(skewed, (left + right) / 2).sum(1)


def dos_weights(updates: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """DOS: the share of each update in the sum, softmax of minus the mean COPOD score of its two distance rows.

    Source: N. Alkhunaizi et al., Suppressing Poisoning Attacks on Federated Learning for Medical Imaging, 2022.
    """
    euclidean, cosine = distance_tables(updates)
    return torch.softmax(-(copod(euclidean) + copod(cosine)) / 2, 0)


# ---- rules -----------------------------------------------------------------------------------------------------------


class Combined(NamedTuple):
    """What a rule makes of the updates."""

    vector: Float[Tensor, " d"]
    picked: int | None = None  # the row of the only update that counts, where a rule picks one
    weights: Sequence[float] = ()  # of the rows, where a rule weighs them by what they are


Rule = Callable[[Float[Tensor, "n d"], Sequence[float]], Combined]


def rule_of(name: AggregatorName, clients: int, attackers: int) -> Rule:
    """The rule of that name, told the true number of attackers where it takes one.

    Raises ``OptionError`` when so many attackers are beyond any rule. Krum's own guarantee needs n > 2 f + 2; fewer
    clients are taken all the same, as in the paper (n = 10, f = 4).
    """
    refuse_majority(clients, attackers)
    if name == "krum":
        return partial(krum, attackers=attackers)
    if name == "trimmed-mean":
        # of as many updates as there are; the quarter keeps rounding from dropping one less
        return partial(trimmed_mean, share=(attackers + 0.25) / clients)
    return dos if name == "dos" else fedavg


def refuse_majority(clients: int, attackers: int) -> None:
    """Raises ``OptionError`` for a federation of one, or attackers that are no minority."""
    if clients < 2:
        raise OptionError(f"a federation needs at least 2 clients, not {clients}; raise clients")
    if 2 * attackers >= clients:
        raise OptionError(
            f"{attackers} attackers of {clients} clients are a majority or half, which no aggregator tolerates; "
            f"use at most {(clients - 1) // 2}"
        )


def fedavg(updates: Float[Tensor, "n d"], cases: Sequence[float]) -> Combined:
    """The mean by cases."""
    shares = updates.new_tensor(cases) / sum(cases)
    return Combined(shares @ updates)


def krum(updates: Float[Tensor, "n d"], cases: Sequence[float], attackers: int) -> Combined:
    """The one update whose n - f - 2 nearest others are nearest; the first of equal ones.

    Source: P. Blanchard et al., Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent, 2017.
    """
    nearest = max(1, len(updates) - attackers - 2)
    scores = squared_distances(updates).sort(1).values[:, 1 : nearest + 1].sum(1)  # the nearest of all is itself
    best = int((scores == scores.min()).nonzero()[0])
    return Combined(updates[best], picked=int((updates == updates[best]).all(1).nonzero()[0]))


def trimmed_mean(updates: Float[Tensor, "n d"], cases: Sequence[float], share: float) -> Combined:
    """The mean of each coordinate without that share of its largest and of its smallest values.

    Source: D. Yin et al., Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates, 2018.
    """
    cut = int(share * len(updates))
    return Combined(updates.sort(0).values[cut : len(updates) - cut].mean(0))


def dos(updates: Float[Tensor, "n d"], cases: Sequence[float]) -> Combined:
    """Distance-based outlier suppression: updates far from the others, in length or in direction, count for less.

    No weight is ever 0, so that an update of enormous length still dominates the sum.
    """
    weights = dos_weights(updates)
    return Combined(weights.to(updates) @ updates, weights=weights.tolist())


# ---- the audit -------------------------------------------------------------------------------------------------------


class Attack(Protocol):
    """Puts crafted updates in the place of the controlled clients' own; see ``attacks.Attacker``."""

    @property
    def controlled(self) -> tuple[int, ...]: ...

    def __call__(
        self, updates: Tensor, clients: Sequence[int], buffers: list[Tensors], state: State
    ) -> tuple[Tensor, Tensor, Any]: ...


@dataclass(frozen=True)
class Audited:
    """``rule`` with an attack in front of it and a record behind it, as the federation's ``aggregate``.

    ``parameters``: names of the trainable tensors; the others are buffers, which are kept out of all distances. After
    aggregation they're the picked client's where the rule picks one, else the mean of all. In gradient sharing the
    aggregated gradient goes through Adam with the rate ``server_lr``. The records are in the state's ``own``: a list
    of ``rounds``, and the ``projection`` of the last one.
    """

    rule: Rule
    parameters: Sequence[str]
    rounds: int
    share: Share = "params"
    server_lr: float = 1e-3
    attacker: Attack | None = None

    def __call__(self, updates: Sequence[Update], state: State) -> State:
        clients = [update.client for update in updates]
        buffers = [self._buffers(update) for update in updates]
        vectors = torch.stack([self._vector(update) for update in updates])
        losses = [update.numbers["loss"] for update in updates]
        record = RoundRecord(state.round, float(np.mean(losses)), _spread_of(vectors), excluded=state.failed)
        sent, honest, crafted, controlled = vectors, vectors[:0], None, ()
        if self.attacker is not None:
            sent, honest, crafted = self.attacker(vectors, clients, buffers, state)
        if crafted is not None:
            assert self.attacker is not None
            controlled = self.attacker.controlled
            record.distance, record.threshold, record.feasible = crafted.distance, crafted.threshold, crafted.feasible
        combined = self.rule(sent, [update.num_examples for update in updates])
        if combined.picked is not None:
            record.picked = clients[combined.picked]
            buffers = [buffers[combined.picked]]
        record.weights = tuple(combined.weights)
        own: dict[str, Any] = {"rounds": [*state.own.get("rounds", []), asdict(record)]}
        if state.round == self.rounds:
            own["projection"] = asdict(Projection.of(sent, honest, clients, controlled, record.threshold))
        vector = combined.vector
        if self.share == "grads":
            vector, own["adam"] = self._adam(state, vector)
        network = {**self._tensors(vector, state.network), **weighted_mean(buffers, [1] * len(buffers))}
        return state.updated(own, network={name: network[name] for name in state.network})

    def _vector(self, update: Update) -> Float[Tensor, " d"]:
        model = update.models["gradient" if self.share == "grads" else "network"]
        return flat(model[name] for name in self.parameters)

    def _buffers(self, update: Update) -> Tensors:
        model = update.models["buffers" if self.share == "grads" else "network"]
        return {name: tensor for name, tensor in model.items() if name not in self.parameters}

    def _adam(self, state: State, gradient: Float[Tensor, " d"]) -> tuple[Float[Tensor, " d"], dict[str, Any]]:
        """The parameters after a step of Adam along the aggregated gradient, and Adam's own state."""
        here = nn.Parameter(flat(state.network[name] for name in self.parameters))
        adam = torch.optim.Adam([here], lr=self.server_lr)
        if "adam" in state.own:
            adam.load_state_dict(state.own["adam"])
        here.grad = gradient
        adam.step()
        return here.detach(), adam.state_dict()

    def _tensors(self, vector: Float[Tensor, " d"], like: Tensors) -> Tensors:
        parts = vector.split([like[name].numel() for name in self.parameters])
        return {
            name: part.reshape(like[name].shape).to(like[name].dtype)
            for name, part in zip(self.parameters, parts, strict=True)
        }


def flat(tensors: Iterable[Tensor]) -> Float[Tensor, " d"]:
    """All in one vector, in double precision."""
    return torch.cat([tensor.double().flatten() for tensor in tensors])


def _spread_of(updates: Float[Tensor, "n d"]) -> tuple[float, float, float]:
    if len(updates) < 2:
        return (math.nan,) * 3
    pairs = pair_distances(updates)
    return float(pairs.min()), float(pairs.mean()), float(pairs.max())
