"""What an audit notes of a federation: round by round, and as a curve beside the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

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
