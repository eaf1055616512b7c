"""What an audit notes of a federation: round by round, and as a curve beside the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

POISONED = "-poisoned"


@dataclass(frozen=True)
class Curve:
    """AUC of a global model after every round, under one aggregator and attack; ``none`` is no attack."""

    aggregator: str
    attack: str
    auc: tuple[float, ...]
    stored: bool = False  # whether the weights hold the poisoned model that it ends in
    diverged: bool = False  # whether some round's global model gave numbers that aren't finite

    @property
    def weights_name(self) -> str:
        """Of the poisoned copy in the weights file."""
        return f"{self.attack}-{self.aggregator}{POISONED}"


@dataclass
class RoundRecord:
    """What one round showed. Distances are squared; NaN or empty where there is nothing to tell."""

    round: int
    loss: float  # mean over clients, of their own data
    spread: tuple[float, float, float]  # least, mean and largest distance of two honest clients
    distance: float = math.nan  # of the malicious vector to the mean of the controlled clients' honest updates
    threshold: float = math.nan
    feasible: bool = True
    picked: int | None = None  # Krum's choice, by client
    weights: tuple[float, ...] = ()  # DOS, by client
    excluded: tuple[int, ...] = ()  # clients whose update wasn't finite
    auc: float = math.nan
    accuracy: float = math.nan
    diverged: bool = False  # the global model gave numbers that aren't finite; its AUC then counts as 0.5


@dataclass
class Projection:
    """The updates of the last round in the plane of their two main directions, for a picture; the mean is the origin.

    ``radius`` is that of the threshold around the mean. A projection only shortens distances.
    """

    clients: list[int]
    sent: list[list[float]]
    controlled: list[int]
    honest: list[list[float]]  # what the controlled clients would have sent
    radius: float

    @classmethod
    def of(
        cls, sent: Float[Tensor, "n d"], honest: Float[Tensor, "f d"], clients: Sequence[int],
        controlled: Sequence[int], threshold: float,
    ) -> Projection:  # fmt: skip
        """Principal components of all updates, around the mean of what the controlled clients would have sent."""
        mean = honest.mean(0) if len(honest) else sent.mean(0)
        rows = torch.cat([sent, honest]) - mean
        values, vectors = torch.linalg.eigh(rows @ rows.T)  # few updates, many coordinates: the small Gram matrix
        places = vectors[:, -2:].flip(1) * values[-2:].flip(0).clamp_min(0).sqrt()
        points = places.tolist()
        radius = math.sqrt(threshold) if threshold >= 0 else math.nan
        return cls(list(clients), points[: len(sent)], list(controlled), points[len(sent) :], radius)
