"""``federate``: one federation on one of three engines."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from zoo.errors import OptionError
from zoo.federated import flower
from zoo.federated.app import client_app, facts_of
from zoo.federated.client import Clients
from zoo.federated.deployment import deploy, write_app
from zoo.federated.exchange import State, Tensors
from zoo.federated.federation import Build, Federation, Outcome, check, construct, initial_models
from zoo.federated.grid import LocalGrid
from zoo.federated.server import evaluated, serve
from zoo.training import Run, TrainData, checkpoint


def federate(
    build: Build,
    recipe: Any,
    data: TrainData,
    run: Run,
    *,
    stage: str = "federated",
    models: Mapping[str, Tensors] | None = None,
) -> Outcome:
    """Train what ``build(recipe, data, seed)`` describes, as the stage ``stage`` of ``run``, on ``run.engine``.

    A run with ``history`` keeps what later forgetting a client needs; one with ``forget`` trains without a client
    (``zoo.federated.retraining``). ``models``: what to start from, such as ``{"network": state_dict}``; by default what
    ``Federation.start`` says. A killed run goes on after its last whole round, and equals one that wasn't killed.

    Raises ``OptionError`` and ``DataError`` for a federation that can't be trained, ``DataError`` when a round has too
    few usable answers, ``MissingExtraError`` without Flower.
    """
    with flower.quiet():
        if run.forget is not None:
            build, recipe, models = run.forget.begin(build, recipe, data, run, stage, models)
        run.stage(stage)
        federation = construct(build, recipe, data, run.seed)
        if run.history is not None:
            federation = replace(federation, history=run.history)
        if models is not None and federation.remaining and not federation.rounds:  # the server has done it all alone
            state = State({name: dict(tensors) for name, tensors in models.items()})
            return Outcome(state, [{"round": 0.0, **evaluated(federation, state)}])
        check(federation, data.train)
        if run.accelerator.num_processes > 1:
            raise OptionError("a federation runs in one process; start it without accelerate launch")
        start = models if models is not None else initial_models(federation, run.seed, stage)
        if run.engine == "local" or run.finished(stage):
            states = None if run.out is None else run.out / "clients" / stage
            app = Clients(lambda: federation, run.seed, str(run.device), states)
            grid = LocalGrid(app, federation.clients, timeout=federation.timeout)
            return serve(federation, grid, run, stage, start)
        facts = facts_of(build, recipe, run, stage)
        if run.engine == "simulation":
            return _simulate(federation, facts, run, stage, start)
        assert run.out is not None
        if models is not None:
            facts["start"] = str((run.out / "start" / stage).resolve())
            checkpoint.save(facts["start"], dict(models))
        write_app(run.out / "app", facts, clients=federation.clients, rounds=federation.rounds)
        deploy(run.out, stage, federation.clients)
        # The server has left its end among the checkpoints, as a server of this process would have.
        return serve(federation, None, run, stage, start)


def _simulate(
    federation: Federation, facts: Mapping[str, Any], run: Run, stage: str, start: Mapping[str, Tensors]
) -> Outcome:
    """The rounds on Flower's simulation engine: the server in a thread here, the clients in processes of Ray's."""
    from flwr.serverapp import ServerApp
    from flwr.simulation import run_simulation

    outcome: list[Outcome] = []
    stop = threading.Event()
    server = ServerApp()

    @server.main()
    def main(grid: Any, context: Any) -> None:
        outcome.append(serve(federation, grid, run, stage, start, stop=stop))

    cores = os.cpu_count() or 1
    resources = {"num_cpus": 1, "num_gpus": 1.0 / federation.clients if run.device.type == "cuda" else 0.0}
    init: dict[str, Any] = {
        "num_cpus": min(cores, federation.clients),
        "include_dashboard": False,
        "log_to_driver": False,
    }
    backend: dict[str, Any] = {"client_resources": resources, "init_args": {**init, "logging_level": "ERROR"}}
    try:
        run_simulation(
            server,
            client_app(facts),
            num_supernodes=federation.clients,
            backend_config=backend,
        )
    finally:
        stop.set()
    if not outcome:
        raise KeyboardInterrupt(f"the simulation was stopped; resume it from {run.out}")
    return outcome[0]
