"""One federation under audit: what a client sends in a round, and what the server makes of it.

The server's side stands between the updates and the rule that combines them. It replaces those of the controlled
clients by the crafted vector, hands all to the rule as flat vectors in double precision, and notes what happened:
distances, who was picked, what weighed how much. The rule knows of no attack.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from zoo.federated import Context, State, Update, weighted_mean
from zoo.models.disbelieve.attacks import AttackSettings, Crafted, Data, Share, Targets, class_loss, craft
from zoo.models.disbelieve.result import Projection, RoundRecord
from zoo.models.disbelieve.screening import Rule, pair_distances
from zoo.seeds import derive_seed

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class ClientSettings:
    """What every client does in a round."""

    share: Share = "params"
    local_epochs: int = 3  # of SGD without momentum, where parameters are shared
    batch_size: int = 890
    lr: float = 0.01


# ---- the client ----------------------------------------------------------------------------------------------------


def client(
    network: nn.Module, data: Data, rng: np.random.Generator, context: Context, settings: ClientSettings
) -> Update:
    """Train, and send the model; or one gradient, and the buffers.

    A client whose own training diverges sends back what it got (or a gradient of 0), so that an audit of an attack
    that breaks the global model still comes to its end.
    """
    x, y = (part.to(context.device) for part in data)
    if settings.share == "params":
        loss = train_locally(network, x, y, settings, rng)
        finite = _all_finite(network.state_dict().values())  # not from a global model that an attack drove off
        sent = network.state_dict() if finite else context.received["network"]
        return Update({"network": sent}, num_examples=len(y), loss=loss)
    gradient, loss = local_gradient(network, x, y, settings.batch_size, rng)
    if not _all_finite(gradient.values()):
        gradient = {name: torch.zeros_like(part) for name, part in gradient.items()}
    buffers = {name: t for name, t in network.state_dict().items() if name not in gradient}
    return Update({"gradient": gradient, "buffers": buffers}, num_examples=len(y), loss=loss)


def _all_finite(tensors: Iterable[Tensor]) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def train_locally(
    network: nn.Module, x: Float[Tensor, "n ..."], y: Targets, settings: ClientSettings, rng: np.random.Generator
) -> float:
    """Some epochs of SGD in place; returns the mean loss of the last one."""
    network.train()
    parameters: list[Tensor] = list(network.parameters())
    total = 0.0
    for _ in range(settings.local_epochs):
        total = 0.0
        for rows in torch.from_numpy(rng.permutation(len(y))).split(settings.batch_size):
            loss = class_loss(network(x[rows]), y[rows])
            gradients = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                torch._foreach_add_(parameters, gradients, alpha=-settings.lr)
            total += float(loss.detach()) * len(rows)
    return total / len(y)


def local_gradient(
    network: nn.Module, x: Float[Tensor, "n ..."], y: Targets, batch_size: int, rng: np.random.Generator
) -> tuple[Tensors, float]:
    """The gradient of one mini-batch at the global parameters, by name, and its loss."""
    network.train()
    rows = torch.from_numpy(rng.permutation(len(y))[:batch_size])
    loss = class_loss(network(x[rows]), y[rows])
    names = [name for name, _ in network.named_parameters()]
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    return dict(zip(names, gradients, strict=True)), float(loss.detach())


# ---- the server ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attacker:
    """What the attacker has: its clients, their pooled data, and a network to work in."""

    settings: AttackSettings
    controlled: tuple[int, ...]
    data: Data
    network: nn.Module


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
    attacker: Attacker | None = None
    seed: int = 0

    def __call__(self, updates: Sequence[Update], state: State) -> State:
        clients = [update.client for update in updates]
        buffers = [self._buffers(update) for update in updates]
        vectors = torch.stack([self._vector(update) for update in updates])
        losses = [update.numbers["loss"] for update in updates]
        record = RoundRecord(state.round, float(np.mean(losses)), _spread_of(vectors), excluded=state.failed)
        sent, honest, crafted = self._attack(vectors, clients, buffers, state)
        if crafted is not None:
            record.distance, record.threshold, record.feasible = crafted.distance, crafted.threshold, crafted.feasible
        combined = self.rule(sent, [update.num_examples for update in updates])
        if combined.picked is not None:
            record.picked = clients[combined.picked]
            buffers = [buffers[combined.picked]]
        record.weights = tuple(combined.weights)
        own: dict[str, Any] = {"rounds": [*state.own.get("rounds", []), asdict(record)]}
        if state.round == self.rounds:
            controlled = self.attacker.controlled if crafted is not None and self.attacker else ()
            own["projection"] = asdict(project(sent, honest, clients, controlled, record.threshold))
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

    def _attack(
        self, updates: Float[Tensor, "n d"], clients: Sequence[int], buffers: list[Tensors], state: State
    ) -> tuple[Tensor, Tensor, Crafted | None]:
        """The updates with those of the controlled clients replaced; their honest ones; what was crafted."""
        attacker = self.attacker
        if attacker is None:
            return updates, updates[:0], None
        rows = [row for row, client in enumerate(clients) if client in attacker.controlled]
        honest = updates[rows]
        if len(rows) < 2 or attacker.settings.name == "none":  # too few of them replied in this round
            return updates, honest, None
        own = weighted_mean([buffers[row] for row in rows], [1] * len(rows))
        attacker.network.load_state_dict({**state.network, **own})
        rng = np.random.default_rng(derive_seed(self.seed, "attack", state.round))
        crafted = craft(
            honest, attacker.network, attacker.data, self.share, clients=max(len(clients), 2 * len(rows) + 1),
            settings=attacker.settings, rng=rng,
        )  # fmt: skip
        sent = updates.clone()
        sent[rows] = crafted.vector.to(sent)
        if attacker.settings.name == "disbelieve":
            malicious = attacker.network.state_dict()
            for row in rows:
                buffers[row] = {name: malicious[name].clone() for name in own}
        return sent, honest, crafted

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


def project(
    sent: Float[Tensor, "n d"], honest: Float[Tensor, "f d"], clients: Sequence[int], controlled: Sequence[int],
    threshold: float,
) -> Projection:  # fmt: skip
    """Principal components of all updates, around the mean of what the controlled clients would have sent."""
    mean = honest.mean(0) if len(honest) else sent.mean(0)
    rows = torch.cat([sent, honest]) - mean
    values, vectors = torch.linalg.eigh(rows @ rows.T)  # few updates, many coordinates: the small Gram matrix
    places = vectors[:, -2:].flip(1) * values[-2:].flip(0).clamp_min(0).sqrt()
    points = places.tolist()
    return Projection(
        list(clients), points[: len(sent)], list(controlled), points[len(sent) :],
        math.sqrt(threshold) if threshold >= 0 else math.nan,
    )  # fmt: skip


def _spread_of(updates: Float[Tensor, "n d"]) -> tuple[float, float, float]:
    if len(updates) < 2:
        return (math.nan,) * 3
    pairs = pair_distances(updates)
    return float(pairs.min()), float(pairs.mean()), float(pairs.max())
