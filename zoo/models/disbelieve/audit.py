"""The audit of a rule: the federation's ``aggregate``, with an attack in front of the rule and a record behind it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from zoo.federated import State, Update, weighted_mean
from zoo.federated.flat import adam_step, flat, unflat
from zoo.figure.plane import Projection
from zoo.models.disbelieve.attacks import AttackSettings, Crafted, Data, Share, craft
from zoo.models.disbelieve.result import RoundRecord
from zoo.nn.robust import Rule, pair_distances
from zoo.seeds import derive_seed

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Attacker:
    """What the attacker has: its clients, their pooled data, and a network to work in."""

    settings: AttackSettings
    controlled: tuple[int, ...]
    data: Data
    network: nn.Module
    share: Share = "params"
    seed: int = 0

    def replace(
        self, updates: Float[Tensor, "n d"], clients: Sequence[int], buffers: list[Tensors], state: State
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "f d"], Crafted | None]:
        """The updates with those of the controlled clients replaced; their honest ones; what was crafted.

        Where the attack trains a model, the malicious one's ``buffers`` replace theirs too.
        """
        rows = [row for row, client in enumerate(clients) if client in self.controlled]
        honest = updates[rows]
        if len(rows) < 2:  # too few of them replied in this round
            return updates, honest, None
        mean = weighted_mean([buffers[row] for row in rows], [1] * len(rows))
        self.network.load_state_dict({**state.network, **mean})
        rng = np.random.default_rng(derive_seed(self.seed, "attack", state.round))
        crafted = craft(
            honest, self.network, self.data, self.share, clients=max(len(clients), 2 * len(rows) + 1),
            settings=self.settings, rng=rng,
        )  # fmt: skip
        sent = updates.clone()
        sent[rows] = crafted.vector.to(sent)
        if self.settings.attack == "disbelieve":
            malicious = self.network.state_dict()
            for row in rows:
                buffers[row] = {name: malicious[name].clone() for name in mean}
        return sent, honest, crafted


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

    def __call__(self, updates: Sequence[Update], state: State) -> State:
        clients = [update.client for update in updates]
        parts = [self._parts(update) for update in updates]
        vectors, buffers = torch.stack([vector for vector, _ in parts]), [rest for _, rest in parts]
        losses = [update.numbers["loss"] for update in updates]
        record = RoundRecord(state.round, float(np.mean(losses)), _spread_of(vectors), excluded=state.failed)
        sent, honest, crafted = vectors, vectors[:0], None
        if self.attacker is not None:
            sent, honest, crafted = self.attacker.replace(vectors, clients, buffers, state)
        controlled = self.attacker.controlled if self.attacker is not None and crafted is not None else ()
        if crafted is not None:
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
            vector, own["adam"] = adam_step(state, self.parameters, vector, self.server_lr)
        network = {**unflat(vector, self.parameters, state.network), **weighted_mean(buffers, [1] * len(buffers))}
        return state.updated(own, network={name: network[name] for name in state.network})

    def _parts(self, update: Update) -> tuple[Float[Tensor, " d"], Tensors]:
        """What is compared, as one vector, and the buffers."""
        grads = self.share == "grads"
        sent, rest = (update.models[name] for name in (("gradient", "buffers") if grads else ("network", "network")))
        buffers = {name: tensor for name, tensor in rest.items() if name not in self.parameters}
        return flat(sent[name] for name in self.parameters), buffers


def _spread_of(updates: Float[Tensor, "n d"]) -> tuple[float, float, float]:
    if len(updates) < 2:
        return (math.nan,) * 3
    pairs = pair_distances(updates)
    return float(pairs.min()), float(pairs.mean()), float(pairs.max())
