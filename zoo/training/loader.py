"""What ``Run.batches`` gives to torch's loader: which items, and how each is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from zoo.seeds import derive_seed

Item = tuple[int, int, int]  # step, place in the batch, which of the items


class Items:
    """What a loader worker needs: the user's function and the seed, not the whole run."""

    def __init__(self, load: Callable[[int, np.random.Generator], Any], seed: int) -> None:
        self.load = load
        self.seed = seed

    def __getitem__(self, item: Item) -> Any:
        step, place, index = item
        return self.load(index, np.random.default_rng(derive_seed(self.seed, "item", step, place)))


class Order:
    """The batches of the steps from ``start`` to ``end``; ``pick`` says which items one has."""

    def __init__(self, pick: Callable[[int], list[Item]], start: int, end: int) -> None:
        self.pick = pick
        self.steps = range(start, end)

    def __iter__(self) -> Iterator[list[Item]]:
        return map(self.pick, self.steps)
