"""A federation whose end is known: every client pulls the weights towards its own point, by a share of the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import nn

from zoo.federated import Federation, Update

POINTS = torch.tensor([[1.0, 0.0, 2.0], [-3.0, 5.0, 1.0], [2.0, 2.0, -1.0], [0.5, -1.0, 0.0]])


@dataclass(frozen=True)
class Pull:
    clients: int = 4
    rounds: int = field(default=6, metadata={"min": 1})
    rate: float = 0.3
    still: int = -1  # this client sends back what it got
    dies: int = -1  # the server ends in this round
    broken: int = -1  # this client returns NaN in every round but the first
    every: int = 1  # how often the server measures
    own: bool = False  # whether the server has data of its own


class Weights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.randn(2))
        self.last = nn.Parameter(torch.randn(1))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))


def client(network, point, rng, context, recipe):
    with torch.no_grad():
        for parameter, goal in zip(network.parameters(), (point[:2], point[2:]), strict=True):
            parameter += (goal - parameter) * (0.0 if context.client == recipe.still else recipe.rate)
        if context.client == recipe.broken and context.round > 1:
            network.theta += torch.nan
    return Update({"network": network}, num_examples=1, who=context.client)


def distil(student, teacher, rng, leaving, temperature):
    """On data of the server's own that show the first weights alone."""
    assert leaving
    return (student.theta - teacher.theta.detach()).square().sum() / temperature


def objective(network, point, rng):
    away = (torch.cat([network.theta, network.last]) - point).square().sum()
    return away / 2, float(torch.exp(-away.detach()))


def build(recipe, data, seed):
    def evaluate(state):
        if state.round == recipe.dies:
            raise KeyboardInterrupt
        return {"measured": 1.0}

    return Federation(
        model=Weights,
        client=partial(client, recipe=recipe),
        data=lambda i: POINTS[i],
        partitions=[np.array([i]) for i in range(recipe.clients)],
        rounds=recipe.rounds,
        evaluate=evaluate,
        evaluate_every=recipe.every,
        objective=objective,
        distil=distil if recipe.own else None,
        weights="uniform",
    )
