"""What the server makes of the clients' models, beside FedAvg: Fed-NCL and Auto-FedAvg, and naive averaging.

Naive averaging and FedAvg are ``zoo.federated.average`` by equal weights and by cases. Fed-NCL is described in words
only: a client whose model is far from FedAvg's counts less; V2 weighs whole models and also by the loss of the client's
data under FedAvg's model, V4 weighs layer by layer. Auto-FedAvg learns the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from zoo.federated.exchange import State, Update, weighted_mean

Rule = Literal["naive", "fedavg", "auto", "ncl-v2", "ncl-v4"]
Tensors = Mapping[str, Tensor]
EPSILON = 1e-8


def shares(updates: Sequence[Update]) -> Float[Tensor, " k"]:
    """n_k / N."""
    counts = torch.tensor([float(update.num_examples) for update in updates], dtype=torch.float64)
    return counts / counts.sum()


def distances(models: Sequence[Tensors], mean: Tensors, names: Sequence[str]) -> Float[Tensor, " k"]:
    """d_k, of the parameters ``names`` from those of ``mean``, divided by its mean over the clients."""
    each = [
        torch.stack([(m[n].double() - mean[n].double()).square().sum() for n in names]).sum().sqrt() for m in models
    ]
    d = torch.stack(each)
    return d / d.mean().clamp(min=1e-30)


def ncl_v2(models: Sequence[Tensors], share: Tensor, losses: Tensor, mean: Tensors, names: Sequence[str]) -> Tensor:
    """s_k ~ n_k / N exp(-loss_k) / (eps + d_k), one for the whole model."""
    weight = share * torch.exp(-losses.double()) / (EPSILON + distances(models, mean, names))
    return weight / weight.sum()


def ncl_v4(
    models: Sequence[Tensors], share: Tensor, mean: Tensors, names: Sequence[str], literal: bool = False
) -> dict[str, Tensor]:
    """The aggregate, each layer by s_k ~ n_k / N / (eps + d_k) of its own parameters; buffers as FedAvg has them.

    ``literal``: s_k ~ n_k / N d_k, "proportional to their divergence" as the text has it.
    """
    result = dict(mean)
    layers: dict[str, list[str]] = {}
    for name in names:
        layers.setdefault(name.rpartition(".")[0], []).append(name)
    for inside in layers.values():
        d = distances(models, mean, inside)
        weight = share * d if literal else share / (EPSILON + d)
        if not weight.sum() > 0:  # all the same
            continue
        result |= weighted_mean([{n: m[n] for n in inside} for m in models], (weight / weight.sum()).tolist())
    return result


class Auto:
    """Auto-FedAvg: weights softmax(beta), beta by Adam on sum_k n_k / N loss_k(sum_j a_j theta_j), kept over rounds.

    ``gradients``: of each client's loss on a batch, in the mixed model's parameters; d loss / d a_j is their product
    with theta_j.
    """

    def __init__(self, share: Tensor, state: Mapping[str, Any] | None, lr: float) -> None:
        start = share.log() if state is None else state["beta"]
        self.beta = start.double().clone().requires_grad_(True)
        self.adam = torch.optim.Adam([self.beta], lr=lr)
        if state is not None:
            self.adam.load_state_dict(state["adam"])

    def mixed(self, models: Sequence[Tensors]) -> dict[str, Tensor]:
        return weighted_mean(models, self.beta.detach().softmax(0).tolist())

    def learn(self, models: Sequence[Tensors], gradients: Sequence[Tensors], share: Tensor) -> None:
        total = {n: sum(float(s) * g[n].double() for s, g in zip(share, gradients, strict=True)) for n in gradients[0]}
        slope = torch.stack([sum((total[n] * m[n].double()).sum() for n in total) for m in models])  # type: ignore
        self.adam.zero_grad()
        (self.beta.softmax(0) * slope).sum().backward()
        self.adam.step()

    def state(self) -> dict[str, Any]:
        return {"beta": self.beta.detach(), "adam": self.adam.state_dict()}


class Aggregation:
    """One of the rules over the exchanges of a round: ``train``, then ``judge`` (V2) or ``mix-1`` .. (auto).

    ``names``: of the network's parameters.
    """

    def __init__(self, rule: Rule, names: Sequence[str], *, literal: bool = False, lr: float = 0.01) -> None:
        self.rule, self.names, self.literal, self.lr = rule, list(names), literal, lr
        self._updates: list[Update] = []

    def __call__(self, updates: Sequence[Update], state: State) -> State:
        if state.exchange == "train":
            return self._trained(updates, state)
        if state.exchange == "judge":
            return self._judged(updates, state)
        return self._mixed(updates, state)

    def _trained(self, updates: Sequence[Update], state: State) -> State:
        self._updates = list(updates)
        models = [update.models["network"] for update in updates]
        weights = [1.0] * len(models) if self.rule == "naive" else shares(updates).tolist()
        mean = weighted_mean(models, weights)
        if self.rule == "ncl-v4":
            return state.updated(network=ncl_v4(models, shares(updates), mean, self.names, self.literal))
        if self.rule != "auto":
            return state.updated(network=mean)
        who = [update.client for update in updates]
        known = state.own.get("auto")
        auto = Auto(shares(updates), known if known and known["clients"] == who else None, self.lr)
        return state.updated({"auto": {**auto.state(), "clients": who}}, network=auto.mixed(models))

    def _judged(self, updates: Sequence[Update], state: State) -> State:
        """``state.network`` is FedAvg's, under which the clients measured their loss."""
        there = {update.client: update for update in self._updates}
        known = [(there[update.client], update.numbers["loss"]) for update in updates if update.client in there]
        models, losses = [update.models["network"] for update, _ in known], torch.tensor([loss for _, loss in known])
        weights = ncl_v2(models, shares([update for update, _ in known]), losses, state.network, self.names)
        return state.updated(network=weighted_mean(models, weights.tolist()))

    def _mixed(self, updates: Sequence[Update], state: State) -> State:
        gradients = {update.client: update.models["gradient"] for update in updates}
        models = [update.models["network"] for update in self._updates]
        share, known = shares(self._updates), state.own["auto"]
        auto = Auto(share, known, self.lr)
        zero = {name: torch.zeros_like(models[0][name]) for name in self.names}
        auto.learn(models, [gradients.get(update.client, zero) for update in self._updates], share)
        return state.updated({"auto": {**auto.state(), "clients": known["clients"]}}, network=auto.mixed(models))
