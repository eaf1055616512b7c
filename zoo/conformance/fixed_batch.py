"""A training run that sees one batch again and again, to show that its steps lower the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, SupportsIndex

import numpy as np

from zoo.seeds import derive_seed
from zoo.training import Run


class FixedBatchRun(Run):
    """As ``Run``, but every step draws the same items, crops and noise, and no loop makes more than ``limit`` steps.

    A loop ends before that once two steps in a row lie below its first loss: it has shown what it is asked for.

    ``losses``: by stage, one number per step: the sum of what ``backward`` was given, or what was logged as a loss.
    """

    def __init__(self, *, limit: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.limit = limit
        self.losses: dict[str, list[float]] = {}
        self._backward: list[float] = []
        self._logged: list[float] = []

    def generator(self, *key: SupportsIndex | str) -> np.random.Generator:
        return super().generator(*(part if isinstance(part, str) else 0 for part in key))

    def _global_indices(self, n: int, batch_size: int, step: int, key: str) -> np.ndarray:
        return super()._global_indices(n, batch_size, 0, key)

    def steps(self, total: int, *, description: str | None = None) -> Iterator[int]:
        for step in super().steps(min(total, self.limit), description=description):
            self._seed_globally(self._stage, "fixed")
            self._backward, self._logged = [], []
            yield step
            if seen := self._backward or self._logged:
                curve = self.losses.setdefault(self._stage, [])
                curve.append(sum(seen))
                if len(curve) > 2 and max(curve[-2:]) < curve[0]:
                    self.stop()

    def batches(
        self,
        load: Callable[[int, np.random.Generator], Any],
        n: int,
        batch_size: int,
        steps: int,
        *,
        workers: int = 0,
        description: str | None = None,
    ) -> Iterator[tuple[int, Any]]:
        from accelerate.utils import send_to_device
        from torch.utils.data import default_collate

        picked = self._share(self._global_indices(n, batch_size, 0, "order"))
        for step in self.steps(steps, description=description):
            seeds = (derive_seed(self.seed, "item", 0, place) for place in range(len(picked)))
            items = [load(int(i), np.random.default_rng(seed)) for i, seed in zip(picked, seeds, strict=True)]
            yield step, send_to_device(default_collate(items), self.device)

    def backward(self, loss: Any) -> None:
        self._backward.append(float(loss.detach()))
        super().backward(loss)

    def log(self, **scalars: Any) -> None:
        self._logged += [float(value) for name, value in scalars.items() if "loss" in name]
        super().log(**scalars)
