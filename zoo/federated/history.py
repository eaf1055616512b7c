"""What the server keeps of past rounds, for methods that go back to them, such as unlearning."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.errors import OptionError
from zoo.federated.contributions import Contributions, of_state, require_schemes
from zoo.federated.exchange import Tensors
from zoo.storage import remove_folder
from zoo.training import checkpoint

CONTRIBUTIONS, LAST = "contributions", "last"  # folders beside those of the rounds


@dataclass(frozen=True)
class HistoryPolicy:
    """Which rounds are kept: every ``every``-th, in ``dtype``, with the clients' own weights if ``clients``.

    Never more than ``max_bytes`` on the disk: when the next round wouldn't fit, the stride doubles and the rounds in
    between go, so that what remains still spans the whole training. Nothing of it stays in memory.

    ``schemes``: the ways to forget a client that the run shall allow (``zoo.federated.unlearning``); what they need of
    the clients' contributions is kept beside the rounds. Only IFU goes back to rounds between the first and the last.
    """

    every: int = 1
    clients: bool = False
    dtype: str = "float16"
    max_bytes: int = 2**30
    schemes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.every < 1 or self.max_bytes < 1:
            raise OptionError("a history keeps every 1st or later round, within at least one byte")
        if self.dtype not in ("float16", "float32", "float64"):
            raise OptionError(f"a history's dtype must be float16, float32 or float64, not {self.dtype!r}")
        require_schemes(self.schemes)

    @property
    def ends_only(self) -> bool:
        """Whether the first and the last round are all that is needed."""
        return bool(self.schemes) and "ifu" not in self.schemes and not self.clients


class History:
    """The kept rounds, on disk. Which ones those are depends on the number of rounds alone, not on kills between."""

    def __init__(self, policy: HistoryPolicy, folder: Path | None = None) -> None:
        self.policy = policy
        self._temporary = None if folder is not None else tempfile.TemporaryDirectory(prefix="zoo-history-")
        self.folder = folder if folder is not None else Path(self._temporary.name)  # type: ignore[union-attr]

    @property
    def rounds(self) -> list[int]:
        """The kept rounds in order; round 0 is the beginning."""
        return sorted(int(path.name) for path in self.folder.glob("[0-9]*"))

    def network(self, round_: int) -> Tensors:
        """The global weights at the end of a round."""
        return self._load(round_)["global"]

    def client(self, round_: int, client: int) -> Tensors:
        """What one client returned in a round. Raises ``KeyError`` if it returned nothing usable."""
        return self._load(round_)["clients"][client]

    def clients(self, round_: int) -> list[int]:
        """The clients whose weights are kept of a round."""
        return sorted(self._load(round_)["clients"])

    def contributions(self) -> Contributions:
        """What the clients added. Raises ``KeyError`` where none was kept."""
        if not (self.folder / CONTRIBUTIONS).is_dir():
            raise KeyError("no contributions are kept")
        return of_state(checkpoint.load(self.folder / CONTRIBUTIONS))

    def continued(self, federation: Any) -> Contributions:
        """Where a federation's account of its clients begins: anew, or after the rounds that it goes on from."""
        if federation.before:
            return self.contributions()
        names = [name for name, p in federation.model().named_parameters() if p.is_floating_point()]
        return Contributions(self.policy.schemes, max(federation.numbers) + 1, names)

    def conclude(self, contributions: Contributions, last: int, network: Tensors) -> None:
        """The end of a training: the account of its clients, and the last round, whole, as forgetting starts there."""
        checkpoint.save(self.folder / CONTRIBUTIONS, contributions.state_dict())
        checkpoint.save(self.folder / LAST, {"round": last, "global": network})

    def last(self) -> tuple[int, Tensors]:
        """The number of rounds, and the global weights after them. Raises ``KeyError`` where they weren't kept."""
        if not (self.folder / LAST).is_dir():
            raise KeyError("the last round isn't kept")
        state = checkpoint.load(self.folder / LAST)
        return state["round"], state["global"]

    def _load(self, round_: int) -> dict[str, Any]:
        if round_ not in self.rounds:
            raise KeyError(f"round {round_} isn't kept; kept are {self.rounds}")
        return checkpoint.load(self.folder / f"{round_:06d}")

    def add(self, round_: int, network: Tensors, clients: Mapping[int, Tensors], n: int) -> None:
        """Keep a round if the policy says so; ``n`` clients may report in one. Raises ``OptionError`` if none fits."""
        size = sum(self._stored(value).nbytes for value in network.values())
        size *= 1 + (n if self.policy.clients else 0)
        capacity = self.policy.max_bytes // max(size, 1)
        if capacity < 1:
            raise OptionError(f"one round takes {size} bytes, more than the history's {self.policy.max_bytes}")
        stride = self.policy.every if not self.policy.ends_only else max(round_, 1)
        while round_ // stride + 1 > capacity:  # rounds 0, stride, 2 stride, ...
            stride *= 2
        if round_ % stride == 0:
            kept = clients if self.policy.clients else {}
            state = {
                "global": {name: self._stored(value) for name, value in network.items()},
                "clients": {c: {name: self._stored(v) for name, v in got.items()} for c, got in kept.items()},
            }
            checkpoint.save(self.folder / f"{round_:06d}", state)
        for old in self.rounds:
            if old % stride or old > round_:  # later ones are from a run that was killed
                remove_folder(self.folder / f"{old:06d}")

    def _stored(self, value: Tensor) -> Tensor:
        return value.to(getattr(torch, self.policy.dtype)) if value.is_floating_point() else value
