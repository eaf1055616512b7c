"""A federation on each of the three engines, for the tests of several papers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from zoo.data.splits import Split, TrainData
from zoo.federated import federate
from zoo.training import Run
from zoo.training.recipe import digest


def assert_alike_on_every_engine(
    build: Callable[..., Any], recipe: Any, parts: TrainData, model: str, data: str, split: Split, folder: Path,
    monkeypatch: pytest.MonkeyPatch, weights: Callable[[Any], Mapping[str, Tensor]] = lambda found: found.state_dict(),
) -> None:  # fmt: skip
    """The ``weights`` of the outcome, and its ledger, are the same in one process, in Flower's simulation and deployed.

    ``data`` and ``split`` are what ``parts`` were made of: clients in other processes make them again.
    """
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HOME", str(folder))
    source = {"data": data, "phantom": None, "split": asdict(split), "cases": digest(parts)}
    found = []
    for engine in ("local", "simulation", "deployment"):
        run = Run(folder / engine, device="cpu", progress=False, engine=engine, source=source,
                  identity={"model": model})  # fmt: skip
        found.append(federate(build, recipe, parts, run))
    for other in found[1:]:
        for name, value in weights(found[0]).items():
            torch.testing.assert_close(weights(other)[name], value, rtol=1e-4, atol=1e-5)
        assert found[0].ledger == other.ledger
