"""Early stopping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from zoo.training.log import number


class EarlyStopping:
    """Watches one number, remembers when it was best and, if given, the module's weights at that moment.

    stopping = EarlyStopping(patience=5, module=net)    # net before or after it's tracked
    run.keep(stopping=stopping)                        # its memory survives a resume
    ...
    if stopping.update(dice):                          # True: not improved for `patience` updates
        run.stop()
    ...
    stopping.restore()                                 # the module as it was at its best
    """

    def __init__(
        self, patience: int, *, maximise: bool = True, min_delta: float = 0.0, module: torch.nn.Module | None = None
    ) -> None:
        self.patience = patience
        self.maximise = maximise
        self.min_delta = min_delta
        self.module = module
        self.best: float | None = None
        self.since_best = 0
        self._weights: dict[str, Any] | None = None

    def update(self, value: float) -> bool:
        """Note ``value``; whether it's time to stop. A NaN never counts as better."""
        value = number(value)
        gain = value - self.best if self.best is not None else np.inf
        if not self.maximise and self.best is not None:
            gain = -gain
        if gain > self.min_delta and not np.isnan(value):
            self.best, self.since_best = value, 0
            if self.module is not None:
                self._weights = {k: v.detach().clone() for k, v in self.module.state_dict().items()}
        else:
            self.since_best += 1
        return self.since_best >= self.patience

    def restore(self) -> None:
        """Put the best weights back into the module, if any were remembered."""
        if self.module is not None and self._weights is not None:
            self.module.load_state_dict(self._weights)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "since_best": self.since_best, "weights": self._weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best, self.since_best, self._weights = state["best"], state["since_best"], state["weights"]
