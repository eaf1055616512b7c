"""What each client added to a federated training, and no more of it than ways to forget a client need."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from zoo.errors import OptionError
from zoo.federated.exchange import Tensors, Update

NEEDS: dict[str, tuple[str, ...]] = {
    "scratch": (),
    "finetuning": (),
    "fedaccum": ("last", "sum"),
    "federaser": ("first",),
    "ukd": ("sum", "path"),
    "pga": ("last",),
    "ifu": ("coordinate",),
}
"""Schemes, and the vectors that each needs beside the rounds: one a client, but ``path``, which is one."""


def require_schemes(names: Sequence[str]) -> None:
    """Raises ``OptionError`` for a name that is no scheme."""
    for name in names:
        if name not in NEEDS:
            raise OptionError(f"there is no way to forget a client called {name!r}; known are {', '.join(NEEDS)}")


class Contributions:
    """Sums over the rounds of a training, by client; with it in the checkpoints a killed run goes on exactly.

    A vector holds the floating-point parameters ``names`` one after the other, in single precision. With theta^t the
    global model that round t starts from, and theta_i^t+1 what client i makes of it:

    - ``norms``: of each round ``[n k]``, the length of theta_i^t+1 - theta^t in each of the k tensors.
    - ``reach``: of each round ``[n]``, the largest entry of the sum so far of p/(1-p) times theta_i^t+1 - theta^t+1
      without its sign, which is how far the mean would move without the client (p: its share).
    - ``shares``: of each round ``[n]``, how much each client counted.
    - ``vectors``: ``first`` (theta_i^1 - theta^0), ``last`` (theta_i^T), ``sum`` (of all theta_i^t+1 - theta^t),
      ``coordinate`` (the sum behind ``reach``), each by client; ``path``: the sum of all theta^t, t below T.

    A client that gave no usable answer in a round added nothing in it.
    """

    def __init__(self, schemes: Sequence[str], clients: int, names: Sequence[str] = ()) -> None:
        self.clients, self.names = clients, tuple(names)
        self.schemes = tuple(schemes)
        self.norms: list[Tensor] = []
        self.reach: list[Tensor] = []
        self.shares: list[Tensor] = []
        self.vectors: dict[str, dict[int, Tensor]] = {need: {} for scheme in schemes for need in NEEDS[scheme]}

    @property
    def rounds(self) -> int:
        return len(self.shares)

    def vector(self, tensors: Mapping[str, Tensor]) -> Float[Tensor, " d"]:
        return torch.cat([tensors[name].float().flatten() for name in self.names])

    def add(self, before: Tensors, after: Tensors, updates: Sequence[Update], numbers: Sequence[int]) -> None:
        """Take in a round. ``numbers``: what the clients were called in the training that is continued."""
        norms = torch.zeros(self.clients, len(self.names), dtype=torch.float64)
        reach = self.reach[-1].clone() if self.reach else torch.zeros(self.clients, dtype=torch.float64)
        shares = torch.zeros(self.clients, dtype=torch.float64)
        total = sum(update.weight for update in updates)
        start, end = self.vector(before), self.vector(after)
        for update in updates:
            model, client = update.models.get("network"), numbers[update.client]
            if model is None:
                continue
            share = update.weight / total if total else 0.0
            shares[client] = share
            norms[client] = torch.stack([(model[n].double() - before[n].double()).norm() for n in self.names])
            local = self.vector(model)
            self._add("sum", client, local - start)
            if "first" in self.vectors and not self.rounds:
                self.vectors["first"][client] = local - start
            if "last" in self.vectors:
                self.vectors["last"][client] = local
            if "coordinate" in self.vectors:
                away = (local - end).abs() * (share / (1 - share) if share < 1 else math.inf)
                reach[client] = float(self._add("coordinate", client, away).max())
        if "path" in self.vectors:
            self._add("path", 0, start)
        self.norms.append(norms)
        self.reach.append(reach)
        self.shares.append(shares)

    def _add(self, name: str, client: int, value: Tensor) -> Tensor:
        if name not in self.vectors:
            return value
        mine = self.vectors[name]
        mine[client] = mine[client] + value if client in mine else value
        return mine[client]

    def lengths(self) -> Float[Tensor, "t n"]:
        """How long theta_i^t+1 - theta^t was, of each round and client."""
        return torch.stack([norms.norm(dim=1) for norms in self.norms])

    def until(self, rounds: int) -> Contributions:
        """Those of the first rounds, from which another training goes on.

        The sum behind ``reach`` is known at the end alone: it goes on from 0 and ``reach`` from where it was, which is
        no less than the true one, as the largest entry of a sum is no larger than the sum of the largest ones.
        """
        cut = Contributions(("ifu",), self.clients, self.names)
        cut.norms, cut.reach = self.norms[:rounds], self.reach[:rounds]
        cut.shares = self.shares[:rounds]
        if rounds:
            cut.vectors["coordinate"] = {
                client: torch.full((1,), float(self.reach[rounds - 1][client])) for client in range(self.clients)
            }
        return cut

    def state_dict(self) -> dict[str, Any]:
        return {
            "schemes": list(self.schemes), "clients": self.clients, "names": list(self.names), "norms": self.norms,
            "reach": self.reach, "shares": self.shares, "vectors": self.vectors,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.schemes, self.clients, self.names = tuple(state["schemes"]), state["clients"], tuple(state["names"])
        self.norms, self.reach, self.shares = list(state["norms"]), list(state["reach"]), list(state["shares"])
        self.vectors = {name: dict(mine) for name, mine in state["vectors"].items()}


def of_state(state: Mapping[str, Any]) -> Contributions:
    """The contributions that ``state_dict`` gave."""
    found = Contributions((), 0)
    found.load_state_dict(state)
    return found
