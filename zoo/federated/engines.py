"""``federate``: one federation on one of three engines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from zoo.errors import OptionError
from zoo.federated import flower
from zoo.federated.client import ZooClientApp
from zoo.federated.federation import Federation, Outcome, check
from zoo.federated.grid import LocalGrid
from zoo.federated.server import serve
from zoo.training import checkpoint
from zoo.training.run import derive_seed

if TYPE_CHECKING:
    from zoo.training import Run, TrainData

Build = Callable[[Any, "TrainData", int], Federation]


def federate(
    build: Build,
    recipe: Any,
    data: TrainData,
    run: Run,
    *,
    stage: str = "federated",
    arrays: Mapping[str, Any] | None = None,
) -> Outcome:
    """Train what ``build(recipe, data, seed)`` describes, as the stage ``stage`` of ``run``, on ``run.engine``.

    ``arrays``: weights to start from, a state dict; by default those of a new ``Federation.model()``. A killed run
    goes on after its last whole round, and equals one that wasn't killed.

    Raises ``OptionError`` and ``DataError`` for a federation that can't be trained, ``DataError`` when a round has too
    few usable answers, ``MissingExtraError`` without Flower.
    """
    with flower.quiet():
        run.stage(stage)
        federation = construct(build, recipe, data, run.seed)
        check(federation, data.train)
        if run.accelerator.num_processes > 1:
            raise OptionError("a federation runs in one process; start it without accelerate launch")
        start = arrays if arrays is not None else initial_arrays(federation, run.seed, stage)
        if run.engine == "local":
            states = None if run.out is None else run.out / "clients" / stage
            app = ZooClientApp(lambda: federation, run.seed, str(run.device), states)
            grid = LocalGrid(app, federation.clients, timeout=federation.timeout)
            return serve(federation, grid, run, stage, start)
        raise OptionError(f"engine {run.engine} isn't there")


def construct(build: Build, recipe: Any, data: TrainData, seed: int) -> Federation:
    """The same federation in every process, whatever random numbers were drawn there before."""
    checkpoint.seed_everything(derive_seed(seed, "federation"))
    return build(recipe, data, seed)


def initial_arrays(federation: Federation, seed: int, stage: str) -> Mapping[str, Any]:
    checkpoint.seed_everything(derive_seed(seed, "model", stage))
    return federation.model().state_dict()
